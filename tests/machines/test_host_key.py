"""A launched machine gets another host key than the one in its user data, and is never lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bake.aws import machine as aws
from bake.aws.client.session import Cloud, connect
from bake.aws.machine import Machine, find_machine
from bake.errors import HostKeyError
from bake.machine import host_key, key_store, ssh_config
from bake.machine.access import reach
from bake.machine.key_store import KnownHostKey, read_host_keys
from bake.machine.ssh_config import Host
from tests.support.environment import REPOSITORY, scrub, use_local_cloud
from tests.support.launched import launched

NAME = "keyed"
# Replaces the host key, and kills this process after the Nth call of one of its functions.
CLIENT = """
import os, signal, sys
from bake.aws.client.session import connect
from bake.aws.machine import find_own_machine
from bake.machine import host_key
from bake.machine.access import reach

name, count = sys.argv[1], int(sys.argv[2])
whole, calls = getattr(host_key, name), []

def call(*arguments):
    result = whole(*arguments)
    calls.append(name)
    if len(calls) == count:
        os.kill(os.getpid(), signal.SIGKILL)
    return result

setattr(host_key, name, call)
cloud = connect()
machine = find_own_machine(cloud, sys.argv[3])
reach(cloud, machine, ssh_port=int(os.environ["BAKE_SSH_PORT"]), say=sys.exit)
"""
# After the new key was made, known here, installed there, and shown by sshd.
POINTS = [("_call", 1), ("save_host_keys", 1), ("_call", 2), ("_wait_until_shown", 1)]


@pytest.fixture(scope="module")
def ours(local_home: Path) -> Iterator[tuple[Cloud, Machine]]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        scrub(monkeypatch, local_home.parent)
        endpoint = use_local_cloud(monkeypatch, local_home)
        cloud = connect()
        with launched(cloud, NAME, ssh_port=endpoint.ssh_port) as machine:
            yield cloud, machine


@pytest.fixture
def host(ours: tuple[Cloud, Machine], local_cloud: Path) -> Host:
    return found(*ours)


def found(cloud: Cloud, machine: Machine) -> Host:
    now = find_machine(cloud, machine.instance_id)
    assert now is not None
    return ssh_config.find_host(cloud, now, ssh_port=int(os.environ["BAKE_SSH_PORT"]))


def ssh(host: Host, line: str = "true") -> str:
    """Run a command with OpenSSH's own client."""
    command = ssh_config.ssh_arguments(host, "-T")
    done = subprocess.run([*command, line], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def client(point: tuple[str, int]) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-c", CLIENT, point[0], str(point[1]), NAME]
    return subprocess.Popen(words, cwd=REPOSITORY)


def as_if_launched_now(host: Host) -> str:
    """Let the machine's present key be the one from its user data, and return it."""
    [known] = read_host_keys(host.instance_id)
    key_store.save_host_keys(host.instance_id, KnownHostKey(known.public, from_user_data=True))
    return known.public


def complete(host: Host) -> None:
    said: list[str] = []
    host_key.complete(host, said.append)
    assert said == []


def test_the_key_of_the_user_data_is_replaced_for_good(
    ours: tuple[Cloud, Machine], host: Host
) -> None:
    cloud, machine = ours
    [first] = read_host_keys(host.instance_id)
    assert first.from_user_data
    data = ssh(host, "sudo cat /var/lib/cloud/instance/user-data.txt")
    assert first.public in data
    reach(cloud, machine, ssh_port=host.port, say=pytest.fail)
    [second] = read_host_keys(host.instance_id)
    assert not second.from_user_data
    assert second.public != first.public
    assert ssh(host, "ls /etc/ssh | grep -c ssh_host_.*_key$").strip() == "1"
    with pytest.raises(HostKeyError):
        ssh_config.connect(host, [first.public])
    # cloud-init does not put the old one back at the next boot.
    aws.stop(cloud, machine.instance_id)
    aws.start(cloud, machine.instance_id)
    host = found(cloud, machine)
    ssh_config.connect(host, [second.public], timeout_s=60).close()
    ssh(host)


@pytest.mark.parametrize("point", POINTS)
def test_a_machine_is_reached_after_the_client_was_killed_and_the_next_command_completes_it(
    host: Host, point: tuple[str, int]
) -> None:
    complete(host)
    first = as_if_launched_now(host)
    assert client(point).wait(60) == -signal.SIGKILL
    ssh(host)
    ssh(host, "sudo service ssh restart")  # sshd reads its keys, as after a reboot
    ssh_config.connect(host).close()
    complete(host)
    [second] = read_host_keys(host.instance_id)
    assert (second.from_user_data, second.public != first) == (False, True)
    ssh(host)
    with pytest.raises(HostKeyError):
        ssh_config.connect(host, [first])


def test_two_commands_at_once_agree_on_the_new_key(host: Host) -> None:
    complete(host)
    first = as_if_launched_now(host)
    both = [client(("complete", 99)) for _ in range(2)]
    assert [each.wait(60) for each in both] == [0, 0]
    [second] = read_host_keys(host.instance_id)
    assert second.public != first
    ssh_config.connect(host, [second.public]).close()


def test_a_machine_that_cannot_make_a_key_is_reached_and_said(host: Host) -> None:
    complete(host)
    first = as_if_launched_now(host)
    ssh(host, "sudo mv /usr/bin/ssh-keygen /usr/bin/ssh-keygen.away")
    said: list[str] = []
    try:
        host_key.complete(host, said.append)
    finally:
        ssh(host, "sudo mv /usr/bin/ssh-keygen.away /usr/bin/ssh-keygen")
    [text] = said
    assert "still the one from its user data" in text
    assert read_host_keys(host.instance_id) == [KnownHostKey(first, from_user_data=True)]
    complete(host)
    assert [known.from_user_data for known in read_host_keys(host.instance_id)] == [False]
