"""Whether anything is left on a machine that an image must not hold.

Looked for independently of the stage that takes it away, by a program of its own that names files
and never shows what is in them.
"""

from __future__ import annotations

import json
import shlex
import time
from collections import defaultdict
from collections.abc import Iterable

from bake.errors import VerificationError
from bake.verify.check import Check, Failed, ask
from bake.verify.diagnosis import unknown
from bake.verify.shell import Shell, script

KINDS = (
    "authorized keys",
    "host key",
    "machine id",
    "cloud-init",
    "power-off timer",
    "inputs of a stage",
    "credentials",
    "history",
    "log",
    "cache",
    "temporary",
)
SECRETS = "secrets by their pattern"
TRACES = "traces of the builder"

_SHOWN = 10
_TIMEOUT_S = 1800
# The first bytes of stdin are the program, the rest is what it reads: the command line, which sudo
# logs, holds none of it.
_LOADER = "import sys; exec(compile(sys.stdin.buffer.read(%d), 'clean.py', 'exec'))"


def check_clean(
    shell: Shell,
    *,
    allow_session: bool = False,
    booted: bool = False,
    traces: Iterable[str] = (),
    root: str = "/",
) -> tuple[Check, ...]:
    """Look for what must not be in an image, as root; VerificationError names every such file.

    `allow_session`: the logs that sshd and sudo write of an open session may be there. `booted`:
    the machine was started from the image, and may have what every boot makes anew (host keys,
    machine id, its user's keys, logs …). `traces` are texts of the machine that the image was
    taken from, its public keys and its machine id say, which must be nowhere. `root`: for tests.
    """
    start = time.monotonic()
    traces = tuple(traces)
    found, scanned = _look(shell, allow_session, booted, traces, root)
    seconds = time.monotonic() - start
    checks = []
    for kind in (*KINDS, SECRETS, TRACES):
        took = seconds if kind == SECRETS else 0.0  # one search, which takes its time to read files
        if paths := found.get(kind):
            checks.append(Check(kind, "failed", _shown(paths), took))
        elif booted and kind in KINDS[:5]:
            checks.append(Check(kind, "skipped", "a machine that was booted has its own", took))
        elif kind == TRACES and not traces:
            checks.append(Check(kind, "skipped", "none is known", took))
        else:
            detail = "none" if kind in KINDS else f"none in {scanned} files"
            checks.append(Check(kind, "passed", detail, took))
    if failed := [check for check in checks if check.outcome == "failed"]:
        raise VerificationError(
            f"an image of this machine would hold {', '.join(check.name for check in failed)}",
            hint="Remove them in the stage that makes them, or in the stage seal.",
            details=[str(check) for check in failed],
        )
    return tuple(checks)


def _look(
    shell: Shell, allow_session: bool, booted: bool, traces: tuple[str, ...], root: str
) -> tuple[dict[str, list[str]], int]:
    program = script("clean.py")
    command = ["python3", "-c", _LOADER % len(program), root]
    command += ["--session"] * allow_session + ["--booted"] * booted
    elevated = f'$([ "$(id -u)" = 0 ] || echo sudo -n) {shlex.join(command)}'
    stdin = program + "\n".join(traces).encode()
    try:
        answer = ask(shell, elevated, stdin=stdin, timeout_s=_TIMEOUT_S)
    except Failed as failure:
        raise VerificationError("the search for leftovers failed", details=[str(failure)]) from None
    try:
        *lines, last = (json.loads(line) for line in answer.stdout.splitlines())
        scanned = int(last["scanned"])
        found: dict[str, list[str]] = defaultdict(list)
        for line in lines:
            kind = line["kind"]
            if kind not in KINDS:
                kind = TRACES if kind == "trace of the builder" else SECRETS
            label = line["path"] if kind == line["kind"] else f"{line['path']} ({line['kind']})"
            found[kind].append(str(label).encode(errors="backslashreplace").decode())
    except (ValueError, LookupError, TypeError):
        # Its output may be cut off anywhere: without the last line, nothing is known.
        reason = unknown("the search", answer.stderr, answer.exit_status)
        raise VerificationError(
            "the search for leftovers did not come to its end", details=[str(reason)]
        ) from None
    return found, scanned


def _shown(paths: list[str]) -> str:
    rest = len(paths) - _SHOWN
    return ", ".join(paths[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
