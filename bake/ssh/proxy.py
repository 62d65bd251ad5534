"""A program on this computer that carries an SSH connection, as ssh's ProxyCommand does."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence

from bake.ssh.heartbeat import Line

# The time that the program has to end its session on its server before it is killed.
_END_S = 2.0
_KEPT_B = 64 * 1024


class ProxyLine(Line):
    """A connection over a program's stdin and stdout; closing it ends the program.

    OSError when the program cannot be started.
    """

    def __init__(self, command: Sequence[str]) -> None:
        near_end, far_end = socket.socketpair()
        with far_end:
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=far_end.fileno(),
                    stdout=far_end.fileno(),
                    stderr=subprocess.PIPE,
                    # A process group that can be killed, and that the terminal's Ctrl-C misses.
                    start_new_session=True,
                )
            except BaseException:
                near_end.close()
                raise
        super().__init__(near_end)
        self._stderr = b""
        # The processes that the program starts inherit its stderr: this thread ends with the last
        # of them.
        self._reader = threading.Thread(target=self._read_stderr, name="ssh-proxy", daemon=True)
        self._reader.start()
        self._ending = threading.Lock()
        self._ended = False
        self._failure = ""

    def failure(self) -> str:
        """End the program; return the last line of its stderr if it failed by itself, else ""."""
        self.close()  # paramiko does so too, as soon as it receives no more
        return self._failure

    def close(self) -> None:
        """End the program and all that it has started, also when another thread is closing it."""
        super().close()
        with self._ending:
            if not self._ended:
                self._failure = self._end()
                self._ended = True

    def _read_stderr(self) -> None:
        assert self._process.stderr is not None  # noqa: S101  (it is a pipe)
        with self._process.stderr as pipe:
            while data := os.read(pipe.fileno(), _KEPT_B):
                self._stderr = (self._stderr + data)[-_KEPT_B:]

    def _end(self) -> str:
        """Most programs end with their stdin; the rest, and what they have started, is killed."""
        self._wait_until_ended()
        status = self._process.poll()
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            self._wait_until_ended()
        self._process.wait()
        if not status:  # it has ended without an error, or only because of the signal
            return ""
        lines = [line.strip() for line in self._stderr.decode(errors="replace").splitlines()]
        return next((line for line in reversed(lines) if line), f"it ended with status {status}")

    def _wait_until_ended(self) -> None:
        """Wait for _END_S at most until the program and all that it has started have ended."""
        deadline = time.monotonic() + _END_S
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
        self._reader.join(max(0.0, deadline - time.monotonic()))
