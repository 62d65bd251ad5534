"""Hold a machine while its disk is copied: its keys are removed from the disk, which is flushed.

`hold.sh` is the program that runs on the machine.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from functools import cache

from bake import threads
from bake.errors import RemoteError
from bake.files import on_machine
from bake.ssh.boot_id import with_boot_id
from bake.ssh.command import OverdueError, RemoteCommand
from bake.ssh.connection import Connection

# The machine restores everything by itself when it is not released for this long.
HELD_FOR_S = 120
# Time for cloud-init to finish, for another hold to end, and for gigabytes to be flushed.
_BEGIN_S = 600.0
_END_S = 60.0


@contextlib.contextmanager
def hold(connection: Connection) -> Iterator[None]:
    """Keep the machine's secrets off its disk while a snapshot is made in the block.

    The secrets are login keys, host keys, the keys with which DKMS and fwupd sign, user data and
    the machine id. A machine that is started from such a snapshot is at its first boot. The
    connection stays open, but no new one can be made during the block. No stage may run.

    Raises RemoteError if the machine could not be held. Raises it at the end, too, if the machine
    was not held all the time (the connection broke, or HELD_FOR_S was over): the machine has then
    restored everything by itself, and a snapshot taken in the block must be deleted. An exception
    from within the block passes unchanged, after everything was restored. A machine that was
    rebooted since its stages ran is not held, because their files may not be on its disk.
    """
    command = connection.as_root(
        *("bash", "--norc", "-c", _program(), "bake", str(HELD_FOR_S), connection.boot_id())
    )
    with connection.start(command, hold_stdin=True) as machine:
        output = _Output(machine)
        try:
            if not output.wait_until_printed("held", _BEGIN_S):
                raise RemoteError(
                    f"{connection} could not be held still",
                    hint="Its keys are on its disk: they were not removed, or they are restored.",
                    details=output.errors,
                )
            yield
        except BaseException:
            with threads.held_back(), contextlib.suppress(RemoteError):
                _release(machine, output)
            raise
        with threads.held_back():
            released = _release(machine, output)
        if not released:
            raise RemoteError(
                f"{connection} was not held still to the end",
                hint="A snapshot taken meanwhile may contain its keys and has to be deleted.",
                details=output.errors,
            )


def _release(machine: RemoteCommand, output: _Output) -> bool:
    """Return True when the machine was held until now and has restored everything."""
    machine.write(b"release\n")
    return output.wait_until_printed("released", _END_S)


class _Output:
    """The output of `hold.sh`: one word a line on stdout, error messages on stderr."""

    def __init__(self, machine: RemoteCommand) -> None:
        self._machine = machine
        self._stdout, self._stderr = bytearray(), bytearray()

    @property
    def errors(self) -> list[str]:
        return self._stderr.decode(errors="replace").splitlines()

    def wait_until_printed(self, word: str, timeout_s: float) -> bool:
        """Return False when the command ends, the connection breaks or `timeout_s` is over."""
        with contextlib.suppress(OverdueError):
            for stdout, stderr in self._machine.chunks(deadline=time.monotonic() + timeout_s):
                self._stdout += stdout
                self._stderr += stderr
                if word in self._stdout.decode(errors="replace").split("\n")[:-1]:
                    return True
        return False


@cache
def _program() -> str:
    return with_boot_id((on_machine("bake.ssh") / "hold.sh").read_text())
