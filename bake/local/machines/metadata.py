"""The metadata service of a machine: IMDSv2 at 169.254.169.254, in the machine's own network.

Source: EC2 User Guide, "Use the Instance Metadata Service to access instance metadata". The address
is added to the loopback device of the machine's network namespace, and the socket is opened in that
namespace, but this process answers. So only the machine itself can reach the service.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import logging
import os
import secrets
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import PurePosixPath
from typing import Any

log = logging.getLogger(__name__)

ADDRESS = "169.254.169.254"
LONGEST_TOKEN_S = 21600
_TTL, _TOKEN = "X-aws-ec2-metadata-token-ttl-seconds", "X-aws-ec2-metadata-token"
# From linux/sched.h and linux/sockios.h; and a label for the address, of at most 15 characters.
_CLONE_NEWNET, _SIOCSIFADDR, _SIOCSIFNETMASK, _LABEL = 0x40000000, 0x8916, 0x891C, b"lo:metadata"

# Returns the metadata: path below /latest/ → content. It is called at each request.
Items = Callable[[], Mapping[str, str | bytes]]


@contextlib.contextmanager
def served(process_id: int, items: Items, *, tokens_required: Callable[[], bool]) -> Iterator[None]:
    """Serve `items` to the machine whose process 1 has this id, within this context.

    Without root, this process may not enter the machine's network: then no service is started.
    """
    try:
        listener = _listener(process_id)
    except OSError as error:
        log.warning("no metadata service for process %d: %s", process_id, error)
        yield
        return
    service = _Service(items, tokens_required)
    threading.Thread(target=service.serve, args=(listener,), daemon=True).start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # ends the thread that waits in accept()
        listener.close()


def _listener(process_id: int) -> socket.socket:
    """Open the socket in a thread of its own, which enters the machine's network and then ends."""
    found: list[socket.socket | OSError] = []

    def work() -> None:
        try:
            found.append(_open_within(process_id))
        except OSError as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if isinstance(found[0], OSError):
        raise found[0]
    return found[0]


def _open_within(process_id: int) -> socket.socket:
    network = os.open(f"/proc/{process_id}/ns/net", os.O_RDONLY)
    try:
        # This moves only the calling thread. Python has `os.setns` from 3.12 on.
        if ctypes.CDLL(None, use_errno=True).setns(network, _CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(network)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for request, value in ((_SIOCSIFADDR, ADDRESS), (_SIOCSIFNETMASK, "255.255.255.255")):
            address = struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(value))
            fcntl.ioctl(control, request, struct.pack("16s16s", _LABEL, address))
    return socket.create_server((ADDRESS, 80))


class _Service:
    def __init__(self, items: Items, tokens_required: Callable[[], bool]) -> None:
        self._items = items
        self._tokens_required = tokens_required
        self._tokens: dict[str, float] = {}  # token → end of its validity (monotonic clock)

    def serve(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, address = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection, address), daemon=True).start()

    def _answer(self, connection: socket.socket, address: Any) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(30)
            _MetadataRequest(self, connection, address)

    def new_token(self, seconds: int) -> str:
        now = time.monotonic()
        self._tokens = {token: end for token, end in self._tokens.items() if end > now}
        token = secrets.token_urlsafe(42)
        self._tokens[token] = now + seconds
        return token

    def accepts(self, token: str | None) -> bool:
        if token is None:
            return not self._tokens_required()
        return self._tokens.get(token, 0.0) > time.monotonic()

    def look_up(self, path: str) -> str | bytes | None:
        """Return the content of an item, or the names in a folder, or None if not found."""
        items = self._items()
        if path in items:
            return items[path]
        below = [
            PurePosixPath(each).relative_to(path).parts for each in items if _is_below(each, path)
        ]
        names = {parts[0] + ("/" if len(parts) > 1 else "") for parts in below}
        return "\n".join(sorted(names)) or None


def _is_below(path: str, folder: str) -> bool:
    return PurePosixPath(path).is_relative_to(folder) if folder else True


class _MetadataRequest(BaseHTTPRequestHandler):
    server_version, sys_version, protocol_version = "EC2ws", "", "HTTP/1.1"

    def __init__(self, service: _Service, connection: socket.socket, address: Any) -> None:
        self._service = service
        super().__init__(connection, address, None)  # type: ignore[arg-type]

    def do_PUT(self) -> None:
        seconds = self.headers.get(_TTL, "")
        if self.path != "/latest/api/token":
            self._respond(HTTPStatus.NOT_FOUND)
        elif "X-Forwarded-For" in self.headers:  # sent by a proxy, which others could use, too
            self._respond(HTTPStatus.FORBIDDEN)
        elif not (seconds.isdecimal() and 1 <= int(seconds) <= LONGEST_TOKEN_S):
            self._respond(HTTPStatus.BAD_REQUEST)
        else:
            self._respond(HTTPStatus.OK, self._service.new_token(int(seconds)), {_TTL: seconds})

    def do_GET(self) -> None:
        version, _, path = self.path.strip("/").partition("/")
        if not self._service.accepts(self.headers.get(_TOKEN)):
            self._respond(HTTPStatus.UNAUTHORIZED)
            return
        content = self._service.look_up(path.rstrip("/")) if version == "latest" else None
        self._respond(HTTPStatus.NOT_FOUND if content is None else HTTPStatus.OK, content or "")

    def _respond(
        self,
        status: HTTPStatus,
        content: str | bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        body = content.encode() if isinstance(content, str) else content
        self.send_response(status)
        for name, value in {"Content-Type": "text/plain", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass
