"""A program that carries an SSH connection: what it says when it fails, and that it ends."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bake.errors import ConnectError
from bake.ssh import connection, keys, proxy
from tests.support.processes import has_ended
from tests.support.sshd import Machine, sshd

# Carries bytes between its stdin and stdout and a port, as AWS's plugin does.
CARRY = """
import os, socket, sys, threading
line = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
def send():
    while data := os.read(0, 65536):
        line.sendall(data)
    line.shutdown(socket.SHUT_WR)
threading.Thread(target=send, daemon=True).start()
while data := line.recv(65536):
    os.write(1, data)
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with sshd(tmp_path_factory.mktemp("sshd"), keys.generate()) as running:
        yield running


def pids_in(file: Path, count: int) -> list[int]:
    deadline = time.monotonic() + 10
    while not file.exists() or len(file.read_text().split()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return [int(pid) for pid in file.read_text().split()]


def carried_by(machine: Machine, script: str) -> connection.Connection:
    command = ("sh", "-c", script, sys.executable, CARRY, str(machine.port))
    return machine.connect(proxy=command)


def test_the_program_has_ended_when_the_connection_is_closed(
    machine: Machine, tmp_path: Path
) -> None:
    with carried_by(machine, f'echo $$ >{tmp_path}/pid; "$0" -c "$1" "$2"') as ssh:
        assert ssh.run("echo fine").stdout == "fine\n"
        [pid] = pids_in(tmp_path / "pid", 1)
        assert not has_ended(pid, within_s=0)
    assert has_ended(pid)


def test_the_program_of_a_connection_that_broke_has_ended_when_it_is_closed(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that reads the connection notices the break first, and is ending the program."""
    monkeypatch.setattr(proxy, "_END_S", 1.0)
    lingering = f'echo $$ >{tmp_path}/pid; "$0" -c "$1" "$2"; exec <&- >&-; sleep 60'
    with carried_by(machine, lingering) as ssh:
        [pid] = pids_in(tmp_path / "pid", 1)
        with contextlib.suppress(ConnectError):
            ssh.run("kill $PPID; sleep 60")  # the server's process for this connection
        while ssh.alive:
            time.sleep(0.01)
    assert has_ended(pid)


def test_what_the_program_has_started_has_time_to_end_too(tmp_path: Path) -> None:
    """The AWS CLI ends at once on SIGTERM; its plugin has a session to end."""
    (tmp_path / "plugin").write_text(
        f"trap 'sleep 0.3; echo >{tmp_path}/ended; exit' TERM\n"
        f"echo $$ >{tmp_path}/pid\n"
        "while :; do sleep 0.05; done\n"
    )
    line = proxy.ProxyLine(("sh", "-c", f"sh {tmp_path}/plugin & wait"))
    [pid] = pids_in(tmp_path / "pid", 1)
    line.close()
    assert has_ended(pid)
    assert (tmp_path / "ended").exists()


def test_closing_it_in_two_threads_ends_it_before_either_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy, "_END_S", 0.5)
    line = proxy.ProxyLine(("sh", "-c", f"echo $$ >{tmp_path}/pid; exec sleep 60"))
    [pid] = pids_in(tmp_path / "pid", 1)
    other = threading.Thread(target=line.close)
    other.start()
    line.close()
    assert has_ended(pid)
    other.join()


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("exit 0", "closed|no SSH server"),
        ("echo first >&2; echo 'it has no idea' >&2; exit 5", "it has no idea"),
        ("exit 4", "it ended with status 4"),
        ("echo welcome to telnet; cat >/dev/null", "no SSH server"),
    ],
)
def test_a_proxy_that_leads_nowhere_says_why(program: str, said: str) -> None:
    pair = keys.generate()
    with pytest.raises(ConnectError, match=said):
        connection.connect(
            "i-1",
            port=22,
            user="ubuntu",
            private_key=pair.private_openssh,
            host_key=pair.public_openssh,
            timeout_s=0.2,
            proxy=("sh", "-c", program),
        )


def test_a_proxy_that_is_not_there_is_not_tried_again() -> None:
    pair = keys.generate()
    with pytest.raises(ConnectError, match="cannot be started"):
        connection.connect(
            "i-1",
            port=22,
            user="ubuntu",
            private_key=pair.private_openssh,
            host_key=pair.public_openssh,
            timeout_s=60,
            proxy=("/nowhere/aws",),
        )


def test_a_proxy_that_does_not_want_to_end_is_ended_with_what_it_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy, "_END_S", 0.2)
    pids = tmp_path / "pids"
    stubborn = (
        f"trap '' TERM; sh -c 'trap \"\" TERM; echo $$ >>{pids}; sleep 60' & echo $$ >>{pids}; wait"
    )
    line = proxy.ProxyLine(("sh", "-c", stubborn))
    while not pids.exists() or len(pids.read_text().split()) < 2:
        time.sleep(0.01)
    line.close()
    line.close()
    deadline = time.monotonic() + 5
    while alive := [pid for pid in pids.read_text().split() if Path("/proc", pid).exists()]:
        states = {Path("/proc", pid, "stat").read_text().split()[2] for pid in alive}
        assert time.monotonic() < deadline, states
        time.sleep(0.02)
