"""A real OpenSSH server on loopback, and a proxy in front that breaks connections on purpose."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bake.remote import connection, keys

CUTS = ("drop", "stall", "half-close towards the client", "half-close towards the machine")


@dataclass(frozen=True)
class Machine:
    """This computer, as it is reached by SSH."""

    port: int
    host_key: str
    login: keys.KeyPair
    authorized_keys: Path
    user: str = getpass.getuser()

    def connect(self, **different: Any) -> connection.Connection:
        how = {
            "port": self.port,
            "user": self.user,
            "private_key": self.login.private_openssh,
            "host_key": self.host_key,
            "timeout_s": 20,
        }
        return connection.connect("127.0.0.1", **(how | different))


@contextmanager
def sshd(folder: Path, host_key: keys.KeyPair | None = None) -> Iterator[Machine]:
    """`host_key`: ed25519 of ours, or an RSA one of the server's own for None."""
    program = shutil.which("sshd") or "/usr/sbin/sshd"
    if not Path(program).exists():
        pytest.fail("sshd is missing: install openssh-server (`make setup` does)")
    login = keys.generate()
    authorized_keys, key_file = folder / "authorized_keys", folder / "host_key"
    authorized_keys.write_text(login.public_openssh + "\n")
    if host_key is None:
        subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-N", "", "-f", key_file], check=True)
    else:
        key_file.write_text(host_key.private_openssh)
    key_file.chmod(0o600)
    port = free_port()
    config = folder / "sshd_config"
    config.write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {key_file}\nPidFile none\n"
        f"AuthorizedKeysFile {authorized_keys}\nStrictModes no\nUsePAM no\n"
        f"SetEnv HOME={folder}\n"  # without the shell's start-up files of whoever runs the tests
        "PermitRootLogin prohibit-password\nPasswordAuthentication no\nMaxStartups 100\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # its privilege separation directory
    with (folder / "sshd.log").open("wb") as log:
        server = subprocess.Popen([program, "-D", "-e", "-f", config], stderr=log)
    try:
        yield Machine(port, host_key.public_openssh if host_key else "", login, authorized_keys)
    finally:
        server.terminate()
        server.wait()


class Proxy:
    """Leads to a port, and cuts what it carries in one of the ways of CUTS."""

    def __init__(self, target: int) -> None:
        self.cuts = 0
        self.connections = 0
        self.target = target
        self._lock = threading.Lock()
        self._carried: list[tuple[socket.socket, socket.socket, threading.Event]] = []
        self._done: list[tuple[socket.socket, socket.socket, threading.Event]] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.refuse = False
        self._start(self._accept)

    def cut(self, how: str) -> bool:
        """Cut what is carried now; False when nothing is."""
        with self._lock:
            carried, self._carried = self._carried, []
            self._done += carried
        for client, machine, stalled in carried:
            with suppress(OSError):
                match how:
                    case "drop":
                        client.shutdown(socket.SHUT_RDWR)
                        machine.shutdown(socket.SHUT_RDWR)
                    case "stall":
                        stalled.set()
                    case "half-close towards the client":
                        client.shutdown(socket.SHUT_WR)
                    case "half-close towards the machine":
                        machine.shutdown(socket.SHUT_WR)
        self.cuts += len(carried)
        return bool(carried)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    if self.refuse:
                        raise ConnectionRefusedError
                    machine = socket.create_connection(("127.0.0.1", self.target))
                except ConnectionRefusedError:
                    client.close()
                    continue
                stalled = threading.Event()
                with self._lock:
                    self._carried.append((client, machine, stalled))
                    self.connections += 1
                self._start(self._carry, client, machine, stalled)
                self._start(self._carry, machine, client, stalled)

    def _carry(self, a: socket.socket, b: socket.socket, stalled: threading.Event) -> None:
        with suppress(OSError):
            while data := a.recv(16384):
                if stalled.is_set():
                    return  # what was under way is lost, and both ends stay open
                b.sendall(data)
            b.shutdown(socket.SHUT_WR)

    def _start(self, target: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut("drop")
        for client, machine, _ in self._done:
            for sock in (client, machine):
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
                sock.close()
        for thread in self._threads:
            thread.join()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
