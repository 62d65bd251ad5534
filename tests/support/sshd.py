"""A real OpenSSH server on loopback, which can be restarted and killed."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bake.ssh import connection, keys


class Server:
    """A running sshd and its sessions; each session is a process that may outlive it."""

    def __init__(self, command: list[str | Path], log: Path) -> None:
        self._command = command
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stderr=log)

    def stop(self) -> None:
        """Stop it as a restart of the service does: the sessions stay."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def kill(self) -> None:
        """Kill sshd and its sessions at once; programs that run in them stay."""
        assert self._process is not None
        for pid in (self._process.pid, *_sessions(self._process.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()


def _sessions(parent: int) -> list[int]:
    """Return the ids of the sshd processes below this one."""
    said = subprocess.run(["pgrep", "--parent", str(parent), "^sshd"], capture_output=True)
    children = [int(child) for child in said.stdout.split()]
    return [pid for child in children for pid in (child, *_sessions(child))]


@dataclass(frozen=True)
class Machine:
    """This computer, reached by SSH."""

    port: int
    host_key: str
    login: keys.KeyPair
    authorized_keys: Path
    server: Server
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
    """Run sshd with this ed25519 host key, or with a new RSA key for None."""
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
    server = Server([program, "-D", "-e", "-f", config], folder / "sshd.log")
    server.start()
    try:
        public = host_key.public_openssh if host_key else ""
        yield Machine(port, public, login, authorized_keys, server)
    finally:
        server.stop()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
