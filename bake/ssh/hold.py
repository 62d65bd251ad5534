"""Holding a machine still while its disk is copied: without its keys on it, and flushed.

The machine's side is `hold.sh`.
"""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Iterator
from functools import cache

from bake import threads
from bake.errors import RemoteError
from bake.files import on_machine
from bake.ssh.command import OverdueError, RemoteCommand
from bake.ssh.connection import Connection

# After so long without a word from us the machine puts everything back by itself.
HELD_FOR_S = 120
# cloud-init's last minute, another hold's end, and gigabytes to flush.
_BEGIN_S = 600.0
_END_S = 60.0


@contextlib.contextmanager
def hold(connection: Connection) -> Iterator[None]:
    """Within this context, a snapshot of the machine's disk holds nothing by which one could log
    in to this machine or pass for it: login keys, host keys, user data, machine id.

    A machine that is started from such a snapshot is at its first boot. The connection stands;
    a new one cannot be made meanwhile. No stage may run.

    RemoteError when the machine could not be held, and on leaving when it was not held to the end:
    the connection broke, or it took more than HELD_FOR_S. The machine has then put everything back
    by itself, and a snapshot taken meanwhile has to be deleted. An exception from within comes
    out as it is, with everything back too. A machine that was rebooted since its stages ran is not
    held: what they have written need not be on its disk.
    """
    sudo = [] if connection.user == "root" else ["sudo", "-n"]
    told = [str(HELD_FOR_S), connection.boot_id()]
    command = [*sudo, "bash", "--norc", "-c", _machine_side(), "bake", *told]
    with connection.start(shlex.join(command), hold_stdin=True) as machine:
        said = _Said(machine)
        try:
            if not said.hears("held", _BEGIN_S):
                raise RemoteError(
                    f"{connection} could not be held still",
                    hint="Nothing was taken from it, or it is back.",
                    details=said.complaints,
                )
            yield
        except BaseException:
            with threads.held_back(), contextlib.suppress(RemoteError):
                _release(machine, said)
            raise
        with threads.held_back():
            released = _release(machine, said)
        if not released:
            raise RemoteError(
                f"{connection} was not held still to the end",
                hint="A snapshot that was taken meanwhile may hold its keys: it has to be deleted.",
                details=said.complaints,
            )


def _release(machine: RemoteCommand, said: _Said) -> bool:
    """Whether it was held until now, and has everything back."""
    machine.write(b"release\n")
    return said.hears("released", _END_S)


class _Said:
    """What the machine says, a word a line; what is on its stderr is complaints."""

    def __init__(self, machine: RemoteCommand) -> None:
        self._machine = machine
        self._stdout, self._stderr = bytearray(), bytearray()

    @property
    def complaints(self) -> list[str]:
        return self._stderr.decode(errors="replace").splitlines()

    def hears(self, word: str, timeout_s: float) -> bool:
        """False when the command has ended, the connection is broken, or the time is over."""
        with contextlib.suppress(OverdueError):
            for stdout, stderr in self._machine.chunks(deadline=time.monotonic() + timeout_s):
                self._stdout += stdout
                self._stderr += stderr
                if word in self._stdout.decode(errors="replace").split("\n")[:-1]:
                    return True
        return False


@cache
def _machine_side() -> str:
    return (on_machine("bake.ssh") / "hold.sh").read_text()
