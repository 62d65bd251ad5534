"""The search for files that an image must not contain, such as keys, logs and secrets.

It is independent of the stage that removes them. A program on the machine names the files, and
never shows their content. `on_machine/clean.toml` lists the places and patterns of the search.
"""

from __future__ import annotations

import base64
import json
import re
import time
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from bake import files
from bake.console.redaction import Redactor, appearances, parts
from bake.errors import VerificationError
from bake.verify.check import Check, Failed, RootShell, run_command
from bake.verify.diagnosis import unknown

PROGRAMS = files.on_machine("bake.verify")
PASSWORDS = "password"
SECRETS = "secrets by their pattern"
GIVEN = "secrets of the recipe"
TRACES = "traces of the builder"

_SHOWN = 30
_TIMEOUT_S = 1800
# The first bytes of stdin are the program, the rest is its input. Neither is in the command line,
# which sudo logs and `ps` shows.
_LOADER = "import sys; exec(compile(sys.stdin.buffer.read(%d), 'clean.py', 'exec'))"
# The length of a part of a secret that is so distinct that a file can have it only from the secret.
_DISTINCT = re.compile(r"(?=.*[0-9])(?=.*[A-Za-z])[A-Za-z0-9+/_=-]{20,}")


@cache
def forbidden() -> Mapping[str, Any]:
    """Return the tables `places` (by kind) and `patterns` of clean.toml."""
    return tomllib.loads((PROGRAMS / "clean.toml").read_text())


def check_clean(
    shell: RootShell,
    *,
    allow_session: bool = False,
    booted: bool = False,
    traces: Iterable[str] = (),
    secrets: Mapping[str, str] | None = None,
    root: str = "/",
    started_at: float | None = None,
) -> tuple[Check, ...]:
    """Search a machine, as root, for files that an image must not contain.

    VerificationError names every such file. If `allow_session` is True, the logs that sshd and sudo
    write about an open session are allowed, and the state of an SSM agent that carries one: the
    seal removes them when the machine shuts down. `booted` is True if the machine was started from
    the image for the first time: files made since then are allowed (host keys, machine id, its
    user's keys, the keys with which DKMS signs, logs).

    `traces` are texts of the machine from which the image was made, such as its public keys and its
    machine id: no file may contain them. `secrets` maps the names of the recipe's secrets to their
    values: no file that was written on this machine may contain them. `root`, and `started_at` in
    seconds since the epoch, are for tests.
    """
    start = time.monotonic()
    traces, secrets = tuple(traces), secrets or {}
    request = {
        **forbidden(),
        "root": root,
        "session": allow_session,
        "booted": booted,
        "started_at": started_at,
        "traces": traces,
        "secrets": _marks(secrets),
    }
    found, scanned = _search(shell, request, secrets)
    seconds = time.monotonic() - start
    skipped = {} if secrets else {GIVEN: "the recipe has no secrets"}
    skipped |= {} if traces else {TRACES: "no traces are known"}
    checks = _checks(found, scanned, skipped, seconds)
    if failed := [check for check in checks if check.outcome == "failed"]:
        raise VerificationError(
            f"An image of this machine would contain {', '.join(check.name for check in failed)}",
            hint="Remove these files in the stage that creates them, or in the stage seal.",
            details=[str(check) for check in failed],
        )
    return checks


def _checks(
    found: Mapping[str, list[str]], scanned: int, skipped: Mapping[str, str], seconds: float
) -> tuple[Check, ...]:
    """Return one check per kind of file. `skipped` maps a kind to the reason for skipping it.

    One search covers all kinds; its time is counted for the kind that takes most of it.
    """
    places = (*forbidden()["places"], PASSWORDS)
    checks = []
    for kind in (*places, SECRETS, GIVEN, TRACES):
        kind_s = seconds if kind == SECRETS else 0.0
        if paths := found.get(kind):
            checks.append(Check(kind, "failed", _shorten(paths), kind_s))
        elif kind in skipped:
            checks.append(Check(kind, "skipped", skipped[kind], kind_s))
        else:
            detail = "none found" if kind in places else f"none found in {scanned} files"
            checks.append(Check(kind, "passed", detail, kind_s))
    return tuple(checks)


def find_secrets(
    shell: RootShell, secrets: Mapping[str, str], *, since: float, root: str = "/"
) -> tuple[str, ...]:
    """Return the files written since `since` that contain one of the secrets, as "PATH (NAME)".

    `since` is in seconds since the epoch. The first 64 MiB of a file and its name are searched, for
    the secret itself and for the forms in which programs write it. VerificationError if the search
    does not finish.
    """
    request = {
        "places": {},
        "patterns": [],
        "root": root,
        "only": True,
        "secrets": _marks(secrets),
        "since": since,
    }
    found, _ = _search(shell, request, secrets)
    return tuple(found.get(GIVEN, ()))


def _marks(secrets: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the texts, in base64, that reveal each secret: all of it, or a distinct part."""
    marks = {}
    for name, value in secrets.items():
        texts = {value, value.strip(), *filter(_DISTINCT.fullmatch, parts(value))}
        forms = {form for text in texts for form in appearances(text)}
        marks[name] = [base64.b64encode(form).decode() for form in sorted(forms)]
    return marks


def _search(
    shell: RootShell, request: Mapping[str, Any], secrets: Mapping[str, str]
) -> tuple[dict[str, list[str]], int]:
    """Run the program; return the files that it found, by kind, and how many files it read."""
    program = (PROGRAMS / "clean.py").read_bytes()
    stdin = program + json.dumps(request).encode()
    redactor = Redactor(secrets.values())
    try:
        command = shell.as_root("python3", "-c", _LOADER % len(program))
        output = run_command(shell, command, stdin=stdin, timeout_s=_TIMEOUT_S)
    except Failed as failure:
        raise VerificationError(
            "The search for leftover files failed", details=[str(failure)]
        ) from None
    try:
        *lines, last = (files.parse_json(line) for line in output.stdout.splitlines())
        scanned = int(last["scanned"])
        found: dict[str, list[str]] = defaultdict(list)
        for line in lines:
            label, path = str(line["kind"]), str(line["path"])
            path = redactor.redact(path.encode(errors="backslashreplace").decode())
            kind, text = _classify(label, path)
            found[kind].append(text)
    except (ValueError, LookupError, TypeError):
        # The output may be cut off anywhere: without its last line, nothing is proved.
        reason = unknown("the search", redactor.redact(output.stderr), output.exit_status)
        raise VerificationError(
            "The search for leftover files did not finish", details=[str(reason)]
        ) from None
    return found, scanned


def _classify(label: str, path: str) -> tuple[str, str]:
    """Return the kind of a file that the program labelled, and the text that names the file."""
    if label in forbidden()["places"] or label == PASSWORDS:
        return label, path
    if label == "trace of the builder":
        return TRACES, path
    if label.startswith("secret "):
        return GIVEN, f"{path} ({label.removeprefix('secret ')})"
    return SECRETS, f"{path} ({label})"


def _shorten(paths: list[str]) -> str:
    """Return a text with the first paths and the number of the others."""
    rest = len(paths) - _SHOWN
    return ", ".join(paths[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
