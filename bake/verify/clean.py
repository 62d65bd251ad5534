"""Whether anything is left on a machine that an image must not hold.

Looked for independently of the stage that takes it away, by a program of its own that names files
and never shows what is in them. What it looks for stands in `on_machine/clean.toml`.
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
from bake.verify.check import Check, Failed, Shell, ask
from bake.verify.diagnosis import unknown

PROGRAMS = files.on_machine("bake.verify")
PASSWORDS = "password"
SECRETS = "secrets by their pattern"
GIVEN = "secrets of the recipe"
TRACES = "traces of the builder"

_SHOWN = 30
_TIMEOUT_S = 1800
# The first bytes of stdin are the program, the rest is what it reads: the command line, which sudo
# logs and `ps` shows, holds none of it.
_COMMAND = (
    '$([ "$(id -u)" = 0 ] || echo sudo -n) python3 -c '
    "\"import sys; exec(compile(sys.stdin.buffer.read(%d), 'clean.py', 'exec'))\""
)
# A part of a secret that is found on a disk because it is that secret, and for no other reason.
_DISTINCT = re.compile(r"(?=.*[0-9])(?=.*[A-Za-z])[A-Za-z0-9+/_=-]{20,}")


@cache
def what_must_not_be() -> Mapping[str, Any]:
    """`places` by kind, and `patterns`, as in clean.toml."""
    return tomllib.loads((PROGRAMS / "clean.toml").read_text())


def check_clean(
    shell: Shell,
    *,
    allow_session: bool = False,
    booted: bool = False,
    traces: Iterable[str] = (),
    secrets: Mapping[str, str] | None = None,
    root: str = "/",
    started_at: float | None = None,
) -> tuple[Check, ...]:
    """Look for what must not be in an image, as root; VerificationError names every such file.

    `allow_session`: the logs that sshd and sudo write of an open session may be there. `booted`:
    the machine was started from the image, for the first time, and may have what was made since
    (host keys, machine id, its user's keys, logs …). `traces` are texts of the machine that the
    image was taken from, its public keys and its machine id say, which must be nowhere; `secrets`
    those of the recipe by name, which must be in no file that was written on this machine. `root`
    and `started_at` (in seconds since the epoch): for tests.
    """
    start = time.monotonic()
    traces, secrets = tuple(traces), secrets or {}
    order = {
        **what_must_not_be(),
        "root": root,
        "session": allow_session,
        "booted": booted,
        "started_at": started_at,
        "traces": traces,
        "secrets": _marks(secrets),
    }
    found, scanned = _look(shell, order, secrets)
    seconds = time.monotonic() - start
    checks = []
    kinds = (*what_must_not_be()["places"], PASSWORDS)
    for kind in (*kinds, SECRETS, GIVEN, TRACES):
        took = seconds if kind == SECRETS else 0.0  # one search, which takes its time to read files
        if paths := found.get(kind):
            checks.append(Check(kind, "failed", _shown(paths), took))
        elif kind == GIVEN and not secrets:
            checks.append(Check(kind, "skipped", "it has none", took))
        elif kind == TRACES and not traces:
            checks.append(Check(kind, "skipped", "none is known", took))
        else:
            detail = "none" if kind in kinds else f"none in {scanned} files"
            checks.append(Check(kind, "passed", detail, took))
    if failed := [check for check in checks if check.outcome == "failed"]:
        raise VerificationError(
            f"an image of this machine would hold {', '.join(check.name for check in failed)}",
            hint="Remove them in the stage that makes them, or in the stage seal.",
            details=[str(check) for check in failed],
        )
    return tuple(checks)


def find_secrets(
    shell: Shell, secrets: Mapping[str, str], *, since: float, root: str = "/"
) -> tuple[str, ...]:
    """Files that were written since and hold one of these, as "PATH (NAME)".

    Looked for in a file's first 64 MB and in its name; as the text is, and in the forms in which
    programs write it. VerificationError when the search does not come to its end.
    """
    order = {
        "places": {},
        "patterns": [],
        "root": root,
        "only": True,
        "secrets": _marks(secrets),
        "since": since,
    }
    found, _ = _look(shell, order, secrets)
    return tuple(found.get(GIVEN, ()))


def _marks(secrets: Mapping[str, str]) -> dict[str, list[str]]:
    """By what each is found on a disk: all of it, or a part that is nothing else."""
    marks = {}
    for name, value in secrets.items():
        texts = {value, value.strip(), *filter(_DISTINCT.fullmatch, parts(value))}
        forms = {form for text in texts for form in appearances(text)}
        marks[name] = [base64.b64encode(form).decode() for form in sorted(forms)]
    return marks


def _look(
    shell: Shell, order: Mapping[str, Any], secrets: Mapping[str, str]
) -> tuple[dict[str, list[str]], int]:
    program = (PROGRAMS / "clean.py").read_bytes()
    stdin = program + json.dumps(order).encode()
    redactor = Redactor(secrets.values())
    try:
        answer = ask(shell, _COMMAND % len(program), stdin=stdin, timeout_s=_TIMEOUT_S)
    except Failed as failure:
        raise VerificationError("the search for leftovers failed", details=[str(failure)]) from None
    try:
        *lines, last = (files.parse_json(line) for line in answer.stdout.splitlines())
        scanned = int(last["scanned"])
        found: dict[str, list[str]] = defaultdict(list)
        for line in lines:
            said, path = str(line["kind"]), str(line["path"])
            path = redactor.redact(path.encode(errors="backslashreplace").decode())
            kind, label = _sorted_into(said, path)
            found[kind].append(label)
    except (ValueError, LookupError, TypeError):
        # Its output may be cut off anywhere: without the last line, nothing is known.
        reason = unknown("the search", redactor.redact(answer.stderr), answer.exit_status)
        raise VerificationError(
            "the search for leftovers did not come to its end", details=[str(reason)]
        ) from None
    return found, scanned


def _sorted_into(said: str, path: str) -> tuple[str, str]:
    if said in what_must_not_be()["places"] or said == PASSWORDS:
        return said, path
    if said == "trace of the builder":
        return TRACES, path
    if said.startswith("secret "):
        return GIVEN, f"{path} ({said.removeprefix('secret ')})"
    return SECRETS, f"{path} ({said})"


def _shown(paths: list[str]) -> str:
    rest = len(paths) - _SHOWN
    return ", ".join(paths[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
