"""A command that runs on the machine: its streams and its exit status, over one SSH channel."""

from __future__ import annotations

import contextlib
import select
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType

import paramiko

from bake import threads
from bake.errors import ConnectError

# What paramiko raises when a connection is, or becomes, unusable.
BROKEN: tuple[type[Exception], ...] = (paramiko.SSHException, EOFError, OSError)

_CHUNK = 256 * 1024
# Well below the 2 MB of a command's stdin that sshd buffers before the command reads it.
_SENT_AT_ONCE = 64 * 1024
# The longest wait before the next check whether this thread's work was called off.
SLICE_S = 0.25


class OverdueError(Exception):
    """The deadline has passed before the command has ended, or before it could be started."""


class RemoteCommand:
    """A running command. `chunks` reads its output, `exit_status` waits for its end.

    A long stdin is written by a thread of its own. Otherwise a command that prints before it has
    read all of stdin could block both sides. Waiting raises Cancelled when this thread's work is
    called off; the command itself continues. `close` stops following it and calls `on_close`.
    """

    def __init__(
        self,
        channel: paramiko.Channel,
        command: str,
        stdin: bytes,
        *,
        hold_stdin: bool = False,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self._channel = channel
        self._on_close = on_close
        self._feeder: threading.Thread | None = None
        try:
            channel.exec_command(command)
        except BROKEN as error:
            self.close()
            raise ConnectError(f"the connection broke as a command was started: {error}") from error
        except BaseException:
            self.close()
            raise
        if len(stdin) <= _SENT_AT_ONCE:
            self._feed(stdin, hold_stdin)
        else:
            self._feeder = threading.Thread(
                target=self._feed, args=(stdin, hold_stdin), name="ssh-stdin", daemon=True
            )
            self._feeder.start()

    def _feed(self, stdin: bytes, hold: bool) -> None:
        # A command may end without reading all of it; `chunks` notices a broken connection.
        # In pieces, because paramiko copies all remaining data for each packet.
        with contextlib.suppress(*BROKEN):
            for begin in range(0, len(stdin), _CHUNK):
                self._channel.sendall(stdin[begin : begin + _CHUNK])
            if not hold:
                self._channel.shutdown_write()

    def write(self, data: bytes) -> None:
        """Send `data` and end stdin, which was held open. This has no effect if stdin has ended.

        Does not raise when the connection is broken: `exit_status` does.
        """
        self._wait_until_fed()
        if not self._channel.eof_sent:  # paramiko's sendall would repeat for ever
            self._feed(data, hold=False)

    def _wait_until_fed(self) -> None:
        if self._feeder is not None:
            self._feeder.join()

    def chunks(self, *, deadline: float | None = None) -> Iterator[tuple[bytes, bytes]]:
        """Yield the output as it arrives, as (stdout, stderr), until both streams have ended.

        Raises OverdueError when `deadline` (of time.monotonic) passes. Also ends when the
        connection breaks: `exit_status` then raises ConnectError.
        """
        channel = self._channel
        poll = select.poll()
        poll.register(channel.fileno(), select.POLLIN)
        while True:
            threads.check()
            # Looked at before reading: data that arrives in between is read in the next round.
            ended = channel.eof_received or channel.closed
            stdout = channel.recv(_CHUNK) if channel.recv_ready() else b""
            stderr = channel.recv_stderr(_CHUNK) if channel.recv_stderr_ready() else b""
            if stdout or stderr:
                yield stdout, stderr
            elif ended:
                return
            else:
                poll.poll(slice_s(deadline) * 1000)

    def exit_status(self, *, deadline: float | None = None) -> int:
        """Wait for the exit status, after `chunks` has ended; -1 when a signal ended the command.

        Raises ConnectError when the connection broke before the status and both streams had
        arrived: nothing is then known about the command.
        """
        channel = self._channel
        while not channel.status_event.wait(slice_s(deadline)):
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
        self._on_close()

    def __enter__(self) -> RemoteCommand:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def slice_s(deadline: float | None) -> float:
    """Return how long to wait before the next check; OverdueError when `deadline` has passed."""
    if deadline is None:
        return SLICE_S
    left = deadline - time.monotonic()
    if left <= 0:
        raise OverdueError
    return min(left, SLICE_S)
