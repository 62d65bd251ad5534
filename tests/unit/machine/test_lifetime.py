"""How long a machine lives: what may be asked for, what tags say, and the timer on machines."""

from __future__ import annotations

import ast
import http.server
import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bake import catalog
from bake.aws.base_image import find_base_image
from bake.aws.client.session import Cloud, connect
from bake.aws.image import delete_image, find_image, wait_until_available
from bake.aws.launch import run_machine
from bake.aws.machine import Machine, find_machine, machines, start, terminate
from bake.aws.security_group import create_security_group
from bake.aws.user_data import user_data
from bake.console.console import Console
from bake.errors import RemoteError, RequestError
from bake.local.machines.os_images import STAND_IN_OWNER
from bake.machine import ssh_config
from bake.machine.launch import LaunchRequest, launch
from bake.machine.lifetime import (
    LONGEST,
    SHORTEST,
    TIMER,
    AtEnd,
    Lifetime,
    describe,
    end,
    extend,
    left,
    read_lifetime,
    read_time,
    write_time,
)
from bake.machine.on_machine import lifetime_facts
from bake.ssh.connection import CommandResult, Connection
from bake.ssh.keys import generate
from bake.ssh.reboot import reboot
from tests.support.aws_in_process import Aws, aws_in_process
from tests.support.environment import REPOSITORY

# It says what the login user has written into two files.
FAKE_NVIDIA_SMI = b"""#!/bin/sh
case $1 in
    *utilization*) cat /home/ubuntu/load ;;
    *pid*) cat /home/ubuntu/pids ;;
esac
"""
START = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


def a_machine(*, launched_at: datetime = START, state: str = "running", **tags: str) -> Machine:
    return Machine(
        instance_id="i-1",
        name="mine",
        state=state,
        instance_type="g4dn.xlarge",
        zone="us-east-1a",
        market="on-demand",
        address="192.0.2.1",
        launched_at=launched_at,
        image_id="ami-1",
        key_name="k",
        reason_code="",
        reason="",
        tags={f"bake:{key.replace('_', '-')}": value for key, value in tags.items()},
    )


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("8h", 8 * HOUR),
        ("90m", 1.5 * HOUR),
        ("90min", 1.5 * HOUR),
        ("1h30m", 1.5 * HOUR),
        ("1.5h", 1.5 * HOUR),
        ("2d", 48 * HOUR),
        ("600s", HOUR / 6),
        (" 8H ", 8 * HOUR),
        ("365d", 365 * 24 * HOUR),
        ("never", None),
        ("Never", None),
    ],
)
def test_a_length_of_time_is_read(text: str, time: timedelta | None) -> None:
    assert read_time(text, "--ttl") == time


@pytest.mark.parametrize(
    "text",
    [
        *["", "abc", "8", "h", "-8h", "+8h", "1e9h", "nan", "inf", "infh", "0x8h", "8h!", "8 h"],
        *["٣h", "8h never", "9" * 5000 + "h", "99999999h", "1h" * 4000, "1_0h"],
    ],
)
def test_what_is_no_length_of_time_is_refused_in_words(text: str) -> None:
    with pytest.raises(RequestError, match="no length of time") as refused:
        read_time(text, "--ttl")
    assert len(refused.value.message) < 80
    assert "8h" in refused.value.hint


@pytest.mark.parametrize("text", ["0h", "1s", "9m", "599s", "0.1h"])
def test_what_would_end_a_machine_that_still_starts_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="too short: it takes at least 10m"):
        read_time(text, "--idle")


@pytest.mark.parametrize("text", ["366d", "9999999h", "9999999d9999999d"])
def test_what_is_nearly_never_has_to_be_said(text: str) -> None:
    with pytest.raises(RequestError, match="more than a year") as refused:
        read_time(text, "--ttl")
    assert refused.value.hint.endswith("--ttl never")


@given(st.timedeltas(min_value=SHORTEST, max_value=LONGEST))
def test_what_is_written_is_read(time: timedelta) -> None:
    whole = timedelta(seconds=round(time.total_seconds()))
    assert read_time(write_time(time), "--ttl") == whole


@given(st.text(alphabet="0123456789.hdmsine -", max_size=40))
def test_whatever_is_typed_is_read_or_refused(text: str) -> None:
    try:
        time = read_time(text, "--ttl")
    except RequestError:
        return
    assert time is None or SHORTEST <= time <= LONGEST


def test_a_spot_machine_that_is_to_be_stopped_is_refused() -> None:
    asked = read_lifetime(ttl="8h", idle="never", at_end="stop")
    assert asked == Lifetime(8 * HOUR, None, "stop")
    asked.check(["on-demand"])
    with pytest.raises(RequestError, match="EC2 terminates it"):
        asked.check(["spot", "on-demand"])
    Lifetime().check(["spot"])
    Lifetime(at_end="terminate").check(["spot"])
    with pytest.raises(RequestError, match="--at-end hibernate"):
        read_lifetime(ttl="8h", idle="never", at_end="hibernate")


def test_tags_say_how_long_it_lives() -> None:
    assert Lifetime().tags(START) == {
        "bake:ttl": "12h",
        "bake:idle": "never",
        "bake:ends": "2026-11-21T20:00:00Z",
    }
    assert Lifetime(None, HOUR).tags(START) == {
        "bake:ttl": "never",
        "bake:idle": "1h",
        "bake:ends": "never",
    }


@pytest.mark.parametrize(
    ("machine", "ends"),
    [
        # EC2's launch is a little later than the tag's.
        (a_machine(ttl="8h", ends="2026-11-21T15:59:40Z"), START + 8 * HOUR),
        # It was extended.
        (a_machine(ttl="8h", ends="2026-11-21T18:00:00Z"), START + 10 * HOUR),
        # It was stopped and is started again, from the console: the tag is stale.
        (
            a_machine(ttl="8h", ends="2026-11-21T16:00:00Z", launched_at=START + 24 * HOUR),
            START + 32 * HOUR,
        ),
        # It was extended by so much that it has more than its TTL also after that.
        (
            a_machine(ttl="8h", ends="2026-11-25T08:00:00Z", launched_at=START + 24 * HOUR),
            START + 96 * HOUR,
        ),
        (a_machine(ttl="never", ends="never"), None),
        (a_machine(ttl="8h", ends="never"), None),
        (a_machine(), None),
        (a_machine(state="stopped", ttl="8h", ends="2026-11-21T16:00:00Z"), None),
        # What a hand has made of one tag, the other still says.
        (a_machine(ttl="long", ends="2026-11-21T18:00:00Z"), START + 10 * HOUR),
        (a_machine(ttl="8h", ends="soon"), START + 8 * HOUR),
        (a_machine(ttl="9999999d", ends="soon"), None),
    ],
)
def test_when_a_machine_ends(machine: Machine, ends: datetime | None) -> None:
    assert end(machine) == ends
    assert left(machine, START) == (None if ends is None else ends - START)


@pytest.mark.parametrize(
    ("machine", "says"),
    [
        (
            a_machine(ttl="8h", at_end="stop"),
            "in 8 h 00 min: it is stopped, and its disk stays",
        ),
        (
            a_machine(ttl="8h", idle="1h", at_end="terminate"),
            "in 8 h 00 min or when idle for 1h: it is terminated, with its disk",
        ),
        (
            a_machine(ttl="never", ends="never", idle="90m", at_end="stop"),
            "when idle for 1h30m: it is stopped, and its disk stays",
        ),
        (a_machine(ttl="never", ends="never", idle="never"), "never by itself"),
    ],
)
def test_when_a_machine_ends_in_words(machine: Machine, says: str) -> None:
    assert describe(machine, START) == says
    assert len(f"Ends     {says}") <= 80


def test_a_builder_ends_with_its_run() -> None:
    builder = a_machine(expires="2026-11-21T10:00:00Z")
    assert left(builder, START) == 2 * HOUR


def test_there_is_never_less_than_no_time_left() -> None:
    assert left(a_machine(ttl="1h"), START + 5 * HOUR) == timedelta(0)


class Says:
    """A machine whose timer answers in other words than ours."""

    def __init__(self, stdout: str) -> None:
        self.stdout = stdout

    def run(self, command: str, *, timeout_s: float) -> CommandResult:
        return CommandResult(self.stdout, "", 0)


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    with aws_in_process() as aws:
        yield aws


@pytest.mark.parametrize(
    ("machine", "why"),
    [
        (a_machine(ttl="8h", ends="never"), "has no end"),
        (a_machine(), "has no end"),
        (a_machine(expires="2026-11-21T10:00:00Z"), "builder of a bake"),
    ],
)
def test_an_end_that_is_nowhere_or_a_bakes_is_not_put_off(
    aws: Aws, machine: Machine, why: str
) -> None:
    with pytest.raises(RequestError, match=why):
        extend(aws.cloud, machine, cast(Connection, Says("60\n")), HOUR)
    assert aws.params("CreateTags") == []


@pytest.mark.parametrize("answer", ["", "-5", "soon", "9" * 5000, "1\n2"])
def test_what_the_timer_has_not_said_does_not_get_into_the_tag(aws: Aws, answer: str) -> None:
    with pytest.raises(RemoteError, match="no time"):
        extend(aws.cloud, a_machine(ttl="8h"), cast(Connection, Says(answer)), HOUR)
    assert aws.params("CreateTags") == []


@pytest.mark.parametrize("at_end", ["stop", "terminate"])
def test_an_end_is_put_off_for_good_and_ec2_knows_what_comes_at_it(aws: Aws, at_end: AtEnd) -> None:
    tags = aws.run.lasting("mine") | Lifetime().tags(aws.cloud.now())
    placement = aws.placement()
    group_id = create_security_group(
        aws.cloud, aws.run, tags, vpc_id=placement.vpc_id, cidr="203.0.113.7/32"
    )
    order = aws.order("mine", group_id, tags=tags, stays=True, at_end=at_end)
    instance = run_machine(aws.cloud, aws.run, order, [placement])
    [request] = aws.params("RunInstances")
    assert request["InstanceInitiatedShutdownBehavior"] == at_end
    assert instance.tags["bake:at-end"] == at_end
    assert end(instance) == instance.launched_at + 12 * HOUR
    extended = extend(aws.cloud, instance, cast(Connection, Says("never\n")), None)
    assert end(extended) is None
    found = find_machine(aws.cloud, instance.instance_id)
    assert found
    assert found.tags["bake:ends"] == "never"


# The timer, in parts -----------------------------------------------------------------------------


def test_the_timer_has_its_settings_and_fits_into_the_user_data() -> None:
    name = "it's \\1 $HOME"
    timer, facts = Lifetime(8 * HOUR, HOUR).files("20261121-080000-abcdef", name)
    assert (timer.path, timer.mode) == (TIMER, "0755")
    assert facts.mode == "0644", "cloud-init runs what is executable there"
    settings = timer.content[: timer.content.index("\nself=")]
    said = subprocess.run(
        ["sh", "-c", settings + '\nprintf "%s|" "$owner" "$name" "$ttl" "$ttl_s" "$idle_s"'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == f"20261121-080000-abcdef|{name}|8h|28800|3600|"
    assert len(user_data(generate(), files=(timer, facts))) < 15 * 1024
    assert Lifetime(None).files("r", "n") == ()


def test_the_timer_with_its_settings_is_sound_shell() -> None:
    timer, _ = Lifetime(8 * HOUR, HOUR).files("20261121-080000-abcdef", "it's mine")
    shellcheck = Path(sys.executable).parent / "shellcheck"
    answer = subprocess.run(
        [str(shellcheck), "-"], input=timer.content, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stdout


def test_what_runs_on_old_machines_is_python_3_6() -> None:
    ast.parse(Path(lifetime_facts.__file__).read_text(), feature_version=(3, 6))


@pytest.fixture
def jupyter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """What a Jupyter server here says of its kernels and terminals; "token" is what it takes."""
    said: dict[str, Any] = {"kernels": [], "terminals": [], "token": "secret"}

    class Server(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            known = self.headers.get("Authorization") == f"token {said['token']}"
            body = json.dumps(
                said[self.path.removeprefix("/lab/api/")] if known else {"message": "Forbidden"}
            ).encode()
            self.send_response(200 if known else 403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        about = {"port": server.server_port, "base_url": "/lab/", "token": "secret"}
        (tmp_path / "server-1.json").write_text(json.dumps(about))
        monkeypatch.setattr(lifetime_facts, "runtime_files", lambda: [tmp_path / "server-1.json"])
        # What else runs on this computer is no matter here.
        monkeypatch.setattr(lifetime_facts, "all_processes", dict)
        monkeypatch.setattr(lifetime_facts, "by_gpu", lambda running: "")
        yield said
        server.shutdown()


def test_a_kernel_keeps_the_machine_while_it_executes_and_is_used(
    jupyter: dict[str, Any], tmp_path: Path
) -> None:
    look = partial(lifetime_facts.in_use, tmp_path / "memory")
    kernel = {"id": "k1", "last_activity": "2026-11-21T08:00:00Z", "execution_state": "idle"}
    assert look() == ""
    jupyter["kernels"] = [kernel]
    assert look() == "Jupyter: k1", "it is new"
    assert look() == ""
    kernel["execution_state"] = "busy"
    assert look() == look() == "Jupyter: k1"
    kernel |= {"execution_state": "idle", "last_activity": "2026-11-21T09:00:00Z"}
    assert look() == "Jupyter: k1"
    assert look() == ""
    jupyter["terminals"] = [{"name": "1", "last_activity": "2026-11-21T08:00:00Z"}]
    assert (look(), look()) == ("Jupyter: 1", "")
    jupyter["token"] = "another's"
    assert look() == ""
    (tmp_path / "server-1.json").write_text("{")
    assert look() == ""


# On real machines --------------------------------------------------------------------------------


def launch_one(name: str, lifetime: Lifetime, image_id: str = "") -> Machine:
    cloud = connect()
    base = find_base_image(cloud, catalog.load().os_image("ubuntu-18.04"), STAND_IN_OWNER)
    image = find_image(cloud, image_id or base.image_id)
    assert image
    wish = LaunchRequest(instance_types=("g4dn.xlarge",), name=name, lifetime=lifetime)
    port = int(os.environ["BAKE_SSH_PORT"])
    return launch(cloud, image, wish, ssh_port=port, console=Console(quiet=True)).machine


@contextmanager
def ending(cloud: Cloud, *names: str) -> Iterator[None]:
    """Machines of these names are gone afterwards, and the key of whoever launched them."""
    before = {pair["KeyName"] for pair in cloud.ec2("DescribeKeyPairs")["KeyPairs"]}
    try:
        yield
    finally:
        for machine in machines(cloud):
            if machine.name in names:
                terminate(cloud, machine.instance_id)
                ssh_config.forget(machine.instance_id)
        for pair in cloud.ec2("DescribeKeyPairs")["KeyPairs"]:
            if pair["KeyName"] not in before:
                cloud.ec2("DeleteKeyPair", KeyName=pair["KeyName"])


def state_of(cloud: Cloud, machine: Machine) -> str:
    found = find_machine(cloud, machine.instance_id)
    return found.state if found else "gone"


def wait_until(what: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def logged_in(cloud: Cloud, machine: Machine) -> Connection:
    host = ssh_config.host_of(cloud, machine, ssh_port=int(os.environ["BAKE_SSH_PORT"]))
    return ssh_config.connection(host)


def ask(connection: Connection, question: str) -> str:
    """What `lifetime_facts` on the machine says to a line of Python; `f` is it."""
    line = f"import lifetime_facts as f; running = f.all_processes(); print({question})"
    command = f"cd /usr/local/lib/bake && sudo python3 -c {shlex.quote(line)}"
    return connection.run(command).stdout.strip()


@pytest.mark.machines
def test_a_machine_whose_client_was_killed_warns_and_ends_by_itself(local_cloud: Path) -> None:
    cloud = connect()
    code = (
        "import tests.unit.machine.test_lifetime as t; from datetime import timedelta as T;"
        "t.launch_one('left-alone', t.Lifetime(T(seconds=10), at_end='terminate')); "
        "print('launched', flush=True); input()"
    )
    with ending(cloud, "left-alone"):
        client = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert client.stdout
        assert client.stdout.readline() == b"launched\n"
        client.kill()
        client.communicate()
        [machine] = [each for each in machines(cloud) if each.name == "left-alone"]
        assert machine.tags["bake:at-end"] == "terminate"
        port = int(os.environ["BAKE_SSH_PORT"])
        with subprocess.Popen(
            [*ssh_config.reach(cloud, machine, ssh_port=port), "-tt"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as person:
            assert person.stdout
            screen = person.stdout.read().decode(errors="replace")
            person.kill()
        assert "left-alone is switched off now, as its TTL of 10s ends." in screen
        wait_until(lambda: state_of(cloud, machine) == "terminated")


@pytest.mark.machines
def test_who_uses_a_machine_keeps_it_and_nobody_does_not(local_cloud: Path) -> None:
    cloud = connect()
    idle = timedelta(seconds=6)
    with ending(cloud, "idle"):
        machine = launch_one("idle", Lifetime(timedelta(minutes=10), idle))
        with logged_in(cloud, machine) as one, one.start("sleep 60"):
            wait_until(
                lambda: one.run("test -s /run/bake-lifetime/used", check=False).exit_status == 0
            )
            said = one.run("sudo cloud-init schema --system")
            assert "Valid" in said.stdout + said.stderr
            assert ask(one, "f.by_ssh(running)").startswith("SSH: ")
            assert ask(one, "f.by_gpu(running)") == ""
            extended = extend(cloud, machine, one, HOUR)
            [known] = [each for each in machines(cloud) if each.name == "idle"]
            assert known.tags == extended.tags
            ends = left(known, cloud.now())
            assert ends
            assert timedelta(minutes=69) < ends < timedelta(minutes=70)
            one.put(FAKE_NVIDIA_SMI, "nvidia-smi", mode=0o755)
            one.run("sudo mv nvidia-smi /usr/local/bin/; echo 0 >load; echo >pids")
            assert ask(one, "f.by_gpu(running)") == ""
            one.run("echo 7 >load")
            assert ask(one, "f.by_gpu(running)") == "GPU"
            one.run("echo '[N/A]' >load; echo 1 >pids")
            assert ask(one, "f.by_gpu(running)") == "GPU: process 1"
            # A kernel that has a context on the GPU, and waits.
            one.run("exec -a ipykernel_launcher sleep 60 >/dev/null 2>&1 & echo $! >pids")
            assert ask(one, "f.by_gpu(running)") == ""
            time.sleep(idle.total_seconds())
            assert state_of(cloud, machine) == "running"
        wait_until(lambda: state_of(cloud, machine) == "stopped")


def seconds_left(connection: Connection) -> float:
    """By the timer's own note of this boot."""
    connection.run("until test -s /run/bake-lifetime/ends; do sleep 0.1; done", timeout_s=60)
    noted = connection.run("cat /run/bake-lifetime/ends /proc/uptime").stdout.split()
    return float(noted[0]) - float(noted[1])


@pytest.mark.machines
@pytest.mark.soak
@pytest.mark.timeout(400)
def test_what_starts_again_has_a_whole_ttl_and_what_reboots_what_was_left(
    local_cloud: Path,
) -> None:
    cloud, ttl = connect(), timedelta(seconds=40)
    with ending(cloud, "again"):
        machine = launch_one("again", Lifetime(ttl))
        wait_until(lambda: state_of(cloud, machine) == "stopped", 120)
        machine = start(cloud, machine.instance_id)
        assert end(machine) == machine.launched_at + ttl, "not what the tag says: it is older"
        with logged_in(cloud, machine) as connection:
            assert 20 < seconds_left(connection) <= 40
            machine = extend(cloud, machine, connection, ttl)
            before = seconds_left(connection)
            assert 50 < before <= 80
            reboot(connection, timeout_s=120, on_wait=lambda reason: None)
            assert 40 <= seconds_left(connection) < before
        moved = end(machine)
        assert moved
        wait_until(lambda: state_of(cloud, machine) == "stopped", 150)
        late = (cloud.now() - moved).total_seconds()
        assert -5 < late < 30, late


# A process that is what its name says in the eyes of the timer, for as long as it is told.
BUSY_KERNEL = """
import sys, time
until = time.monotonic() + float(sys.argv[1])
while time.monotonic() < until: pass
"""


@pytest.mark.machines
@pytest.mark.soak
@pytest.mark.timeout(400)
def test_a_busy_kernel_and_a_gpu_at_work_keep_it_when_nobody_is_logged_in(
    local_cloud: Path,
) -> None:
    cloud, idle = connect(), timedelta(seconds=8)
    with ending(cloud, "at-work"):
        machine = launch_one("at-work", Lifetime(None, idle))
        assert end(machine) is None
        with logged_in(cloud, machine) as connection:
            connection.put(FAKE_NVIDIA_SMI, "nvidia-smi", mode=0o755)
            connection.put(BUSY_KERNEL.encode(), "ipykernel_launcher.py")
            connection.run("sudo mv nvidia-smi /usr/local/bin/; echo 0 >load; echo >pids")
            work = "python3 ipykernel_launcher.py 20; echo 5 >load; sleep 20; echo 0 >load"
            connection.run(f"setsid nohup sh -c '{work}' >/dev/null 2>&1 </dev/null &")
        time.sleep(38)
        assert state_of(cloud, machine) == "running"
        wait_until(lambda: state_of(cloud, machine) == "stopped", 60)


@pytest.mark.machines
@pytest.mark.soak
@pytest.mark.timeout(400)
def test_whoever_is_logged_in_is_warned_and_an_image_of_it_has_no_timer(local_cloud: Path) -> None:
    cloud, ttl = connect(), timedelta(seconds=75)
    with ending(cloud, "warned", "its-image"):
        machine = launch_one("warned", Lifetime(ttl, at_end="terminate"))
        port = int(os.environ["BAKE_SSH_PORT"])
        person = subprocess.Popen(
            [*ssh_config.reach(cloud, machine, ssh_port=port), "-tt"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        image_id = cloud.ec2(
            "CreateImage", InstanceId=machine.instance_id, Name="with-timer", NoReboot=True
        )["ImageId"]
        try:
            image = wait_until_available(cloud, image_id)
            screen = " ".join(person.communicate()[0].decode(errors="replace").split())
            assert "To keep it: invoke extend warned 2h" in screen
            wait_until(lambda: state_of(cloud, machine) == "terminated")
            other = launch_one("its-image", Lifetime(None), image.image_id)
            with logged_in(cloud, other) as connection:
                connection.run("cloud-init status --wait", timeout_s=60)
                assert connection.run(f"test -x {TIMER}").exit_status == 0, "it came along"
                assert connection.run(f"sudo {TIMER} extend 60", check=False).exit_status == 1
                watching = connection.run("pgrep -f 'bake-lifetime watch'", check=False)
                assert watching.stdout == ""
                assert connection.run("ls /run/bake-lifetime", check=False).exit_status
        finally:
            person.kill()
            delete_image(cloud, image)
