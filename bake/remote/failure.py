"""Why a stage failed, and what to do about it, from its status and its last lines."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from pathlib import Path

from bake.errors import StageError

_DIAGNOSES = (
    (
        re.compile(r"No space left on device|Disk quota exceeded", re.IGNORECASE),
        "The machine's disk is full: raise disk_gb under [builder] in the recipe.",
    ),
    (
        re.compile(
            r"Could not get lock|Unable to acquire the dpkg|Unable to lock|dpkg frontend lock"
        ),
        "Another process on the machine holds apt's lock: unattended upgrades after the first "
        "boot, or a stage that does not wait for it.",
    ),
    (
        re.compile(
            r"Could not resolve|name resolution|Name or service not known|Connection timed out"
            r"|Connection refused|Network is unreachable|No route to host|Failed to connect"
        ),
        "The machine did not reach a server: look at the subnet's route to the internet, a proxy, "
        "or [mirrors] in the recipe.",
    ),
)
_OUT_OF_MEMORY = "Something on the machine killed it; when memory runs out, the kernel does so."


def stage_failure(
    name: str, status: str, *, last_lines: Sequence[str], log: Path, limit_s: int
) -> StageError:
    """The error for a stage that ended with `status`: a number, "timeout", or "lost"."""
    match status:
        case "timeout":
            message = f"stage {name} did not end within {limit_s} s, and was ended"
        case "lost":
            message = f"stage {name} was killed together with its supervisor: it has no exit status"
        case _:
            message = f"stage {name} ended with status {status}{_signal_name(int(status))}"
    hints = [hint for pattern, hint in _DIAGNOSES if any(map(pattern.search, last_lines))][:1]
    if not hints and status in ("lost", "137"):
        hints = [_OUT_OF_MEMORY]
    return StageError(message, hint=" ".join([*hints, f"The whole log: {log}"]), details=last_lines)


def _signal_name(status: int) -> str:
    """A shell reports a signal as 128 + its number."""
    try:
        return f" ({signal.Signals(status - 128).name})"
    except ValueError:
        return ""
