"""Processes of this computer, as the tests see them."""

from __future__ import annotations

import time
from pathlib import Path


def has_ended(pid: int, within_s: float = 0.5) -> bool:
    """Whether a process has ended; its parent may still have to read its exit status.

    The kernel closes the files of a process a moment before it shows the process as ended.
    """
    deadline = time.monotonic() + within_s
    while _runs(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _runs(pid: int) -> bool:
    try:
        about = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return about.rpartition(")")[2].split()[0] != "Z"
