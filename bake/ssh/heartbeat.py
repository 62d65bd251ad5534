"""Keepalive for SSH connections: request a response on a quiet one; close a silent one.

Paramiko's own keepalive requests no response, and most of its waits have no timeout, so it would
wait for a dead connection for ever. Each connection sends its request in the thread in which
paramiko reads it, so that no connection blocks another. One thread checks the time for all of them.
"""

from __future__ import annotations

import contextlib
import math
import socket
import threading
import time

import paramiko
from paramiko.common import cMSG_GLOBAL_REQUEST

_CHECK_EVERY_S = 0.25


class Line(socket.socket):
    """A TCP connection that records when it last received data."""

    def __init__(self, connected: socket.socket) -> None:
        super().__init__(
            connected.family, connected.type, connected.proto, fileno=connected.detach()
        )
        self._received_at = time.monotonic()
        self._requested = False
        self._transport: paramiko.Transport | None = None
        self._silence_s = math.inf

    def watch(self, transport: paramiko.Transport, silence_s: float) -> None:
        """Watch the connection, and close it when it receives nothing for `silence_s`."""
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
        except TimeoutError:  # paramiko sets a timeout of 0.1 s
            if not self._requested and self._silent_for(self._silence_s / 2):
                self._request_answer()
            raise
        self._received_at, self._requested = time.monotonic(), False
        return data

    def hang_up(self) -> None:
        """End the connection: a thread that reads or writes gets an end of file or an error."""
        with contextlib.suppress(OSError):
            self.shutdown(socket.SHUT_RDWR)

    def _silent_for(self, seconds: float) -> bool:
        return time.monotonic() - self._received_at > seconds

    def _request_answer(self) -> None:
        transport = self._transport
        if transport is None or not transport.clear_to_send.is_set():
            return  # nothing else may be sent while keys are exchanged
        request = paramiko.Message()
        request.add_byte(cMSG_GLOBAL_REQUEST)
        request.add_string("keepalive@openssh.com")
        request.add_boolean(True)
        # Not `global_request`: without `wait` it requests no answer, and with `wait` it would block
        # the thread that reads the answer.
        transport._send_user_message(request)
        self._requested = True


_watched: set[Line] = set()
_lock = threading.Lock()


def _watch() -> None:
    """Close silent connections, until no connection is left."""
    while True:
        time.sleep(_CHECK_EVERY_S)
        with _lock:
            for line in list(_watched):
                if line.fileno() == -1:
                    _watched.discard(line)
                elif line.silent:
                    line.hang_up()
            if not _watched:
                return
