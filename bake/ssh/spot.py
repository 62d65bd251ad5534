"""EC2's notice that it will take a spot machine away, heard on the machine itself.

Nobody but the machine is told in time without setting up an event bus: so it is asked there, over
the connection that there is anyway. The machine's side is `spot_watcher.py`.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from functools import cache

from bake import files
from bake.errors import ConnectError, RemoteError
from bake.files import on_machine
from bake.ssh.connection import Connection


@dataclass(frozen=True)
class Notice:
    """What will happen (terminate, stop, hibernate), when by EC2's clock, and how soon that is."""

    action: str
    time: str  # as EC2 wrote it
    left_s: float


def wait_for_notice(connection: Connection) -> Notice:
    """For as long as it takes; cancelled when this thread's work is called off.

    ConnectError when the connection breaks, or the machine shuts down; RemoteError when it cannot
    listen.
    """
    command = shlex.join(["/usr/bin/python3", "-I", "-c", _machine_side()])
    stdout, stderr = bytearray(), bytearray()
    with connection.start(command, hold_stdin=True) as watcher:
        for out, err in watcher.chunks():
            stdout += out
            stderr += err
        if watcher.exit_status() == -1:  # as everything that runs when the machine is rebooted
            raise ConnectError(f"{connection} has ended what listened for the market's notice")
    try:
        said = files.read(stdout.decode(errors="replace"))
        return Notice(str(said["action"]), str(said["time"]), float(said["left_s"]))
    except (ValueError, TypeError, KeyError):
        raise RemoteError(
            f"{connection} cannot listen for the market's notice",
            details=stderr.decode(errors="replace").splitlines(),
        ) from None


@cache
def _machine_side() -> str:
    return (on_machine("bake.ssh") / "spot_watcher.py").read_text()
