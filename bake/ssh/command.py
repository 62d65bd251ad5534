"""A command that runs on the machine: its streams and its end, over one SSH channel."""

from __future__ import annotations

import contextlib
import select
import threading
import time
from collections.abc import Iterator
from types import TracebackType

import paramiko

from bake import threads
from bake.errors import ConnectError

# What paramiko raises when a connection is, or becomes, unusable.
BROKEN: tuple[type[Exception], ...] = (paramiko.SSHException, EOFError, OSError)

_CHUNK = 256 * 1024
# Well below the two megabytes that sshd takes of a command's stdin before anybody reads it.
_SENT_AT_ONCE = 64 * 1024
# A wait may last no longer before it is asked whether it was called off.
SLICE_S = 0.25


class OverdueError(Exception):
    """The deadline has passed, and the command still runs."""


class RemoteCommand:
    """A command under way. `chunks` reads it, `exit_status` is its end, `close` gives it up.

    stdin that is long is fed by a thread of its own, so that a command that answers before it has
    read all of it does not block both sides. Waiting ends with Cancelled when this thread's work
    is called off; the command runs on.
    """

    def __init__(
        self, channel: paramiko.Channel, command: str, stdin: bytes, *, hold_stdin: bool = False
    ) -> None:
        self._channel = channel
        self._feeder: threading.Thread | None = None
        try:
            channel.exec_command(command)
        except BROKEN as error:
            channel.close()
            raise ConnectError(f"the connection broke as a command was started: {error}") from error
        if len(stdin) <= _SENT_AT_ONCE:
            self._feed(stdin, hold_stdin)
        else:
            self._feeder = threading.Thread(
                target=self._feed, args=(stdin, hold_stdin), name="ssh-stdin", daemon=True
            )
            self._feeder.start()

    def _feed(self, stdin: bytes, hold: bool) -> None:
        # The command may end without reading it all; that the connection broke, `chunks` sees.
        # In pieces, because paramiko copies the rest of what it is given for each packet.
        with contextlib.suppress(*BROKEN):
            for begin in range(0, len(stdin), _CHUNK):
                self._channel.sendall(stdin[begin : begin + _CHUNK])
            if not hold:
                self._channel.shutdown_write()

    def write(self, data: bytes) -> None:
        """Send more stdin, where it was held open; a broken connection is seen by `chunks`."""
        self._wait_until_fed()
        self._feed(data, hold=False)

    def _wait_until_fed(self) -> None:
        if self._feeder is not None:
            self._feeder.join()

    def chunks(self, *, deadline: float | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Yield what arrives as (stdout, stderr), until both have ended.

        `deadline` is on time.monotonic's clock; OverdueError when it passes.
        Ends without a word when the connection breaks: `exit_status` tells.
        """
        channel = self._channel
        poll = select.poll()
        poll.register(channel.fileno(), select.POLLIN)
        while True:
            threads.check()
            # Asked before reading: what arrives between the two is then read in the next round.
            ended = channel.eof_received or channel.closed
            stdout = channel.recv(_CHUNK) if channel.recv_ready() else b""
            stderr = channel.recv_stderr(_CHUNK) if channel.recv_stderr_ready() else b""
            if stdout or stderr:
                yield stdout, stderr
            elif ended:
                return
            else:
                poll.poll(_slice_s(deadline) * 1000)

    def exit_status(self, *, deadline: float | None = None) -> int:
        """The exit status, once `chunks` has ended; -1 when a signal ended the command.

        ConnectError when the connection broke before the status and both streams had arrived:
        then nothing is known about the command.
        """
        channel = self._channel
        while not channel.status_event.wait(_slice_s(deadline)):
            threads.check()
        status: int = channel.recv_exit_status()
        transport = channel.get_transport()
        if not channel.eof_received or (status == -1 and not transport.is_active()):
            reason = transport.get_exception() or "closed"
            raise ConnectError(f"the connection broke while a command ran: {reason}")
        return status

    def close(self) -> None:
        with contextlib.suppress(*BROKEN):
            self._channel.close()
        self._wait_until_fed()

    def __enter__(self) -> RemoteCommand:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _slice_s(deadline: float | None) -> float:
    if deadline is None:
        return SLICE_S
    left = deadline - time.monotonic()
    if left <= 0:
        raise OverdueError
    return min(left, SLICE_S)
