"""The error for a failed stage: its cause and a hint, from the exit status and the last lines."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from pathlib import Path

from bake.errors import StageError

_DIAGNOSES = (
    (
        re.compile(r"^sudo: .*password|not in the sudoers|may not run sudo"),
        "The login user must be allowed to use sudo without a password.",
    ),
    (
        re.compile(r"No space left on device|Disk quota exceeded", re.IGNORECASE),
        "The machine's disk is full: increase disk_gb under [builder] in the recipe.",
    ),
    (
        re.compile(
            r"Could not get lock|Unable to acquire the dpkg|Unable to lock|dpkg frontend lock"
        ),
        "Another process on the machine holds apt's lock: unattended upgrades after the first "
        "boot, or another stage that uses apt without waiting for the lock.",
    ),
    (
        re.compile(
            r"Could not resolve|name resolution|Name or service not known|Connection timed out"
            r"|Connection refused|Network is unreachable|No route to host|Failed to connect"
        ),
        "The machine did not reach a server: check the subnet's route to the internet, a proxy, "
        "and [mirrors] in the recipe.",
    ),
)
_OUT_OF_MEMORY = "A process was killed on the machine; the kernel does this when memory runs out."


def stage_failure(
    name: str, status: str, *, last_lines: Sequence[str], log: Path, limit_s: int
) -> StageError:
    """Return the error for a stage that ended with `status`: a number, "timeout" or "lost"."""
    match status:
        case "timeout":
            message = f"stage {name} did not end within {limit_s} s, and was ended"
        case "lost":
            message = f"stage {name} was killed together with its supervisor: it has no exit status"
        case _:
            message = f"stage {name} ended with status {status}{_signal_name(int(status))}"
    cause = _cause(last_lines) or (_OUT_OF_MEMORY if status in ("lost", "137") else "")
    return StageError(message, hint=f"{cause} The complete log: {log}".strip(), details=last_lines)


def start_failure(name: str, status: int, errors: Sequence[str]) -> StageError:
    """Return the error for a stage that could not be started on the machine."""
    return StageError(
        f"stage {name} could not be started (status {status})",
        hint=_cause(errors),
        details=errors,
    )


def _cause(lines: Sequence[str]) -> str:
    return next((hint for pattern, hint in _DIAGNOSES if any(map(pattern.search, lines))), "")


def _signal_name(status: int) -> str:
    """Return ` (SIGTERM)` for 143: a shell reports a signal as 128 + its number."""
    try:
        return f" ({signal.Signals(status - 128).name})"
    except ValueError:
        return ""
