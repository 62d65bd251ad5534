"""Wait for EC2's notice that a spot machine will be interrupted.

Without an event bus in the account, only the machine's own metadata service reports it in time. So
`spot_watcher.py` runs on the machine and reads it there, over the existing SSH connection.
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
    """EC2's notice of an interruption."""

    action: str  # terminate, stop or hibernate
    time: str  # of EC2's clock, in EC2's format
    left_s: float


def wait_for_notice(connection: Connection) -> Notice:
    """Wait for the notice, without a time limit, and return it.

    Raises Cancelled when this thread's work is called off, ConnectError when the connection breaks
    or the machine shuts down, RemoteError when the machine cannot read the notice.
    """
    command = shlex.join(["/usr/bin/python3", "-I", "-c", _program()])
    stdout, stderr = bytearray(), bytearray()
    with connection.start(command, hold_stdin=True) as watcher:
        for out, err in watcher.chunks():
            stdout += out
            stderr += err
        if watcher.exit_status() == -1:  # a machine that shuts down ends all programs by a signal
            raise ConnectError(f"{connection} ended the program that waits for a spot notice")
    try:
        notice = files.parse_json(stdout.decode(errors="replace"))
        return Notice(str(notice["action"]), str(notice["time"]), float(notice["left_s"]))
    except (ValueError, TypeError, KeyError):
        raise RemoteError(
            f"{connection} cannot read the spot market's notice",
            details=stderr.decode(errors="replace").splitlines(),
        ) from None


@cache
def _program() -> str:
    return (on_machine("bake.ssh") / "spot_watcher.py").read_text()
