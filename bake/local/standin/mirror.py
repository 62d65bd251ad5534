"""The mirror: a process that serves the files of one folder over HTTPS on loopback.

It outlives the command that started it, because machines use it as long as they live. The process
is `python -m bake.local.standin.mirror`; see its `--help`.
"""

from __future__ import annotations

import argparse
import errno
import functools
import http.client
import http.server
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from http import HTTPStatus
from pathlib import Path

from bake.errors import LocalCloudError
from bake.files import write_file

PORT = 4748
_TRIES = 50
_START_TIMEOUT_S = 30
_IDLE_TIMEOUT_S = 60


@dataclass(frozen=True)
class Mirror:
    pid: int
    port: int
    folder: str


def start(state: Path, folder: Path, certificate: Path, *, address: str = "127.0.0.1") -> Mirror:
    """Return the running mirror. If none runs, start it, on the port that it had last."""
    last = _read(state)
    if last is not None and _answers(last, certificate, address):
        return last
    state.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", __name__, str(folder), "--certificate", str(certificate)]
    command += ["--address", address, "--port", str(last.port if last else PORT)]
    command += ["--log", str(state.with_suffix(".log"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_START_TIMEOUT_S)
    if done.returncode:
        raise LocalCloudError(
            "The mirror of the stand-ins cannot be started",
            details=done.stderr.strip().splitlines()[-5:],
        )
    mirror = Mirror(**json.loads(done.stdout))
    write_file(state, json.dumps(asdict(mirror)))
    return mirror


def stop(state: Path) -> None:
    """End the mirror if it runs. Its port is kept for the next start."""
    mirror = _read(state)
    if mirror is None or not _is_mirror(mirror):
        return
    os.kill(mirror.pid, signal.SIGTERM)
    for _ in range(100):
        if not _is_mirror(mirror):
            return
        time.sleep(0.05)
    os.kill(mirror.pid, signal.SIGKILL)


def _read(state: Path) -> Mirror | None:
    try:
        return Mirror(**json.loads(state.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _is_mirror(mirror: Mirror) -> bool:
    """Return whether the process is still the mirror: another one may have got its id."""
    try:
        command = Path(f"/proc/{mirror.pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return __name__.encode() in command and mirror.folder.encode() in command


def _answers(mirror: Mirror, certificate: Path, address: str) -> bool:
    if not _is_mirror(mirror):
        return False
    context = ssl.create_default_context(cafile=str(certificate.parent / "ca.crt"))
    context.check_hostname = False  # the authority is the mirror's own and signs nothing else
    connection = http.client.HTTPSConnection(address, mirror.port, timeout=5, context=context)
    try:
        connection.request("HEAD", "/")
        return connection.getresponse().status == HTTPStatus.OK
    except OSError:
        return False
    finally:
        connection.close()


class _Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_TIMEOUT_S
    disable_nagle_algorithm = True  # otherwise each of pip's 200 requests waits 40 ms for an ACK

    def list_directory(self, path: str | os.PathLike[str]) -> None:
        """Respond with an empty page for a folder: clients only read the indices."""
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Length", "0")
        self.end_headers()


class _MirrorServer(http.server.ThreadingHTTPServer):
    """A server with the TLS handshake in each connection's thread, so that no client blocks it."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], folder: str, certificate: str) -> None:
        super().__init__(address, functools.partial(_Handler, directory=folder))
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.context.load_cert_chain(certificate)

    def finish_request(self, request: object, client_address: object) -> None:
        assert isinstance(request, socket.socket)  # noqa: S101
        request.settimeout(_IDLE_TIMEOUT_S)
        with suppress(OSError), self.context.wrap_socket(request, server_side=True) as secure:
            super().finish_request(secure, client_address)


def _listen(address: str, port: int, folder: str, certificate: str) -> _MirrorServer:
    """Return a server on the first free port, beginning with `port`."""
    for candidate in range(port, port + _TRIES):
        try:
            return _MirrorServer((address, candidate), folder, certificate)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    sys.exit(f"All ports from {port} to {port + _TRIES - 1} are in use on {address}")


def main() -> None:
    """Listen, print process id and port, and continue in the background.

    So the caller knows that the mirror serves as soon as this process has ended.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--certificate", required=True)
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--log", required=True)
    arguments = parser.parse_args()
    server = _listen(arguments.address, arguments.port, arguments.folder, arguments.certificate)
    if pid := os.fork():
        mirror = Mirror(pid, server.server_address[1], arguments.folder)
        print(json.dumps(asdict(mirror)), flush=True)
        os._exit(0)
    os.setsid()
    with open(arguments.log, "ab") as log, open(os.devnull) as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 0)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    server.serve_forever()


if __name__ == "__main__":
    main()
