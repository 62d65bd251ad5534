"""A local port that is forwarded to a port of the machine, through its SSH connection."""

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
# Browsers wait half a minute or more for a page, so users do not notice a shorter interruption.
_RECONNECT_S = 15.0


@contextlib.contextmanager
def forward(connection: Connection, local_port: int, remote_port: int) -> Iterator[int]:
    """Listen on 127.0.0.1 and forward each connection to 127.0.0.1:`remote_port` on the machine.

    Yields the local port: `local_port`, or the next free one if it is taken. When the SSH
    connection breaks, the forwarded connections end; new ones wait a while until the owner of the
    SSH connection calls `reconnect`. Raises RemoteError when no port is free.
    Fabric's own forwarding is not used, because its errors are lost in its thread.
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
    allow_reuse_address = True  # the port of a tunnel that has just ended can be used at once
    request_queue_size = 64
    daemon_threads = True
    block_on_close = False  # a thread may be waiting for a machine that does not answer

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
        channel = self._open_channel()
        if channel is None:
            return
        self._calls.add(call := (request, channel))
        try:
            if not self._hung_up:
                _carry(*call)
        finally:
            self._calls.discard(call)
            _end(*call)

    def _open_channel(self) -> paramiko.Channel | None:
        """Open a channel, on a new connection if this one is broken.

        Only the connection's owner reconnects, because it reports progress and decides when to
        give up. Returns None if it has not reconnected within _RECONNECT_S, or if no program
        listens on the machine's port.
        """
        deadline = time.monotonic() + _RECONNECT_S
        while not self._hung_up and time.monotonic() < deadline:
            if self._connection.alive:
                try:
                    return self._connection.open_tunnel(self._remote_port)
                except RemoteError:
                    if self._connection.alive:
                        return None
            time.sleep(0.1)
        return None

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
        hint="Give another port with --port.",
    )


def _is_taken(port: int) -> bool:
    """Return True when another program listens on ::1, which most clients try first."""
    try:
        socket.create_server(("::1", port), family=socket.AF_INET6).close()
    except OSError as error:  # this computer may have no IPv6
        return error.errno == errno.EADDRINUSE
    return False


def _carry(caller: socket.socket, channel: paramiko.Channel) -> None:
    """Carry bytes both ways until both have ended; an end of file is passed on in its direction."""
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
        # A closed channel takes no more data, so the caller's direction is ended as well.
        caller.shutdown(socket.SHUT_RDWR if channel.closed else socket.SHUT_WR)


def _end(caller: socket.socket, channel: paramiko.Channel) -> None:
    with contextlib.suppress(*BROKEN):
        channel.close()
    with contextlib.suppress(OSError):
        caller.shutdown(socket.SHUT_RDWR)
