"""Signs of life of SSH connections: asked for where all is quiet, and the end of what stays silent.

Paramiko's own keepalive asks for no answer, and most of its waits know no timeout: without this,
a connection that has gone silent would be waited for for ever. Each connection asks in the thread
in which paramiko reads it, so that none waits for another; one thread for all looks at the clock.
"""

from __future__ import annotations

import contextlib
import math
import socket
import threading
import time

import paramiko
from paramiko.common import cMSG_GLOBAL_REQUEST

_LOOK_EVERY_S = 0.25


class Line(socket.socket):
    """A TCP connection that knows when it was last heard."""

    def __init__(self, connected: socket.socket) -> None:
        super().__init__(
            connected.family, connected.type, connected.proto, fileno=connected.detach()
        )
        self._heard_at = time.monotonic()
        self._asked = False
        self._transport: paramiko.Transport | None = None
        self._silence_s = math.inf

    def watch(self, transport: paramiko.Transport, silence_s: float) -> None:
        """From now on it is hung up on when it gives no sign of life for `silence_s`."""
        self._transport, self._silence_s = transport, silence_s
        with _lock:
            if not _watched:
                threading.Thread(target=_watch, name="ssh-heartbeat", daemon=True).start()
            _watched.add(self)

    @property
    def silent(self) -> bool:
        return self._silent_for(self._silence_s)

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        try:
            data = super().recv(size, flags)
        except TimeoutError:  # paramiko looks up ten times a second
            if not self._asked and self._silent_for(self._silence_s / 2):
                self._ask()
            raise
        self._heard_at, self._asked = time.monotonic(), False
        return data

    def hang_up(self) -> None:
        """Who reads it or writes to it, finds it ended."""
        with contextlib.suppress(OSError):
            self.shutdown(socket.SHUT_RDWR)

    def _silent_for(self, seconds: float) -> bool:
        return time.monotonic() - self._heard_at > seconds

    def _ask(self) -> None:
        transport = self._transport
        if transport is None or not transport.clear_to_send.is_set():
            return  # while keys are exchanged, anew too, nothing else may be said
        request = paramiko.Message()
        request.add_byte(cMSG_GLOBAL_REQUEST)
        request.add_string("keepalive@openssh.com")
        request.add_boolean(True)
        # Not `global_request`: it asks for no answer, or waits for it where it would be heard.
        transport._send_user_message(request)
        self._asked = True


_watched: set[Line] = set()
_lock = threading.Lock()


def _watch() -> None:
    """Ends with the last connection."""
    while True:
        time.sleep(_LOOK_EVERY_S)
        with _lock:
            for line in list(_watched):
                if line.fileno() == -1:
                    _watched.discard(line)
                elif line.silent:
                    line.hang_up()
            if not _watched:
                return
