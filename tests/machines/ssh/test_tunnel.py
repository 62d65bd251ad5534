from __future__ import annotations

import http.client
import http.server
import socket
import socketserver
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import paramiko
import pytest

from bake.errors import RemoteError
from bake.ssh import keys, tunnel
from bake.ssh.connection import Connection
from tests.support.proxy import Proxy, break_at_next_tunnel
from tests.support.sshd import Machine, free_port, sshd

PAGE = b"a notebook" * 100_000


class Notebook(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with sshd(tmp_path_factory.mktemp("sshd"), keys.generate()) as running:
        yield running


@pytest.fixture(scope="module")
def notebook() -> Iterator[int]:
    """A web server on the machine, and its port there."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Notebook) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.fixture
def ssh(machine: Machine) -> Iterator[Connection]:
    with machine.connect() as connected:
        yield connected


def read(port: int) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
        page: bytes = answer.read()
    return page


def test_a_page_of_the_machine_is_read_through_a_local_port(ssh: Connection, notebook: int) -> None:
    wanted = free_port()
    with tunnel.forward(ssh, wanted, notebook) as port:
        assert port == wanted
        assert read(port) == PAGE
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", wanted))


def test_the_next_port_is_taken_where_the_wanted_one_is_not_free(
    ssh: Connection, notebook: int
) -> None:
    with (
        tunnel.forward(ssh, free_port(), notebook) as first,
        tunnel.forward(ssh, first, notebook) as second,
    ):
        assert first < second <= first + 50
        assert read(second) == PAGE


def test_a_port_is_free_again_at_once(ssh: Connection, notebook: int) -> None:
    wanted = free_port()
    for _ in range(3):
        with tunnel.forward(ssh, wanted, notebook) as port:
            assert (port, read(port)) == (wanted, PAGE)


def test_no_free_port_is_an_error(
    ssh: Connection, notebook: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunnel, "_PORTS_TRIED", 1)
    with (
        tunnel.forward(ssh, free_port(), notebook) as taken,
        pytest.raises(RemoteError, match=f"none of the ports {taken} to {taken} is free"),
        tunnel.forward(ssh, taken, notebook),
    ):
        pass


def test_it_listens_on_loopback_alone(ssh: Connection, notebook: int) -> None:
    with (
        tunnel.forward(ssh, free_port(), notebook) as port,
        pytest.raises(ConnectionRefusedError),
    ):
        # another loopback address stands for any other address of this computer
        socket.create_connection(("127.0.0.2", port))


def test_many_callers_at_once_are_served(ssh: Connection, notebook: int) -> None:
    pages: list[bytes] = []
    with tunnel.forward(ssh, free_port(), notebook) as port:
        threads = [threading.Thread(target=lambda: pages.append(read(port))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert pages == [PAGE] * 8


class Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(65536):
            self.request.sendall(data)


def test_much_that_is_carried_does_not_bring_it_to_a_stand(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In place of half a gigabyte: when paramiko by itself would have new keys.
    monkeypatch.setattr(paramiko.packet.Packetizer, "REKEY_BYTES", 2**17)
    said = b"a cell" * 50_000
    heard: list[bytes] = []

    def talk() -> None:
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", port), timeout=30) as caller:
                sender = threading.Thread(target=caller.sendall, args=(said,))
                sender.start()
                with caller.makefile("rb") as answer:
                    heard.append(answer.read(len(said)))
                sender.join()

    with (
        socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server,
        machine.connect() as ssh,
        tunnel.forward(ssh, free_port(), server.server_address[1]) as port,
    ):
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()
        with ThreadPoolExecutor(8) as callers:
            for call in [callers.submit(talk) for _ in range(8)]:
                call.result()
        server.shutdown()
    assert heard == [said] * 40


def test_a_caller_is_hung_up_on_when_nobody_listens_over_there(
    ssh: Connection, capfd: pytest.CaptureFixture[str]
) -> None:
    with (
        tunnel.forward(ssh, free_port(), free_port()) as port,
        socket.create_connection(("127.0.0.1", port), timeout=30) as caller,
    ):
        assert caller.recv(1) == b""
    assert capfd.readouterr().err == ""


def test_the_answer_comes_back_after_the_caller_has_ended_its_side(ssh: Connection) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer_when_all_is_said() -> None:
            with server.accept()[0] as peer:
                said = b""
                while data := peer.recv(1024):
                    said += data
                peer.sendall(said.upper())

        thread = threading.Thread(target=answer_when_all_is_said)
        thread.start()
        with (
            tunnel.forward(ssh, free_port(), server.getsockname()[1]) as port,
            socket.create_connection(("127.0.0.1", port), timeout=30) as caller,
        ):
            caller.sendall(b"hello")
            caller.shutdown(socket.SHUT_WR)
            assert caller.recv(1024) == b"HELLO"
            assert caller.recv(1024) == b""
        thread.join()


def test_it_goes_on_when_the_connection_is_made_again(
    machine: Machine, notebook: int, capfd: pytest.CaptureFixture[str]
) -> None:
    with (
        Proxy(machine.port) as way,
        machine.connect(port=way.port) as ssh,
        tunnel.forward(ssh, free_port(), notebook) as port,
    ):
        assert read(port) == PAGE
        with socket.create_connection(("127.0.0.1", port), timeout=30) as caller:
            time.sleep(0.1)
            way.cut("drop")
            assert caller.recv(1) == b""
        early: list[bytes] = []
        reader = threading.Thread(target=lambda: early.append(read(port)))
        reader.start()
        ssh.reconnect()
        reader.join()
        assert [*early, read(port)] == [PAGE, PAGE]
        assert way.connections == 2
    assert capfd.readouterr().err == ""


def test_a_caller_at_the_moment_of_the_break_waits_until_the_owner_reconnects(
    machine: Machine, notebook: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        Proxy(machine.port) as way,
        machine.connect(port=way.port) as ssh,
        tunnel.forward(ssh, free_port(), notebook) as port,
    ):
        break_at_next_tunnel(monkeypatch, ssh, way)
        early: list[bytes] = []
        reader = threading.Thread(target=lambda: early.append(read(port)))
        reader.start()
        reader.join(0.5)
        assert (early, way.connections) == ([], 1), "the tunnel itself does not reconnect"
        ssh.reconnect()
        reader.join()
        assert (early, way.connections) == ([PAGE], 2)


def test_without_a_connection_a_caller_waits_for_a_while_and_is_hung_up_on(
    ssh: Connection, notebook: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunnel, "_RECONNECT_S", 0.3)
    with tunnel.forward(ssh, free_port(), notebook) as port:
        ssh.close()
        with pytest.raises((ConnectionError, http.client.RemoteDisconnected)):
            read(port)


def test_a_port_that_is_somebody_elses_on_ipv6_is_not_taken(ssh: Connection, notebook: int) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as other:
        taken = other.getsockname()[1]
        with tunnel.forward(ssh, taken, notebook) as port:
            assert port != taken


def test_leaving_it_ends_what_is_carried(ssh: Connection) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with tunnel.forward(ssh, free_port(), server.getsockname()[1]) as port:
            caller = socket.create_connection(("127.0.0.1", port), timeout=30)
            peer = server.accept()[0]
        assert (caller.recv(1), peer.recv(1)) == (b"", b"")
        caller.close()
        peer.close()
