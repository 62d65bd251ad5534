"""What can go wrong between Jupyter on a machine and a browser here. That it works: end to end."""

from __future__ import annotations

import http.server
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.expected_conditions import visibility_of_element_located
from selenium.webdriver.support.wait import WebDriverWait

from bake.aws.client.session import Cloud
from bake.aws.image import Image
from bake.aws.machine import Machine, find_machine
from bake.aws.security_group import create_security_group
from bake.aws.tags import ENDS, RECIPE, RUN, STAGE, rfc3339
from bake.console.console import Console
from bake.errors import BakeError, LostError, RemoteError, RequestError
from bake.machine import access, browser, jupyter
from bake.ssh import keys
from bake.ssh.connection import Connection
from tests.support.aws_in_process import Aws, aws_in_process
from tests.support.browser import browser as chromium
from tests.support.browser import screenshot
from tests.support.notebook_page import NotebookPage
from tests.support.proxy import Proxy, break_at_next_tunnel
from tests.support.sshd import Machine as Sshd
from tests.support.sshd import free_port, sshd

TOKEN = "0123456789abcdef"


@pytest.fixture(scope="module")
def server_of_ssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd(tmp_path_factory.mktemp("sshd"), keys.generate()) as running:
        yield running


@pytest.fixture
def ssh(server_of_ssh: Sshd) -> Iterator[Connection]:
    with server_of_ssh.connect() as connected:
        yield connected


@pytest.fixture
def environments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the machine has its Python environments; there is none yet."""
    folder = tmp_path / "envs"
    monkeypatch.setattr(jupyter, "PREFIXES", {"conda": str(folder), "venv": "/nowhere"})
    return folder


@pytest.fixture
def aws() -> Iterator[Aws]:
    with aws_in_process() as aws:
        yield aws


@pytest.fixture
def machine(aws: Aws) -> Machine:
    """An instance of moto's, as EC2 describes it."""
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": "mine"}]}]
    about = {"ImageId": aws.image_ids()[0], "MinCount": 1, "MaxCount": 1}
    started = aws.cloud.ec2("RunInstances", **about, TagSpecifications=tags)
    found = find_machine(aws.cloud, started["Instances"][0]["InstanceId"])
    assert found is not None
    return found


# Which image, which environment ------------------------------------------------------------------


def an_image(*stages: str) -> Image:
    return Image(
        image_id="ami-0000000000000001",
        name="bake/bare/1",
        state="available",
        architecture="x86_64",
        root_device_name="/dev/sda1",
        boot_mode=None,
        ena=True,
        size_gb=64,
        snapshot_ids=("snap-1",),
        created_at=datetime(2026, 11, 1, tzinfo=UTC),
        reason_code="",
        reason="",
        tags={RECIPE: "bare", **{STAGE + stage: "0" for stage in stages}},
    )


def test_an_image_without_jupyter_is_refused_before_a_machine_costs_anything() -> None:
    jupyter.check_image(an_image("base", "d2l"))
    with pytest.raises(
        RequestError, match="Jupyter is not installed in ami-0000000000000001"
    ) as refused:
        jupyter.check_image(an_image("base", "mxnet"))
    assert "invoke jupyter" in refused.value.hint


def test_a_machine_without_jupyter_says_so(ssh: Connection, environments: Path) -> None:
    (environments / "d2l" / "bin").mkdir(parents=True)
    for ask in (jupyter.start, jupyter.stop):
        with pytest.raises(
            RequestError, match="Jupyter is not installed on this machine"
        ) as refused:
            ask(ssh)
        assert "d2l" in refused.value.message


def an_environment(folder: Path, name: str, *, kernel: str | None) -> None:
    """Its Python says which it is."""
    (folder / name / "bin").mkdir(parents=True)
    for program in ("python", "jupyter"):
        file = folder / name / "bin" / program
        file.write_text(f'#!/bin/sh\necho \'{{"error": "{name}", "log": []}}\'\n')
        file.chmod(0o755)
    if kernel:
        (folder / name / "share/jupyter/kernels" / kernel).mkdir(parents=True)


def test_the_environment_with_a_kernel_of_its_own_name_runs_jupyter(
    ssh: Connection, environments: Path
) -> None:
    an_environment(environments, "aaa", kernel="python3")
    with pytest.raises(RemoteError, match="aaa"):
        jupyter.start(ssh)
    an_environment(environments, "d2l", kernel="d2l")
    with pytest.raises(RemoteError, match="d2l"):
        jupyter.start(ssh)


def test_what_a_broken_environment_says_is_shown(ssh: Connection, environments: Path) -> None:
    (environments / "d2l" / "bin").mkdir(parents=True)
    python = environments / "d2l" / "bin" / "python"
    python.write_text("#!/bin/sh\necho 'No module named jupyter_core' >&2\nexit 1\n")
    python.chmod(0o755)
    shutil.copy(python, python.with_name("jupyter"))
    with pytest.raises(RemoteError, match="Jupyter did not start") as failed:
        jupyter.start(ssh)
    assert failed.value.details == ("No module named jupyter_core",)


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_that_is_none_is_refused(port: int) -> None:
    with pytest.raises(RequestError, match="Invalid port"):
        jupyter.check_port(port)


# The browser -------------------------------------------------------------------------------------


@pytest.fixture
def bin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All that is on PATH; and no display."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    return folder


def in_a_new_python(page: Path) -> bool:
    """The module webbrowser looks at the computer once."""
    code = "import sys, pathlib; from bake.machine import browser; "
    code += "print(browser.open_page(pathlib.Path(sys.argv[1])))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(page)], capture_output=True, text=True, check=True
    )
    return done.stdout.strip() == "True"


@pytest.mark.parametrize("browsers", [(), ("w3m", "lynx", "www-browser")])
def test_where_there_is_no_browser_or_one_of_the_terminal_none_is_opened(
    bin_folder: Path, tmp_path: Path, browsers: tuple[str, ...]
) -> None:
    for name in browsers:
        program = bin_folder / name
        program.write_text(f"#!/bin/sh\n: >{tmp_path}/started\n")
        program.chmod(0o755)
    assert not in_a_new_python(tmp_path / "page.html")
    assert not (tmp_path / "started").exists()


def test_the_browser_is_given_a_file_that_only_its_owner_reads_and_no_token(
    bin_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = bin_folder / "mine"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{tmp_path}/words\n')
    program.chmod(0o755)
    monkeypatch.setenv("BROWSER", str(program))
    url = f"http://localhost:1/lab?a=b&token={TOKEN}"
    with browser.redirect_page("i-1", url) as page:
        assert in_a_new_python(page)
        assert (tmp_path / "words").read_text().split() == [page.as_uri()]
        assert stat.S_IMODE(page.stat().st_mode) == 0o600
        page.chmod(0o644)  # as one that was left by a program that was killed
        with browser.redirect_page("i-1", url) as again:
            assert stat.S_IMODE(again.stat().st_mode) == 0o600
    assert not page.exists()


def test_the_file_leads_the_browser_to_jupyter(notebook: Status) -> None:
    url = f"http://localhost:{notebook.port}/lab?token={TOKEN}"
    with browser.redirect_page("i-1", url) as page, chromium() as driver:
        driver.get(page.as_uri())
        WebDriverWait(driver, 20).until(lambda driver: driver.current_url == url)


# The tunnel --------------------------------------------------------------------------------------


class Status:
    """What Jupyter answers when it is asked how it is, and to nothing else."""

    def __init__(self) -> None:
        self.token = TOKEN
        asked = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                known = self.headers["Authorization"] == f"token {asked.token}"
                self.send_response(200 if known else 403)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def end(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def notebook() -> Iterator[Status]:
    status = Status()
    yield status
    status.end()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jupyter, "_LOOK_S", 0.05)
    monkeypatch.setattr(jupyter, "_ASK_S", 0.1)
    monkeypatch.setattr(jupyter, "_FIRST_TRY_S", 0.3)
    monkeypatch.setattr(jupyter, "_TRY_S", 0.3)
    monkeypatch.setattr(jupyter, "_ANSWERS_S", 0.5)


def words(*command: str) -> str:
    return " ".join(["invoke", command[0], "mine", *command[1:]])


@contextmanager
def held(
    cloud: Cloud, machine: Machine, connection: Connection, notebook: Status
) -> Iterator[Callable[[], None]]:
    """The tunnel, held by a thread; what is yielded waits for that, and raises what it raised."""
    console = Console()
    server = jupyter.Server(notebook.port, "/", "lab", again=False, token=TOKEN)
    raised: list[BaseException] = []

    def hold() -> None:
        try:
            jupyter._wait_until_ended(cloud, machine, connection, server, console, words)
        except BakeError as error:
            raised.append(error)

    with jupyter.open_tunnel(connection, server, free_port()):
        thread = threading.Thread(target=hold, daemon=True)
        thread.start()

        def end() -> None:
            thread.join(20)
            assert not thread.is_alive()
            if raised:
                raise raised[0]

        yield end


def test_jupyter_that_is_shut_down_ends_the_tunnel(
    aws: Aws, machine: Machine, ssh: Connection, notebook: Status
) -> None:
    with held(aws.cloud, machine, ssh, notebook) as end:
        time.sleep(0.5)
        notebook.token = "another's"  # as one that has taken its port
        end()


@pytest.mark.parametrize(
    ("operation", "says", "hint"),
    [
        ("TerminateInstances", "mine was terminated while you were connected", "launch-from-ami"),
        ("StopInstances", "mine was stopped while you were connected", "invoke start mine"),
    ],
)
def test_a_machine_that_is_gone_by_ec2s_word_is_not_waited_for(
    aws: Aws,
    machine: Machine,
    server_of_ssh: Sshd,
    notebook: Status,
    operation: str,
    says: str,
    hint: str,
) -> None:
    with (
        Proxy(server_of_ssh.port) as way,
        server_of_ssh.connect(port=way.port) as ssh,
        held(aws.cloud, machine, ssh, notebook) as end,
    ):
        aws.cloud.ec2(operation, InstanceIds=[machine.instance_id])
        way.refuse = True
        way.cut("drop")
        with pytest.raises(LostError, match=says) as lost:
            end()
    assert hint in lost.value.hint
    assert lost.value.exit_code == 1
    assert lost.value.reason or lost.value.code


def test_a_machine_that_was_started_again_elsewhere_is_said_with_its_address(
    aws: Aws, machine: Machine, server_of_ssh: Sshd, notebook: Status
) -> None:
    before = replace(machine, address="203.0.113.9")
    with (
        Proxy(server_of_ssh.port) as way,
        server_of_ssh.connect(port=way.port) as ssh,
        held(aws.cloud, before, ssh, notebook) as end,
    ):
        way.refuse = True
        way.cut("reset")
        with pytest.raises(LostError, match=r"its address is \S+ now, and was 203\.0\.113\.9"):
            end()


def wait_for(words: str, capfd: pytest.CaptureFixture[str]) -> str:
    """What was said until then."""
    said, deadline = "", time.monotonic() + 20
    while words not in said:
        assert time.monotonic() < deadline, said
        time.sleep(0.05)
        said += capfd.readouterr().err
    return said


def test_while_ec2_says_nothing_or_that_it_runs_the_connection_is_made_again(
    aws: Aws,
    machine: Machine,
    server_of_ssh: Sshd,
    notebook: Status,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(jupyter, "_LONG_S", 0.5)
    monkeypatch.setattr(access, "answers", lambda address, port: False)
    monkeypatch.setenv("BAKE_CALLER_CIDR", "198.51.100.9/32")
    machine = replace(machine, tags={RUN: aws.run.id})
    with (
        Proxy(server_of_ssh.port) as way,
        server_of_ssh.connect(port=way.port) as ssh,
        held(aws.cloud, machine, ssh, notebook) as end,
    ):
        create_security_group(
            aws.cloud,
            aws.run,
            aws.run.lasting("mine"),
            vpc_id=aws.placement().vpc_id,
            cidr="203.0.113.7/32",
            port=way.port,
        )
        way.refuse = True
        way.cut("drop")
        said = wait_for("Still no SSH connection", capfd)
        way.refuse = False
        said += wait_for("Connected again after", capfd)
        notebook.token = "another's"
        end()
    said += capfd.readouterr().err
    assert said.count("The SSH connection broke. Reconnecting") == 1
    assert said.count("Still no SSH connection. A firewall of this network may block SSH") == 1
    assert said.count("Connected again after") == 1
    assert said.count("now allows SSH from 198.51.100.9/32 instead of 203.0.113.7/32") == 1


def test_a_connection_that_breaks_while_jupyter_is_asked_is_made_again_at_once(
    aws: Aws,
    machine: Machine,
    server_of_ssh: Sshd,
    notebook: Status,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with (
        Proxy(server_of_ssh.port) as way,
        server_of_ssh.connect(port=way.port) as ssh,
        held(aws.cloud, machine, ssh, notebook) as end,
    ):
        break_at_next_tunnel(monkeypatch, ssh, way)
        began = time.monotonic()
        wait_for("Connected again after", capfd)
        assert time.monotonic() - began < jupyter._ANSWER_S / 2
        notebook.token = "another's"
        end()


def test_the_end_of_the_machine_is_said_once_when_it_is_near_and_again_after_it_was_put_off(
    aws: Aws,
    machine: Machine,
    ssh: Connection,
    notebook: Status,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(jupyter, "_LOOK_UP_S", 0.1)

    def put_off(hours: float) -> None:
        ends = rfc3339(aws.cloud.now() + timedelta(hours=hours))
        tags = [{"Key": ENDS, "Value": ends}]
        aws.cloud.ec2("CreateTags", Resources=[machine.instance_id], Tags=tags)
        looked_up = len(aws.params("DescribeInstances"))
        while len(aws.params("DescribeInstances")) < looked_up + 2:
            time.sleep(0.02)

    with held(aws.cloud, machine, ssh, notebook) as end:
        for hours in (2, 0.2, 0.1, 3, 0.2):
            put_off(hours)
        notebook.token = "another's"
        end()
    said = capfd.readouterr().err
    assert len(re.findall("The machine ends in 1[12] min .. s. To extend its time:", said)) == 2
    assert said.count("invoke extend mine 2h") == 2


def test_jupyter_that_does_not_answer_through_the_tunnel_is_an_error(ssh: Connection) -> None:
    server = jupyter.Server(free_port(), "/", "lab", again=False, token=TOKEN)
    with (
        pytest.raises(RemoteError, match="does not answer through the tunnel: no server listens"),
        jupyter.open_tunnel(ssh, server, free_port()),
    ):
        pass


def test_the_token_is_not_shown_with_the_server() -> None:
    server = jupyter.Server(8888, "/", "lab", again=False, token=TOKEN)
    assert TOKEN not in repr(server)
    assert server.address(8889) == f"http://localhost:8889/lab?token={TOKEN}"


# With the real one, from the package index -------------------------------------------------------


@pytest.fixture(
    scope="module", params=["notebook<7", "jupyterlab"], ids=["Notebook 6", "JupyterLab"]
)
def installed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """The folder of a machine's environments, one of which has that Jupyter."""
    folder = tmp_path_factory.mktemp("envs")
    subprocess.run([sys.executable, "-m", "venv", folder / "d2l"], check=True)
    python = folder / "d2l" / "bin" / "python"
    # setuptools: Notebook 6 imports its pkg_resources.
    wanted = [request.param, "ipykernel", "setuptools<81"]
    pip = [python, "-m", "pip", "install", "--quiet", *wanted]
    subprocess.run(pip, check=True, timeout=900)
    kernel = ["-m", "ipykernel", "install", "--prefix", folder / "d2l", "--name", "d2l"]
    subprocess.run([python, *kernel], check=True, capture_output=True)
    return folder, request.param


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_real_jupyter_old_and_new(
    installed: tuple[Path, str],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, which = installed
    monkeypatch.setattr(jupyter, "PREFIXES", {"conda": str(folder)})
    monkeypatch.setattr(jupyter, "_ANSWERS_S", 60)
    home = tmp_path_factory.mktemp("machine")
    runtime = home / ".local/share/jupyter/runtime"
    with sshd(home, keys.generate()) as machine, machine.connect() as ssh, taken_port():
        servers: list[jupyter.Server] = []
        both = [
            threading.Thread(target=lambda: servers.append(jupyter.start(ssh))) for _ in range(2)
        ]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
        first, second = servers
        try:
            assert sorted([first.again, second.again]) == [False, True]
            assert replace(first, again=True) == replace(second, again=True)
            assert first.port != 8888
            (about,) = [json.loads(path.read_text()) for path in runtime.glob("*server-*.json")]
            assert about["hostname"] == "127.0.0.1"
            command = Path(f"/proc/{about['pid']}/cmdline").read_bytes()
            assert first.token.encode() not in command
            ssh.close()
            with machine.connect() as later, jupyter.open_tunnel(later, first, free_port()) as port:
                with chromium() as driver:
                    driver.get(first.address(port))
                    shown = {"lab": ".jp-LauncherCard", "tree": "#notebook_list"}[first.page]
                    WebDriverWait(driver, 60).until(
                        lambda driver: driver.find_elements(By.CSS_SELECTOR, shown)
                    )
                    screenshot(driver, f"jupyter/{first.page}.png")
                    if first.page == "lab":
                        assert NotebookPage(driver).run("print(6 * 7)") == "42"
                    else:
                        assert run_in_notebook_6(driver, "print(6 * 7)") == "42"
                assert first.page == {"notebook<7": "tree", "jupyterlab": "lab"}[which]
                for path in runtime.iterdir():
                    if path.suffix in (".json", ".log", ".lock"):
                        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
                assert not runtime.stat().st_mode & 0o077
                assert first.token not in (runtime / "bake-jupyter.log").read_text()
                assert not (runtime / "bake-token").exists()
                assert jupyter.stop(later)
                assert not jupyter.stop(later)
        finally:
            for path in runtime.glob("*server-*.json"):
                os.kill(json.loads(path.read_text())["pid"], signal.SIGKILL)


def run_in_notebook_6(driver: Chrome, code: str) -> str:
    """In a new notebook with the environment's kernel, which opens in a window of its own."""

    def one(selector: str) -> WebElement:
        found: WebElement = WebDriverWait(driver, 60).until(
            visibility_of_element_located((By.CSS_SELECTOR, selector))
        )
        return found

    one("#new-dropdown-button").click()
    one("#kernel-d2l a").click()
    WebDriverWait(driver, 60).until(lambda driver: len(driver.window_handles) == 2)
    driver.switch_to.window(driver.window_handles[1])
    one(".kernel_idle_icon")
    one(".CodeMirror").click()
    driver.switch_to.active_element.send_keys(code, Keys.SHIFT + Keys.ENTER)
    return str(one(".output_subarea").text)


@contextmanager
def taken_port() -> Iterator[None]:
    """8888 is somebody else's: ours, or that of another program on this computer."""
    try:
        server = socket.create_server(("127.0.0.1", 8888))
    except OSError:
        yield
        return
    with server:
        yield
