"""A program of this computer that carries an SSH connection, as ssh's ProxyCommand does."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Sequence

from bake.ssh.heartbeat import Line

# It may have something to say to its server; then it is made to end.
_END_S = 2.0


class ProxyLine(Line):
    """The program's stdin and stdout as a connection; closing it ends the program.

    OSError when it cannot be started.
    """

    def __init__(self, command: Sequence[str]) -> None:
        ours, theirs = socket.socketpair()
        self._words = tempfile.TemporaryFile()  # noqa: SIM115  (open as long as the program runs)
        with theirs:
            try:
                self._process = subprocess.Popen(
                    command,
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=self._words,
                    start_new_session=True,  # all of it, and no interrupt of the terminal's
                )
            except BaseException:
                ours.close()
                self._words.close()
                raise
        super().__init__(ours)
        self._ending = threading.Lock()
        self._complaint = ""

    def complaint(self) -> str:
        """The last line that it wrote to stderr, if it has failed by itself; else ""."""
        self.close()  # paramiko does, too, as soon as it hears nothing more
        return self._complaint

    def close(self) -> None:
        super().close()
        with self._ending:
            if not self._words.closed:
                self._complaint = self._end()
                self._words.close()

    def _end(self) -> str:
        """It, and what it has started: most programs end with their stdin."""
        status: int | None = None
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_S)
            if number == signal.SIGTERM:
                status = self._process.returncode
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
        self._process.wait()
        if not status:  # it was made to end, or has done so as it should
            return ""
        written = os.pread(self._words.fileno(), 64 * 1024, 0).decode(errors="replace")
        lines = [line.strip() for line in written.splitlines() if line.strip()]
        return lines[-1] if lines else f"it ended with status {status}"
