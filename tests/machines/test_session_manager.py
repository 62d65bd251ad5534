"""A machine that has no public address is reached by Session Manager: by AWS's own command line,
which starts the sessions, and a stand-in for its plugin, which is in no package index."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest

from bake import catalog
from bake.aws.base_image import find_base_image
from bake.aws.client.session import Cloud, connect
from bake.aws.image import find_image
from bake.aws.machine import Machine, terminate
from bake.console.console import Console
from bake.errors import ConnectError, RequestError
from bake.local.machines.os_images import STAND_IN_OWNER
from bake.machine import launch, session_manager, ssh_config, transfer
from bake.machine.key_store import key_path, save_key
from bake.ssh import keys
from tests.support.aws_in_process import ACCOUNT, aws_in_process
from tests.support.environment import REPOSITORY, scrub, use_local_cloud
from tests.support.processes import has_ended
from tests.support.proved_images import PROVED

BIN = Path(sys.executable).parent
TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"Service": "ec2.amazonaws.com"},
            "Action": "sts:AssumeRole",
        }
    ],
}


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the PATH with the AWS CLI and the plugin that stands in."""
    folder = tmp_path_factory.mktemp("programs")
    (folder / "aws").symlink_to(BIN / "aws")
    (folder / "session-manager-plugin").symlink_to(
        REPOSITORY / "tests/support/session_manager_plugin.py"
    )
    return folder


@pytest.fixture(scope="module")
def ours(
    local_home: Path, programs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Cloud, Machine, Path]]:
    """A machine that was launched so, the cloud, and the plugin's log."""
    log = tmp_path_factory.mktemp("plugin") / "log"
    with pytest.MonkeyPatch.context() as monkeypatch:
        scrub(monkeypatch, local_home.parent)
        use_local_cloud(monkeypatch, local_home)
        monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
        monkeypatch.setenv("PLUGIN_LOG", str(log))
        iam = boto3.client("iam")
        iam.create_role(RoleName="agents", AssumeRolePolicyDocument=json.dumps(TRUST))
        iam.create_instance_profile(InstanceProfileName="agents")
        iam.add_role_to_instance_profile(InstanceProfileName="agents", RoleName="agents")
        cloud = connect()
        save_key(
            key_path(cloud.account_id, cloud.region, "bake-hidden"), keys.generate().private_openssh
        )
        machine = start(cloud, "hidden", instance_profile="agents")
        yield cloud, machine, log
        terminate(cloud, machine.instance_id)
        ssh_config.forget_machine(machine.instance_id)
        cloud.ec2("DeleteKeyPair", KeyName=machine.key_name)
        iam.remove_role_from_instance_profile(InstanceProfileName="agents", RoleName="agents")
        iam.delete_instance_profile(InstanceProfileName="agents")
        iam.delete_role(RoleName="agents")


def start(cloud: Cloud, name: str, **more: Any) -> Machine:
    base = find_base_image(cloud, catalog.load().os_image("ubuntu-18.04"), STAND_IN_OWNER)
    image = find_image(cloud, base.image_id)
    assert image is not None
    request = launch.LaunchRequest(
        instance_types=("g4dn.xlarge",), key="bake-hidden", name=name, via="ssm", **more
    )
    port = int(os.environ["BAKE_SSH_PORT"])
    return launch.launch(cloud, image, request, ssh_port=port, console=Console()).machine


@pytest.fixture
def hidden(
    ours: tuple[Cloud, Machine, Path], local_cloud: Path, programs: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Machine:  # fmt: skip
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("PLUGIN_LOG", str(ours[2]))
    return ours[1]


def run(*words: str, **more: Any) -> subprocess.CompletedProcess[bytes]:
    command = [BIN / "invoke", *words, "--machine", "hidden", "--local"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, timeout=120, **more)
    assert b"Traceback" not in done.stderr
    return done


def sessions(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def test_it_has_no_address_and_nobody_gets_in(
    ours: tuple[Cloud, Machine, Path], local_cloud: Path
) -> None:
    cloud, machine, log = ours
    assert machine.address is None
    assert machine.tags["bake:via"] == "ssm"
    listed = subprocess.run([BIN / "invoke", "machines", "--local"], cwd=REPOSITORY,
                            capture_output=True, text=True).stdout  # fmt: skip
    (line,) = [line for line in listed.splitlines() if line.startswith("hidden ")]
    assert " ssm " in line
    (reservation,) = cloud.ec2("DescribeInstances", InstanceIds=[machine.instance_id])[
        "Reservations"
    ]
    (instance,) = reservation["Instances"]
    assert instance["IamInstanceProfile"]["Arn"].endswith(":instance-profile/agents")
    its = [{"Name": "tag:bake:run", "Values": [machine.run_id]}]
    (there,) = cloud.ec2("DescribeSecurityGroups", Filters=its)["SecurityGroups"]
    assert there["IpPermissions"] == []
    assert there["IpPermissionsEgress"]
    session = sessions(log)[-1]
    assert session["DocumentName"] == "AWS-StartSSHSession"
    assert session["Target"] == machine.instance_id
    assert session["Parameters"] == {"portNumber": [os.environ["BAKE_SSH_PORT"]]}
    assert session["region"] == cloud.region


def test_commands_and_files_go_there_as_to_any_machine(
    ours: tuple[Cloud, Machine, Path], hidden: Machine, tmp_path: Path
) -> None:
    done = run("run", "id -un; cat; exit 3", input=b"in")
    assert (done.stdout, done.returncode) == (b"ubuntu\nin", 3), done.stderr
    host = ssh_config.find_host(ours[0], hidden, ssh_port=int(os.environ["BAKE_SSH_PORT"]))
    data = os.urandom(1 << 20)
    (tmp_path / "file").write_bytes(data)
    for request in (
        transfer.read_put([str(tmp_path / "file"), "there"]),
        transfer.read_get(["there", f"{tmp_path}/back"]),
    ):
        command = transfer.command(host, request, progress=False)
        subprocess.run(command, check=True, timeout=60)
    assert (tmp_path / "back").read_bytes() == data


def test_our_own_client_goes_there_and_leaves_no_process(
    ours: tuple[Cloud, Machine, Path], hidden: Machine
) -> None:
    cloud, _, log = ours
    host = ssh_config.find_host(cloud, hidden, ssh_port=int(os.environ["BAKE_SSH_PORT"]))
    with ssh_config.connect(host) as connection:
        assert connection.run("id -un").stdout == "ubuntu\n"
        plugin = sessions(log)[-1]["pid"]
        assert not has_ended(plugin)
    assert has_ended(plugin)
    mine = subprocess.run(["ps", "-o", "stat=", "--ppid", str(os.getpid())],
                          capture_output=True, text=True).stdout.split()  # fmt: skip
    assert "Z" not in "".join(mine)
    with ssh_config.connect(host) as connection:
        os.kill(sessions(log)[-1]["pid"], 9)
        deadline = time.monotonic() + 10
        while connection.alive:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert connection.run("id -un").stdout == "ubuntu\n", "it is made again"


def test_without_the_right_to_an_agent_it_is_said_what_may_be_missing(
    ours: tuple[Cloud, Machine, Path], hidden: Machine
) -> None:
    cloud, *_ = ours
    host = ssh_config.find_host(cloud, hidden, ssh_port=int(os.environ["BAKE_SSH_PORT"]))
    ec2 = boto3.client("ec2")
    (held,) = ec2.describe_iam_instance_profile_associations()["IamInstanceProfileAssociations"]
    ec2.disassociate_iam_instance_profile(AssociationId=held["AssociationId"])
    try:
        with (
            pytest.raises(ConnectError, match="is not connected") as refused,
            session_manager.hint_on_failure(True),
        ):
            ssh_config.connect(host, timeout_s=1)
    finally:
        ec2.associate_iam_instance_profile(
            IamInstanceProfile={"Name": "agents"}, InstanceId=hidden.instance_id
        )
    assert "AmazonSSMManagedInstanceCore" in refused.value.hint
    assert "NAT gateway" in refused.value.hint


def test_a_refusal_that_will_not_pass_is_not_waited_for(
    ours: tuple[Cloud, Machine, Path], hidden: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody whose policy does not let him start sessions, and lets him then."""
    cloud, *_ = ours
    host = ssh_config.find_host(cloud, hidden, ssh_port=int(os.environ["BAKE_SSH_PORT"]))
    iam = boto3.client("iam")
    iam.create_user(UserName="somebody")
    key = iam.create_access_key(UserName="somebody")["AccessKey"]
    try:
        with monkeypatch.context() as his:
            his.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
            his.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
            began = time.monotonic()
            with pytest.raises(ConnectError) as refused:
                ssh_config.connect(host, timeout_s=60)
            assert "ssm:StartSession" in refused.value.details[0]
            assert time.monotonic() - began < 20
            policy = (REPOSITORY / "docs" / "iam-policy-session-manager.json").read_text()
            iam.put_user_policy(UserName="somebody", PolicyName="p", PolicyDocument=policy)
            with ssh_config.connect(host) as connection:
                assert connection.run("id -un").stdout == "ubuntu\n"
            other = policy.replace("ssm:resourceTag/bake:run", "ssm:resourceTag/another")
            iam.put_user_policy(UserName="somebody", PolicyName="p", PolicyDocument=other)
            with pytest.raises(ConnectError):
                ssh_config.connect(host, timeout_s=60)
    finally:
        with contextlib.suppress(iam.exceptions.NoSuchEntityException):
            iam.delete_user_policy(UserName="somebody", PolicyName="p")
        iam.delete_access_key(UserName="somebody", AccessKeyId=key["AccessKeyId"])
        iam.delete_user(UserName="somebody")


def test_what_is_missing_here_is_said_before_anything_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RequestError, match="Invalid --via telnet"):
        session_manager.check_via("telnet")
    (tmp_path / "aws").symlink_to(BIN / "aws")
    monkeypatch.setenv("PATH", str(tmp_path))
    with aws_in_process() as aws:
        image = replace(PROVED, image_id=aws.base_image(owner_id=ACCOUNT, name="bake/x/1"))
        request = launch.LaunchRequest(instance_types=("g4dn.xlarge",), via="ssm")
        with pytest.raises(RequestError, match="needs session-manager-plugin") as refused:
            launch.launch(aws.cloud, image, request, ssh_port=22, console=Console())
        assert "install-plugin" in refused.value.hint
        assert aws.params("RunInstances") == []
        assert aws.params("CreateSecurityGroup") == []


def test_the_proxy_command_is_aws_s_own_with_all_that_an_editor_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "my profile 100%")
    words = session_manager.proxy_command("eu-west-1")
    host = ssh_config.Host("bake-x", "i-1", "i-1", "ubuntu", 22, tmp_path / "k", words)
    told = subprocess.run(
        ["ssh", "-G", "-F", ssh_config.write(host), "bake-x"],
        capture_output=True,
        text=True,
        check=True,
    )
    (command,) = [
        line.partition(" ")[2]
        for line in told.stdout.splitlines()
        if line.startswith("proxycommand ")
    ]
    # As ssh fills it in, and a shell reads it.
    filled = command.replace("%h", "i-1").replace("%p", "22").replace("%%", "%")
    assert shlex.split(filled) == [
        *("aws", "ssm", "start-session", "--region", "eu-west-1"),
        *("--profile", "my profile 100%"),
        *("--target", "i-1", "--document-name", "AWS-StartSSHSession"),
        *("--parameters", "portNumber=22"),
    ]
    assert session_manager.fill_in(words, "i-1", 22) == tuple(shlex.split(filled))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "keys come first")
    assert "--profile" not in session_manager.proxy_command("eu-west-1")
