"""The holder of a lease, as stored in the lease's parameter: a run and its process."""

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
    """A run that holds or requests a lease. `token` identifies one attempt to get the lease."""

    token: str
    run: str
    recipe: str
    host: str
    since: str
    process: str

    def __str__(self) -> str:
        if not self.run:
            return "a run whose lease cannot be read"
        return f"run {self.run} (recipe {self.recipe}) on {self.host}, since {self.since}"

    def has_ended(self) -> bool:
        """Return whether its process has ended; only known for a process of this computer."""
        return _has_ended(self.process)

    def with_new_token(self) -> Holder:
        return replace(self, token=secrets.token_hex(8))

    def encode(self, renewals: int) -> str:
        """Return the value of the lease's parameter."""
        return parameter.encode({**asdict(self), "renewals": renewals})


def this_process(run: Run, now: datetime) -> Holder:
    """Return a holder for a run of this process, with a new token."""
    return Holder(
        token=secrets.token_hex(8),
        run=run.id,
        recipe=run.recipe,
        host=platform.node(),
        since=rfc3339(now),
        process=_this_process(),
    )


def read(value: str) -> Holder:
    """Return the holder that `encode` wrote; all fields are empty if the value is invalid."""
    document = parameter.decode(value)
    return Holder(**{field.name: str(document.get(field.name, "")) for field in fields(Holder)})


def _this_process() -> str:
    """Return boot id, pid namespace, pid and start time; "" without a readable /proc (proc(5))."""
    pid = os.getpid()
    try:
        return f"{_pid_space()} {pid} {_stat(pid)[1]}"
    except OSError:
        return ""


def _has_ended(process: str) -> bool:
    try:
        pid_space, pid, started = process.rsplit(" ", 2)
        if pid_space != _pid_space():
            return False
        os.kill(int(pid), 0)  # works even where /proc hides the processes of other users
        state, start = _stat(int(pid))
    except ProcessLookupError:
        return True
    except (OSError, ValueError, OverflowError):
        return False
    return state in "ZX" or start != started


def _pid_space() -> str:
    """Return what a pid belongs to: the boot and the pid namespace."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"


def _stat(pid: int) -> tuple[str, str]:
    """Return a process's state, and its start time in clock ticks since boot."""
    values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return values[0], values[19]
