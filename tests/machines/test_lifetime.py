"""The lifetime of real machines of the local cloud."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from bake import catalog
from bake.aws.base_image import find_base_image
from bake.aws.client.session import Cloud, connect
from bake.aws.image import delete_image, find_image
from bake.aws.image_creation import wait_until_available
from bake.aws.machine import Machine, find_machine, machines, start, terminate
from bake.console.console import Console
from bake.local.machines.os_images import STAND_IN_OWNER
from bake.machine import ssh_config
from bake.machine.launch import LaunchRequest, launch
from bake.machine.lifetime import (
    TIMER,
    Lifetime,
    end_time,
    extend,
    time_left,
)
from bake.ssh.connection import Connection
from bake.ssh.reboot import reboot
from tests.support.environment import REPOSITORY

# It says what the login user has written into two files.
FAKE_NVIDIA_SMI = b"""#!/bin/sh
case $1 in
    *utilization*) cat /home/ubuntu/load ;;
    *pid*) cat /home/ubuntu/pids ;;
esac
"""
HOUR = timedelta(hours=1)


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
                ssh_config.forget_machine(machine.instance_id)
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
    host = ssh_config.find_host(cloud, machine, ssh_port=int(os.environ["BAKE_SSH_PORT"]))
    return ssh_config.connect(host)


def ask(connection: Connection, question: str) -> str:
    """What `lifetime_facts` on the machine says to a line of Python; `f` is it."""
    line = f"import lifetime_facts as f; running = f.all_processes(); print({question})"
    command = f"cd /usr/local/lib/bake && sudo python3 -c {shlex.quote(line)}"
    return connection.run(command).stdout.strip()


def test_a_machine_whose_client_was_killed_warns_and_ends_by_itself(local_cloud: Path) -> None:
    cloud = connect()
    code = (
        "import tests.machines.test_lifetime as t; from datetime import timedelta as T;"
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
            [*ssh_config.ssh_command(cloud, machine, ssh_port=port), "-tt"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as person:
            assert person.stdout
            screen = person.stdout.read().decode(errors="replace")
            person.kill()
        assert "left-alone is switched off now, as its TTL of 10s ends." in screen
        wait_until(lambda: state_of(cloud, machine) == "terminated")


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
            assert ask(one, "f.find_ssh_use(running)").startswith("SSH: ")
            assert ask(one, "f.find_gpu_use(running)") == ""
            extended = extend(cloud, machine, one, HOUR)
            [known] = [each for each in machines(cloud) if each.name == "idle"]
            assert known.tags == extended.tags
            ends = time_left(known, cloud.now())
            assert ends
            assert timedelta(minutes=69) < ends < timedelta(minutes=70)
            one.put(FAKE_NVIDIA_SMI, "nvidia-smi", mode=0o755)
            one.run("sudo mv nvidia-smi /usr/local/bin/; echo 0 >load; echo >pids")
            assert ask(one, "f.find_gpu_use(running)") == ""
            one.run("echo 7 >load")
            assert ask(one, "f.find_gpu_use(running)") == "GPU"
            one.run("echo '[N/A]' >load; echo 1 >pids")
            assert ask(one, "f.find_gpu_use(running)") == "GPU: process 1"
            # A kernel that has a context on the GPU, and waits.
            one.run("exec -a ipykernel_launcher sleep 60 >/dev/null 2>&1 & echo $! >pids")
            assert ask(one, "f.find_gpu_use(running)") == ""
            time.sleep(idle.total_seconds())
            assert state_of(cloud, machine) == "running"
        wait_until(lambda: state_of(cloud, machine) == "stopped")


def seconds_left(connection: Connection) -> float:
    """By the timer's own note of this boot."""
    connection.run("until test -s /run/bake-lifetime/ends; do sleep 0.1; done", timeout_s=60)
    noted = connection.run("cat /run/bake-lifetime/ends /proc/uptime").stdout.split()
    return float(noted[0]) - float(noted[1])


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
        assert end_time(machine) == machine.launched_at + ttl, "not what the tag says: it is older"
        with logged_in(cloud, machine) as connection:
            assert 20 < seconds_left(connection) <= 40
            machine = extend(cloud, machine, connection, ttl)
            before = seconds_left(connection)
            assert 50 < before <= 80
            reboot(connection, timeout_s=120, on_wait=lambda reason: None)
            assert 40 <= seconds_left(connection) < before
        moved = end_time(machine)
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


@pytest.mark.soak
@pytest.mark.timeout(400)
def test_a_busy_kernel_and_a_gpu_at_work_keep_it_when_nobody_is_logged_in(
    local_cloud: Path,
) -> None:
    cloud, idle = connect(), timedelta(seconds=8)
    with ending(cloud, "at-work"):
        machine = launch_one("at-work", Lifetime(None, idle))
        assert end_time(machine) is None
        with logged_in(cloud, machine) as connection:
            connection.put(FAKE_NVIDIA_SMI, "nvidia-smi", mode=0o755)
            connection.put(BUSY_KERNEL.encode(), "ipykernel_launcher.py")
            connection.run("sudo mv nvidia-smi /usr/local/bin/; echo 0 >load; echo >pids")
            work = "python3 ipykernel_launcher.py 20; echo 5 >load; sleep 20; echo 0 >load"
            connection.run(f"setsid nohup sh -c '{work}' >/dev/null 2>&1 </dev/null &")
        time.sleep(38)
        assert state_of(cloud, machine) == "running"
        wait_until(lambda: state_of(cloud, machine) == "stopped", 60)


@pytest.mark.soak
@pytest.mark.timeout(400)
def test_whoever_is_logged_in_is_warned_and_an_image_of_it_has_no_timer(local_cloud: Path) -> None:
    cloud, ttl = connect(), timedelta(seconds=75)
    with ending(cloud, "warned", "its-image"):
        machine = launch_one("warned", Lifetime(ttl, at_end="terminate"))
        port = int(os.environ["BAKE_SSH_PORT"])
        person = subprocess.Popen(
            [*ssh_config.ssh_command(cloud, machine, ssh_port=port), "-tt"],
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
