"""Signs of life of an SSH connection."""

from __future__ import annotations

import threading

import paramiko

from bake.remote.command import BROKEN


class Heartbeat(threading.Thread):
    """Asks the other side for a sign of life, and closes the connection when none comes.

    Paramiko's keepalive asks for no answer, and most of its waits know no timeout: without this,
    a connection that has gone silent would be waited for for ever.
    """

    def __init__(self, transport: paramiko.Transport, silence_s: float) -> None:
        super().__init__(name="ssh-heartbeat", daemon=True)
        self._transport = transport
        self._silence_s = silence_s

    def run(self) -> None:
        while True:
            self._transport.join(self._silence_s / 2)
            if not self._transport.is_active():
                return
            timer = threading.Timer(self._silence_s / 2, self._transport.close)
            timer.daemon = True
            timer.start()
            try:
                self._transport.global_request("keepalive@openssh.com", wait=True)
            except BROKEN:
                self._transport.close()
            finally:
                timer.cancel()
