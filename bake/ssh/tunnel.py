"""A local port that leads to a port on the machine, through its SSH connection."""

from __future__ import annotations

import contextlib
import errno
import socket
import socketserver
import threading
import time
from collections.abc import Iterator

import paramiko

from bake.errors import RemoteError
from bake.ssh.command import BROKEN
from bake.ssh.connection import Connection

_PORTS_TRIED = 50
_CHUNK = 64 * 1024
# Browsers give a page half a minute and more; and nobody sees a connection that comes back sooner.
_PATIENCE_S = 15.0


@contextlib.contextmanager
def forward(connection: Connection, local_port: int, remote_port: int) -> Iterator[int]:
    """Listen on 127.0.0.1 and lead each caller to 127.0.0.1:`remote_port` on the machine.

    Yields the port that is listened on: `local_port`, or the next free one where that is taken.
    When the SSH connection breaks, callers lose theirs; the next ones wait a while for whoever
    holds the connection to make it again (`reconnect`). RemoteError when no port is free.
    (Fabric's own forwarding fails unseen, in its thread.)
    """
    server = _listen(connection, local_port, remote_port)
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="ssh-tunnel", daemon=True
    )
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.hang_up()
        server.server_close()
        thread.join()


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True  # the port of a tunnel that has just ended is free
    request_queue_size = 64
    daemon_threads = True
    block_on_close = False  # a caller may be waiting for a machine that is gone

    def __init__(self, port: int, connection: Connection, remote_port: int) -> None:
        self._connection = connection
        self._remote_port = remote_port
        self._calls: set[tuple[socket.socket, paramiko.Channel]] = set()
        self._hung_up = False
        super().__init__(("127.0.0.1", port), socketserver.BaseRequestHandler)

    def finish_request(
        self, request: socket.socket | tuple[bytes, socket.socket], client_address: object
    ) -> None:
        assert isinstance(request, socket.socket)  # noqa: S101  (a pair is UDP's)
        if not self._is_connected():
            return
        try:
            channel = self._connection.open_tunnel(self._remote_port)
        except RemoteError:
            return  # nobody listens over there, or the machine is gone: the caller is hung up on
        self._calls.add(call := (request, channel))
        try:
            if not self._hung_up:
                _carry(*call)
        finally:
            self._calls.discard(call)
            _end(*call)

    def _is_connected(self) -> bool:
        """Once it is again: one alone makes it, who says how things are, and gives up."""
        deadline = time.monotonic() + _PATIENCE_S
        while not (alive := self._connection.alive) and time.monotonic() < deadline:
            if self._hung_up:
                break
            time.sleep(0.1)
        return alive

    def hang_up(self) -> None:
        self._hung_up = True
        for call in list(self._calls):
            _end(*call)


def _listen(connection: Connection, local_port: int, remote_port: int) -> _Server:
    last = min(local_port + _PORTS_TRIED, 65536)
    for port in range(local_port, last):
        if _is_taken(port):
            continue
        try:
            return _Server(port, connection, remote_port)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
    raise RemoteError(
        f"none of the ports {local_port} to {last - 1} is free on this computer",
        hint="Give another --port.",
    )


def _is_taken(port: int) -> bool:
    """Whether another program would be met at localhost, which to most is ::1 first."""
    try:
        socket.create_server(("::1", port), family=socket.AF_INET6).close()
    except OSError as error:  # there may be no IPv6
        return error.errno == errno.EADDRINUSE
    return False


def _carry(caller: socket.socket, channel: paramiko.Channel) -> None:
    """Both ways until both have ended: an end of file is passed on, the other way stays open."""
    back = threading.Thread(target=_carry_back, args=(channel, caller), daemon=True)
    back.start()
    try:
        caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := caller.recv(_CHUNK):
            channel.sendall(data)
        channel.shutdown_write()
    except BROKEN:
        _end(caller, channel)
    back.join()


def _carry_back(channel: paramiko.Channel, caller: socket.socket) -> None:
    with contextlib.suppress(*BROKEN):
        while data := channel.recv(_CHUNK):
            caller.sendall(data)
        # Closed, rather than ended: nobody is left to take what the caller may still say.
        caller.shutdown(socket.SHUT_RDWR if channel.closed else socket.SHUT_WR)


def _end(caller: socket.socket, channel: paramiko.Channel) -> None:
    with contextlib.suppress(*BROKEN):
        channel.close()
    with contextlib.suppress(OSError):
        caller.shutdown(socket.SHUT_RDWR)
