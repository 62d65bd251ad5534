"""A program of this computer that carries an SSH connection, as ssh's ProxyCommand does."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
from collections.abc import Sequence

from bake.remote.heartbeat import Line

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

    def complaint(self) -> str:
        """The last line that it wrote to stderr, if it has failed; else ""."""
        try:
            status = self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            return ""
        if status == 0 or self._words.closed:
            return ""
        written = os.pread(self._words.fileno(), 64 * 1024, 0).decode(errors="replace")
        lines = [line.strip() for line in written.splitlines() if line.strip()]
        return lines[-1] if lines else f"it ended with status {status}"

    def close(self) -> None:
        super().close()
        if not self._words.closed:
            self._words.close()
            self._end()

    def _end(self) -> None:
        """It, and what it has started: most programs end with their stdin."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_END_S)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
        self._process.wait()
