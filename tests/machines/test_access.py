"""A bake survives that this computer gets another address."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bake.aws.launch import run_machine
from bake.aws.machine import Machine
from bake.aws.security_group import create_security_group
from bake.console.console import Console
from bake.machine import access
from bake.machine.watch import Watch
from bake.ssh import keys
from tests.support.aws_in_process import Aws, aws_in_process
from tests.support.proxy import Proxy
from tests.support.sshd import sshd

OLD, NEW = "203.0.113.7/32", "198.51.100.9/32"


@pytest.fixture
def aws() -> Iterator[Aws]:
    with aws_in_process() as aws:
        yield aws


def a_builder(aws: Aws, port: int) -> Machine:
    place, tags = aws.placement(), aws.run.temporary()
    group = create_security_group(
        aws.cloud, aws.run, tags, vpc_id=place.vpc_id, cidr=OLD, port=port
    )
    return run_machine(aws.cloud, aws.run, aws.order("k", group), [place])


def addresses(aws: Aws) -> set[str]:
    groups = aws.cloud.ec2("DescribeSecurityGroups")["SecurityGroups"]
    return {
        source["CidrIp"]
        for group in groups
        for rule in group["IpPermissions"]
        for source in rule["IpRanges"]
    }


def test_the_work_on_a_builder_goes_on_from_a_new_address(
    aws: Aws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy accepts no connection until the security group allows the new address."""
    monkeypatch.setattr(access, "answers", lambda address, port: False)
    with (
        sshd(tmp_path, keys.generate()) as server,
        Proxy(server.port) as way,
        server.connect(port=way.port) as connection,
    ):

        def work() -> str:
            monkeypatch.setenv("BAKE_CALLER_CIDR", NEW)
            way.refuse = True
            way.cut("drop")
            deadline = time.monotonic() + 20
            while addresses(aws) != {NEW}:
                assert time.monotonic() < deadline, addresses(aws)
                time.sleep(0.05)
            way.refuse = False
            return connection.run("echo again").stdout

        machine = a_builder(aws, way.port)
        assert Watch(aws.cloud, machine, connection, Console()).run_while_alive(work) == "again\n"
