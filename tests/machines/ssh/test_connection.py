from __future__ import annotations

import hashlib
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from bake.errors import ConnectError, HostKeyError, RemoteError
from bake.ssh import connection, keys, sessions
from bake.threads import together
from tests.support.proxy import Proxy
from tests.support.sshd import Machine, free_port, sshd


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with sshd(tmp_path_factory.mktemp("sshd"), keys.generate()) as running:
        yield running


@pytest.fixture
def proxy(machine: Machine) -> Iterator[Proxy]:
    with Proxy(machine.port) as running:
        yield running


@pytest.fixture(scope="module")
def ssh(machine: Machine) -> Iterator[connection.Connection]:
    with machine.connect() as connected:
        yield connected


# Whom it talks to


def test_another_host_key_is_refused_at_once(machine: Machine) -> None:
    began = time.monotonic()
    with pytest.raises(HostKeyError, match="is not the machine that was started") as caught:
        machine.connect(host_key=keys.generate().public_openssh, timeout_s=60)
    assert time.monotonic() - began < 30
    assert "SHA256:" in caught.value.message
    assert "the connection is intercepted" in caught.value.hint


def test_a_server_without_an_ed25519_key_is_refused_at_once(tmp_path: Path) -> None:
    with (
        sshd(tmp_path) as other,
        pytest.raises(HostKeyError, match="it has no ed25519 host key"),
    ):
        other.connect(host_key=keys.generate().public_openssh, timeout_s=5)


def test_another_host_key_after_the_connection_broke_is_refused(tmp_path: Path) -> None:
    first, second = keys.generate(), keys.generate()
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with (
        sshd(tmp_path / "a", first) as known,
        sshd(tmp_path / "b", second) as impostor,
        Proxy(known.port) as way,
        known.connect(port=way.port) as ssh,
    ):
        way.target = impostor.port
        way.cut("drop")
        while ssh.alive:
            time.sleep(0.01)
        with pytest.raises(HostKeyError):
            ssh.run("true")


def test_configuration_agent_and_keys_of_this_computer_play_no_part(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, marker = Path(os.environ["HOME"]), tmp_path / "marker"
    (home / ".ssh").mkdir()
    (home / ".ssh" / "config").write_text(f"Host *\n ProxyCommand touch {marker}\n User nobody\n")
    (home / ".ssh" / "id_ed25519").write_text(machine.login.private_openssh)
    (home / ".fabric.yaml").write_text("user: nobody\nconnect_kwargs: {password: wrong}\n")
    monkeypatch.setattr(connection, "REFUSED_FOR_S", 0.0)
    with socket.socket(socket.AF_UNIX) as agent:
        agent.bind(str(tmp_path / "agent"))
        agent.listen()
        agent.setblocking(False)
        monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
        with machine.connect() as ssh:
            assert ssh.run("id -un").stdout.strip() == machine.user
        with pytest.raises(ConnectError, match="refused the login key"):
            machine.connect(private_key=keys.generate().private_openssh)
        with pytest.raises(BlockingIOError):
            agent.accept()
    assert not marker.exists()


# Waiting for it


def test_a_port_on_which_nobody_listens_is_waited_for_by_the_clock(
    capfd: pytest.CaptureFixture[str], machine: Machine
) -> None:
    reasons: list[str] = []
    began = time.monotonic()
    with pytest.raises(ConnectError, match=r"No SSH connection to .* Connection refused") as caught:
        machine.connect(port=free_port(), timeout_s=1, on_wait=reasons.append)
    assert 1 <= time.monotonic() - began < 15
    assert set(reasons) == {"Connection refused"}
    assert "console output" in caught.value.hint
    assert capfd.readouterr().err == ""


def test_a_port_that_says_nothing_is_waited_for_by_the_clock(
    capfd: pytest.CaptureFixture[str], machine: Machine
) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(ConnectError, match="no SSH server answers"),
    ):
        machine.connect(port=silent.getsockname()[1], timeout_s=1)
    assert capfd.readouterr().err == ""


def test_a_port_that_hangs_up_is_tried_again(machine: Machine, proxy: Proxy) -> None:
    proxy.refuse = True
    threading.Timer(0.5, lambda: setattr(proxy, "refuse", False)).start()
    with machine.connect(port=proxy.port) as ssh:
        assert ssh.run("echo here").stdout == "here\n"


def test_a_login_key_that_is_refused_is_tried_for_a_bounded_while(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(connection, "REFUSED_FOR_S", 0.5)
    reasons: list[str] = []
    began = time.monotonic()
    with pytest.raises(ConnectError, match="the machine refused the login key"):
        machine.connect(
            private_key=keys.generate().private_openssh, timeout_s=60, on_wait=reasons.append
        )
    assert time.monotonic() - began < 30
    assert reasons
    assert capfd.readouterr().err == ""


def test_a_login_key_that_arrives_late_is_good(machine: Machine) -> None:
    late, before = keys.generate(), machine.authorized_keys.read_text()
    threading.Timer(
        0.5, lambda: machine.authorized_keys.write_text(before + late.public_openssh + "\n")
    ).start()
    with machine.connect(private_key=late.private_openssh) as ssh:
        assert ssh.run("true").exit_status == 0
    machine.authorized_keys.write_text(before)


# Commands


def test_a_command_gives_its_output_errors_and_status(ssh: connection.Connection) -> None:
    result = ssh.run("echo out; echo err >&2; exit 3", check=False)
    assert result == connection.CommandResult("out\n", "err\n", 3)


def test_a_command_that_fails_raises_with_its_status_and_last_lines(
    ssh: connection.Connection,
) -> None:
    with pytest.raises(RemoteError, match="ended with status 3") as caught:
        ssh.run("seq 100; echo 'no such thing' >&2; exit 3")
    assert not isinstance(caught.value, ConnectError)
    assert caught.value.details[-1] == "no such thing"
    assert len(caught.value.details) == 20


def test_a_command_that_a_signal_ends_has_failed(ssh: connection.Connection) -> None:
    with pytest.raises(RemoteError, match="ended by a signal"):
        ssh.run("kill -KILL $$")


def test_output_that_is_not_utf8_is_replaced(ssh: connection.Connection) -> None:
    assert ssh.run(r"printf 'caf\351'").stdout == "caf\ufffd"


def test_a_command_has_no_terminal_and_no_input(ssh: connection.Connection) -> None:
    assert ssh.run("tty; cat", check=False).stdout == "not a tty\n"


@pytest.mark.parametrize("given", ["grüße\n", bytes(range(256))])
def test_input_arrives(ssh: connection.Connection, given: str | bytes) -> None:
    raw = given.encode() if isinstance(given, str) else given
    digest = hashlib.sha256(raw).hexdigest()
    assert ssh.run("sha256sum", stdin=given).stdout.split()[0] == digest


def test_megabytes_each_way_at_once_do_not_block(ssh: connection.Connection) -> None:
    data = os.urandom(1 << 20).hex().encode() * 3
    assert ssh.run("cat", stdin=data, timeout_s=60).stdout.encode() == data


def test_input_that_nobody_reads_is_no_error(ssh: connection.Connection) -> None:
    assert ssh.run("echo done", stdin=b"x" * (8 << 20), timeout_s=30).stdout == "done\n"


def test_a_command_that_takes_too_long_is_given_up(ssh: connection.Connection) -> None:
    with pytest.raises(RemoteError, match=r"did not end within 0\.3 s") as caught:
        ssh.run("echo begun; sleep 5", timeout_s=0.3)
    assert caught.value.details == ("begun",)
    assert ssh.run("echo fine").stdout == "fine\n"


def test_many_threads_share_a_connection(ssh: connection.Connection) -> None:
    got: dict[int, str] = {}

    def ask(number: int) -> None:
        got[number] = ssh.run(f"sleep 0.1; echo {number}").stdout

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == {number: f"{number}\n" for number in range(8)}


def test_input_that_has_ended_takes_no_more(ssh: connection.Connection) -> None:
    with ssh.start("cat; sleep 0.3", hold_stdin=True) as running:
        running.write(b"all\n")
        began = time.process_time()
        running.write(b"more\n")
        assert time.process_time() - began < 0.1
        assert b"".join(out for out, _ in running.chunks()) == b"all\n"
        assert running.exit_status() == 0


# More commands at the same time than sshd allows on a connection (MaxSessions 10)


def test_more_commands_at_once_than_sshd_allows_all_run(ssh: connection.Connection) -> None:
    done = together(*[partial(ssh.run, f"sleep 0.3; echo {number}") for number in range(25)])
    assert [result.stdout for result in done] == [f"{number}\n" for number in range(25)]


def test_commands_run_while_all_sessions_for_lasting_ones_are_taken(machine: Machine) -> None:
    with machine.connect() as ssh, ExitStack() as stack:
        for _ in range(sessions.MAX_LASTING_SESSIONS):
            stack.enter_context(ssh.start("cat", hold_stdin=True))
        done = together(*[partial(ssh.run, f"sleep 0.1; echo {number}") for number in range(12)])
        assert len(done) == 12
        taken = threading.Event()

        def follow_one_more() -> None:
            with ssh.start("echo here; cat", hold_stdin=True) as running:
                taken.set()
                running.write(b"")
                assert b"".join(out for out, _ in running.chunks()) == b"here\n"

        one_more = threading.Thread(target=follow_one_more)
        one_more.start()
        assert not taken.wait(1)
        stack.close()
        one_more.join(5)
        assert taken.is_set()


@pytest.mark.parametrize("lasting", [False, True])
def test_waiting_for_a_session_ends_when_the_work_is_called_off(
    machine: Machine, lasting: bool
) -> None:
    with machine.connect() as ssh, ExitStack() as stack:
        for number in range(sessions.MAX_SESSIONS):
            hold = number < sessions.MAX_LASTING_SESSIONS
            stack.enter_context(ssh.start("sleep 60", hold_stdin=hold))
        assert 0 <= call_off(lambda: ssh.start("true", hold_stdin=lasting), 0.5) < 1
        with pytest.raises(RemoteError, match=r"did not end within 0\.5 s"):
            ssh.run("true", timeout_s=0.5)


def test_waiting_for_a_session_ends_when_the_connection_breaks(
    machine: Machine, proxy: Proxy
) -> None:
    """Those that wait have not begun: they run on the new connection."""
    with machine.connect(port=proxy.port) as ssh, ExitStack() as stack:
        for _ in range(sessions.MAX_SESSIONS):
            stack.enter_context(ssh.start("sleep 60"))
        said: list[str] = []
        waiting = threading.Thread(target=lambda: said.append(ssh.run("echo new").stdout))
        waiting.start()
        time.sleep(0.5)
        assert said == []
        proxy.cut("drop")
        waiting.join(10)
        assert (said, proxy.connections) == (["new\n"], 2)


def test_commands_that_were_given_up_and_run_on_do_not_fail_the_next(machine: Machine) -> None:
    """Each occupies a session in sshd until it ends."""
    with machine.connect() as ssh:
        for _ in range(12):
            with pytest.raises(RemoteError, match="did not end within"):
                ssh.run("sleep 2", timeout_s=0.05)
        assert ssh.run("echo fine").stdout == "fine\n"


# Broken connections


@pytest.mark.parametrize("how", ["drop", "stall", "half-close towards the client"])
def test_a_connection_that_breaks_under_a_command_is_never_success(
    machine: Machine, proxy: Proxy, how: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    began, cut_at = tmp_path / "began", 0.0

    def cut_once_it_runs() -> None:
        nonlocal cut_at
        wait_until(began.exists)
        cut_at = time.monotonic()
        proxy.cut(how)

    with machine.connect(port=proxy.port, silence_s=1.0) as ssh:
        cutter = threading.Thread(target=cut_once_it_runs)
        cutter.start()
        with pytest.raises(ConnectError, match="broke"):
            ssh.run(f"touch {began}; sleep 30")
        assert time.monotonic() - cut_at < 20
        cutter.join()
        assert ssh.run("echo again").stdout == "again\n"
    assert proxy.connections == 2
    assert capfd.readouterr().err == ""


def test_a_silent_command_on_a_sound_connection_is_waited_for(
    machine: Machine, proxy: Proxy
) -> None:
    with machine.connect(port=proxy.port, silence_s=2.0) as ssh:
        assert ssh.run("sleep 5; echo done").stdout == "done\n"
    assert proxy.connections == 1


def test_of_several_connections_the_one_that_has_gone_silent_is_closed_in_time(
    machine: Machine, proxy: Proxy
) -> None:
    with ExitStack() as stack:
        sound = [stack.enter_context(machine.connect(silence_s=3.0)) for _ in range(5)]
        stalled = stack.enter_context(machine.connect(port=proxy.port, silence_s=1.0))
        filling = stalled.start("cat >/dev/null", b"x" * (64 << 20))  # blocks where nobody reads
        proxy.cut("freeze")
        began = time.monotonic()
        while stalled.alive:
            assert time.monotonic() - began < 20
            time.sleep(0.01)
        assert time.monotonic() - began > 0.5
        filling.close()
        heartbeats = [thread for thread in threading.enumerate() if "heart" in thread.name]
        assert len(heartbeats) == 1
        time.sleep(4)  # longer than `silence_s`
        assert all(connection.alive for connection in sound)


def test_a_connection_that_only_sends_is_not_taken_for_silent(
    machine: Machine, proxy: Proxy
) -> None:
    with machine.connect(port=proxy.port, silence_s=2.0) as ssh:
        running = ssh.start("cat >/dev/null", hold_stdin=True)
        for _ in range(80):
            running._channel.sendall(b"x")
            time.sleep(0.05)
        running.write(b"")
        assert list(running.chunks()) == []
        assert running.exit_status() == 0
    assert proxy.connections == 1


def test_keys_that_are_exchanged_anew_do_not_break_the_connection(machine: Machine) -> None:
    with machine.connect(silence_s=1.0) as ssh:
        assert ssh._fabric is not None
        for _ in range(3):
            ssh._fabric.transport.renegotiate_keys()
            assert ssh.run("sleep 1.5; echo fine").stdout == "fine\n"


# Called off


def wait_until(what: Callable[[], bool], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def call_off(work: Callable[[], object], after_s: float) -> float:
    """The seconds that the work took to end once it was called off."""
    ended_at: list[float] = []

    def piece() -> None:
        try:
            work()
        finally:
            ended_at.append(time.monotonic())

    def fail() -> None:
        time.sleep(after_s)
        raise ZeroDivisionError

    began = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        together(piece, fail)
    return ended_at[0] - began - after_s


def test_a_command_is_not_waited_for_when_its_work_is_called_off(
    machine: Machine, ssh: connection.Connection
) -> None:
    assert 0 <= call_off(lambda: ssh.run("sleep 60"), 0.3) < 1
    assert 0 <= call_off(lambda: ssh.run("while :; do echo more; done"), 0.3) < 1
    assert ssh.run("echo fine").stdout == "fine\n"


def test_a_machine_is_not_waited_for_when_the_work_is_called_off(machine: Machine) -> None:
    port = free_port()
    assert 0 <= call_off(lambda: machine.connect(port=port, timeout_s=60), 2.5) < 1


def ask(ssh: connection.Connection) -> None:
    assert ssh.run("echo fine").stdout == "fine\n"


def test_threads_that_wait_for_one_new_connection_are_called_off_together(
    machine: Machine, proxy: Proxy
) -> None:
    with machine.connect(port=proxy.port) as ssh:
        proxy.refuse = True
        proxy.cut("drop")
        while ssh.alive:
            time.sleep(0.01)
        assert 0 <= call_off(lambda: together(*[lambda: ask(ssh)] * 3), 1.0) < 1.5


def test_threads_that_lose_a_connection_make_one_new_one(machine: Machine, proxy: Proxy) -> None:
    with machine.connect(port=proxy.port) as ssh:
        proxy.cut("drop")
        while ssh.alive:
            time.sleep(0.01)
        threads = [threading.Thread(target=ssh.run, args=("true",)) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert proxy.connections == 2


def test_nothing_runs_on_after_closing(machine: Machine) -> None:
    before = set(threading.enumerate())
    with machine.connect() as ssh:
        ssh.run("true")
        assert set(threading.enumerate()) > before
    deadline = time.monotonic() + 3
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not set(threading.enumerate()) - before


# Files


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o755, 0o400])
def test_a_file_is_put_with_its_bytes_and_mode(
    ssh: connection.Connection, tmp_path: Path, mode: int
) -> None:
    target, data = tmp_path / "it's a $(file)", os.urandom(300_000)
    target.write_text("old")
    ssh.put(data, str(target), mode=mode)
    assert target.read_bytes() == data
    assert stat.S_IMODE(target.stat().st_mode) == mode
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == [target.name]


def test_a_file_that_cannot_be_put_says_why(ssh: connection.Connection, tmp_path: Path) -> None:
    with pytest.raises(RemoteError) as caught:
        ssh.put(b"x", str(tmp_path / "nowhere" / "file"))
    assert "No such file or directory" in caught.value.details[-1]


def test_a_connection_that_breaks_leaves_the_old_file(
    machine: Machine, proxy: Proxy, tmp_path: Path
) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with machine.connect(port=proxy.port, silence_s=1.0) as ssh:
        proxy.arm("drop", after_bytes=1 << 20)
        with pytest.raises(ConnectError):
            ssh.put(b"x" * (2 << 20), str(target))
    assert (proxy.done, proxy.connections) == (["drop"], 1)
    deadline = time.monotonic() + 10
    while [entry.name for entry in tmp_path.iterdir() if entry.is_file()] != ["file"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert target.read_text() == "old"
