"""Who holds a lease, as its parameter says it: a run, and the process that does its work."""

from __future__ import annotations

import os
import platform
import secrets
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from pathlib import Path

from bake.aws import parameter
from bake.aws.tags import Run, rfc3339


@dataclass(frozen=True)
class Holder:
    """`token` is of one attempt to get a lease."""

    token: str
    run: str
    recipe: str
    host: str
    since: str
    process: str

    def __str__(self) -> str:
        if not self.run:
            return "somebody whose note cannot be read"
        return f"run {self.run} (recipe {self.recipe}) on {self.host}, since {self.since}"

    def has_ended(self) -> bool:
        """Whether its process is known to have ended: only if it was one of this computer's."""
        return _has_ended(self.process)

    def again(self) -> Holder:
        return replace(self, token=secrets.token_hex(8))

    def note(self, renewals: int) -> str:
        return parameter.encode({**asdict(self), "renewals": renewals})


def this_process(run: Run, now: datetime) -> Holder:
    return Holder(
        token=secrets.token_hex(8),
        run=run.id,
        recipe=run.recipe,
        host=platform.node(),
        since=rfc3339(now),
        process=_this_process(),
    )


def read(note: str) -> Holder:
    """What `note` wrote; nobody known where a hand has made something else of it."""
    document = parameter.decode(note)
    return Holder(**{field.name: str(document.get(field.name, "")) for field in fields(Holder)})


def _this_process() -> str:
    """Boot, pid namespace, pid and start; empty where the system does not tell (proc(5))."""
    pid = os.getpid()
    try:
        return f"{_here()} {pid} {_stat(pid)[1]}"
    except OSError:
        return ""


def _has_ended(process: str) -> bool:
    try:
        here, pid, started = process.rsplit(" ", 2)
        if here != _here():
            return False
        os.kill(int(pid), 0)  # in this namespace, also where /proc hides other people's processes
        state, start = _stat(int(pid))
    except ProcessLookupError:
        return True
    except (OSError, ValueError, OverflowError):
        return False
    return state in "ZX" or start != started


def _here() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"


def _stat(pid: int) -> tuple[str, str]:
    """The state, and the start in clock ticks since boot."""
    values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return values[0], values[19]
