"""The local cloud with real machines, used by the AWS CLI, boto3 and Packer."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from bake import catalog
from bake.local import control
from bake.local.control import LocalCloud
from bake.local.machines import os_images
from bake.local.machines.engine import _tiny_root, find_engine
from bake.ssh.keys import KeyPair, generate

DEBIAN_OWNER = "136693071363"
TINY = "t3.micro"
BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Cloud:
    """The local cloud of this module, and the clients with which the tests use it."""

    def __init__(self, home: Path, endpoint: LocalCloud, base: str) -> None:
        self.home = home
        self.endpoint = endpoint
        self.base = base
        self.environment = {**os.environ, **control.environment(endpoint), "AWS_PAGER": ""}
        self.ec2 = boto3.client(
            "ec2",
            endpoint_url=endpoint.url,
            region_name="us-east-1",
            aws_access_key_id="local",
            aws_secret_access_key="local",
        )
        self.key = generate()
        self.host_key = generate()
        self.ec2.import_key_pair(
            KeyName="the-tests", PublicKeyMaterial=self.key.public_openssh.encode()
        )

    def aws(self, *arguments: str) -> Any:
        """Run the AWS CLI. Return its parsed output."""
        command = [str(Path(sys.executable).with_name("aws")), "--output", "json", *arguments]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout) if done.stdout.strip() else None

    def run(self, image_id: str, **more: Any) -> str:
        more.setdefault("UserData", user_data(self.host_key))
        reservation = self.ec2.run_instances(
            ImageId=image_id,
            InstanceType=TINY,
            KeyName="the-tests",
            MinCount=1,
            MaxCount=1,
            **more,
        )
        return str(reservation["Instances"][0]["InstanceId"])

    def instance(self, instance_id: str) -> dict[str, Any]:
        answer = self.ec2.describe_instances(InstanceIds=[instance_id])
        instance: dict[str, Any] = answer["Reservations"][0]["Instances"][0]
        return instance

    def wait_for(self, instance_id: str, state: str, seconds: float = 120) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while self.instance(instance_id)["State"]["Name"] != state:
            assert time.monotonic() < deadline, self.instance(instance_id)
            time.sleep(0.1)
        return self.instance(instance_id)

    def wait_for_ssh(self, instance_id: str, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while True:
            (status,) = self.ec2.describe_instance_status(InstanceIds=[instance_id])[
                "InstanceStatuses"
            ] or [None]
            if status and status["InstanceStatus"]["Status"] == "ok":
                return
            assert time.monotonic() < deadline, self.console(instance_id)
            time.sleep(0.1)

    def wait_for_image(self, image_id: str, seconds: float = 120) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while True:
            image: dict[str, Any]
            (image,) = self.ec2.describe_images(ImageIds=[image_id])["Images"]
            if image["State"] != "pending":
                assert image["State"] == "available", image
                return image
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def console(self, instance_id: str) -> str:
        return str(self.ec2.get_console_output(InstanceId=instance_id)["Output"])

    def ssh(self, instance_id: str, command: str, *, user: str = "admin") -> str:
        """Run a command over SSH and return its output. The host key must be the machine's."""
        address = self.instance(instance_id)["PublicIpAddress"]
        private = self.home / "key"
        if not private.exists():
            private.touch(mode=0o600)
            private.write_text(self.key.private_openssh)
        port = self.endpoint.ssh_port
        known = self.home / "known_hosts"
        name = address if port == 22 else f"[{address}]:{port}"
        known.write_text(f"{name} {self.host_key.public_openssh}\n")
        options = ["-F", "none", "-o", "StrictHostKeyChecking=yes", "-o", "IdentitiesOnly=yes"]
        options += ["-o", f"UserKnownHostsFile={known}", "-i", str(private), "-p", str(port)]
        done = subprocess.run(
            ["ssh", *options, f"{user}@{address}", command],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode in (0, 255), done.stderr  # 255: the machine was powered off
        return done.stdout.strip()

    def terminate(self, *instance_ids: str) -> None:
        self.ec2.terminate_instances(InstanceIds=list(instance_ids))
        for instance_id in instance_ids:
            self.wait_for(instance_id, "terminated")


def user_data(host_key: KeyPair) -> str:
    document = {
        "ssh_keys": {
            "ed25519_private": host_key.private_openssh,
            "ed25519_public": host_key.public_openssh,
        }
    }
    return "#cloud-config\n" + json.dumps(document)


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    home = tmp_path_factory.mktemp("cloud")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BAKE_HOME", str(home))
        endpoint = control.up()
        base = os_images.provide(endpoint, catalog.load().os_image("debian-12"), stand_in=False)
        try:
            yield Cloud(home, endpoint, base)
        finally:
            patch.setenv("BAKE_HOME", str(home))
            control.down(erase=True)


@pytest.fixture(autouse=True)
def its_home(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAKE_HOME", str(cloud.home))


@pytest.fixture(scope="module")
def machine(cloud: Cloud) -> Iterator[str]:
    """A running machine that several tests use and do not change."""
    instance_id = cloud.run(cloud.base)
    cloud.wait_for_ssh(instance_id)
    yield instance_id
    cloud.terminate(instance_id)


def refused(code: str) -> Any:
    return pytest.raises(ClientError, match=rf"\({code}\)")


# A whole life, by the AWS CLI ---------------------------------------------------------------------


def test_life_of_a_machine_and_an_image_by_the_aws_cli(cloud: Cloud, tmp_path: Path) -> None:
    (tmp_path / "key.pub").write_text(cloud.key.public_openssh)
    (tmp_path / "user-data").write_text(user_data(cloud.host_key))
    aws = cloud.aws
    tags = "Tags=[{Key=bake:run,Value=r1},{Key=name,Value=with space}]"

    images = aws("ec2", "describe-images", "--owners", DEBIAN_OWNER)["Images"]
    assert [image["ImageId"] for image in images] == [cloud.base]
    aws("ec2", "import-key-pair", "--key-name", "by-cli", "--public-key-material",
        f"fileb://{tmp_path}/key.pub")  # fmt: skip
    begun = time.monotonic()
    reservation = aws(
        *("ec2", "run-instances", "--image-id", cloud.base, "--instance-type", "g4dn.xlarge"),
        *("--key-name", "by-cli", "--user-data", f"file://{tmp_path}/user-data"),
        *("--metadata-options", "HttpTokens=required"),
        *("--block-device-mappings",
          "DeviceName=/dev/xvda,Ebs={VolumeSize=64,VolumeType=gp3,Encrypted=true}"),
        *("--tag-specifications", f"ResourceType=instance,{tags}", f"ResourceType=volume,{tags}"),
    )  # fmt: skip
    instance = reservation["Instances"][0]
    instance_id = instance["InstanceId"]
    assert instance["State"]["Name"] == "pending"
    assert instance["MetadataOptions"]["HttpTokens"] == "required"
    cloud.wait_for_ssh(instance_id)
    print(f"boot to SSH: {time.monotonic() - begun:.1f} s, the AWS CLI's own start included")

    assert cloud.ssh(instance_id, "sudo id --user; sudo tee /opt/mine <<< made-here") == (
        "0\nmade-here"
    )
    volumes = aws("ec2", "describe-volumes", "--filters",
                  f"Name=attachment.instance-id,Values={instance_id}")["Volumes"]  # fmt: skip
    assert [(v["Size"], v["VolumeType"], v["Encrypted"]) for v in volumes] == [(64, "gp3", True)]
    assert {tag["Key"] for tag in volumes[0]["Tags"]} == {"bake:run", "name"}

    begun = time.monotonic()
    image_id = aws(
        *("ec2", "create-image", "--instance-id", instance_id, "--name", "test/by cli"),
        *("--tag-specifications", f"ResourceType=image,{tags}", f"ResourceType=snapshot,{tags}"),
    )["ImageId"]
    image = cloud.wait_for_image(image_id)
    print(f"CreateImage, machine stopped for it: {time.monotonic() - begun:.1f} s")
    snapshot_id = image["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
    snapshots = aws("ec2", "describe-snapshots", "--owner-ids", "self", "--snapshot-ids",
                    snapshot_id)["Snapshots"]  # fmt: skip
    assert image["Tags"] == snapshots[0]["Tags"] != []
    assert (snapshots[0]["VolumeSize"], snapshots[0]["Encrypted"]) == (64, True)
    assert image_id in snapshots[0]["Description"]

    aws("ec2", "stop-instances", "--instance-ids", instance_id)
    stopped = cloud.wait_for(instance_id, "stopped")
    assert stopped["StateReason"]["Code"] == "Client.UserInitiatedShutdown"
    assert stopped["StateTransitionReason"].startswith("User initiated (20")
    assert "PublicIpAddress" not in stopped
    aws("ec2", "start-instances", "--instance-ids", instance_id)
    cloud.wait_for_ssh(instance_id)
    assert cloud.ssh(instance_id, "cat /opt/mine") == "made-here"
    assert "Cloud-init v." in aws("ec2", "get-console-output", "--instance-id", instance_id,
                                  "--latest")["Output"]  # fmt: skip
    aws("ec2", "terminate-instances", "--instance-ids", instance_id)
    cloud.wait_for(instance_id, "terminated")

    # The copy of its image, and its snapshot, outlive the machine.
    copied = aws("ec2", "copy-image", "--source-image-id", image_id, "--source-region",
                 "us-east-1", "--name", "test/copied")["ImageId"]  # fmt: skip
    cloud.wait_for_image(copied)
    aws("ec2", "deregister-image", "--image-id", image_id)
    registered = aws(
        *("ec2", "register-image", "--name", "test/registered", "--root-device-name", "/dev/xvda"),
        *("--architecture", "x86_64", "--virtualization-type", "hvm", "--ena-support"),
        *("--imds-support", "v2.0", "--block-device-mappings"),
        f"DeviceName=/dev/xvda,Ebs={{SnapshotId={snapshot_id},VolumeSize=70}}",
    )["ImageId"]
    for image_id in (copied, registered):
        again = cloud.run(image_id)
        cloud.wait_for_ssh(again)
        assert cloud.ssh(again, "cat /opt/mine") == "made-here"
        cloud.terminate(again)
        deleted = aws("ec2", "deregister-image", "--image-id", image_id,
                      "--delete-associated-snapshots")  # fmt: skip
        assert [r["ReturnCode"] for r in deleted["DeleteSnapshotResults"]] == ["success"]
    assert aws("ec2", "describe-images", "--owners", "self")["Images"] == []
    assert aws("ec2", "describe-snapshots", "--owner-ids", "self")["Snapshots"] == []


# Machines -----------------------------------------------------------------------------------------


def test_machine_shows_the_host_key_that_it_was_given_and_lets_in_the_key_pair(
    cloud: Cloud, machine: str
) -> None:
    assert cloud.ssh(machine, "id --user --name; sudo --non-interactive id --user") == "admin\n0"


def test_machine_reads_etc_environment_for_every_ssh_command(cloud: Cloud) -> None:
    instance_id = cloud.run(cloud.base)
    cloud.wait_for_ssh(instance_id)
    cloud.ssh(instance_id, "echo BAKED=yes | sudo tee --append /etc/environment")
    assert cloud.ssh(instance_id, "echo $BAKED") == "yes"
    cloud.terminate(instance_id)


def test_machine_reaches_this_computers_loopback(cloud: Cloud, machine: str) -> None:
    address = cloud.endpoint.request("status")["computer_address"]
    port = cloud.endpoint.url.rpartition(":")[2]
    # The server was reached, and refused the request because of its host name.
    url = f"http://{address}:{port}/_bake/status"
    response = cloud.ssh(machine, f"curl --silent --output - {url}")
    assert response == "Requests of web pages are refused"


def test_machine_trusts_what_this_computer_trusts(cloud: Cloud, machine: str) -> None:
    given = list((cloud.home / "local" / "computer" / "certificates").glob("*.crt"))
    trusted = cloud.ssh(machine, "cat /etc/ssl/certs/ca-certificates.crt")
    assert all(path.read_text().strip() in trusted for path in given)
    found = cloud.ssh(machine, "ls /usr/local/share/ca-certificates/computer")
    assert found.split() == sorted(path.name for path in given)


def test_shutdown_from_inside_stops_a_machine(cloud: Cloud) -> None:
    instance_id = cloud.run(cloud.base)
    cloud.wait_for_ssh(instance_id)
    cloud.ssh(instance_id, "sudo shutdown -P now")
    instance = cloud.wait_for(instance_id, "stopped")
    assert instance["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"
    cloud.terminate(instance_id)


def test_power_off_by_cloud_init_terminates_a_machine_that_is_to_be(cloud: Cloud) -> None:
    instance_id = cloud.run(
        cloud.base,
        InstanceInitiatedShutdownBehavior="terminate",
        UserData="#cloud-config\npower_state: {mode: poweroff, delay: now}\n",
    )
    instance = cloud.wait_for(instance_id, "terminated")
    assert instance["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"
    assert cloud.ec2.describe_volumes()["Volumes"] == [] or all(
        attachment["InstanceId"] != instance_id
        for volume in cloud.ec2.describe_volumes()["Volumes"]
        for attachment in volume["Attachments"]
    )


def test_power_off_timer_returns_at_once_and_fires(cloud: Cloud) -> None:
    instance_id = cloud.run(cloud.base)
    cloud.wait_for_ssh(instance_id)
    begun = time.monotonic()
    # Without a pause: each command finds the shutdown of the one before it on a busy computer, too.
    again = "for _ in 1 2 3 4 5; do shutdown -P +5 && shutdown -P +6 && shutdown -c || exit; done"
    assert cloud.ssh(instance_id, f"sudo sh -c '{again}; shutdown -c && echo done'") == "done"
    cloud.ssh(instance_id, "sudo shutdown -P +5; sudo shutdown -P +0")
    assert time.monotonic() - begun < 30
    cloud.wait_for(instance_id, "stopped")
    cloud.terminate(instance_id)


def test_power_button_works_while_a_timer_runs(cloud: Cloud) -> None:
    instance_id = cloud.run(cloud.base)
    cloud.wait_for_ssh(instance_id)
    cloud.ssh(instance_id, "sudo shutdown -P +60; echo kept | sudo tee /opt/kept")
    begun = time.monotonic()
    cloud.ec2.stop_instances(InstanceIds=[instance_id])
    cloud.wait_for(instance_id, "stopped")
    assert time.monotonic() - begun < 15  # the machine ended by itself, not by the timeout of 30 s
    cloud.terminate(instance_id)


def test_machine_that_is_started_at_once_after_its_end_has_a_network(cloud: Cloud) -> None:
    engine = find_engine()
    cloud_id = cloud.endpoint.request("status")["cloud_id"]
    image = engine.references(f"localhost/bake-{cloud_id}/snapshot")[0]
    name = f"bake-test-{os.getpid()}-restarted"
    arguments = ["run", "--detach", "--pull", "never", "--name", name]
    arguments += [*engine.network_arguments, *engine.limits, image, "sleep", "infinity"]
    try:
        engine.call(*arguments)
        before = engine.call("exec", name, "ls", "/sys/class/net").stdout
        for _ in range(3):
            os.kill(engine.process_id(name), signal.SIGKILL)
            engine.start(name)
            assert engine.call("exec", name, "ls", "/sys/class/net").stdout == before
    finally:
        engine.remove(name)


@pytest.mark.parametrize("how", ["from inside", "by the API"])
def test_reboot_keeps_the_disk_and_the_address_and_runs_boot_scripts(
    cloud: Cloud, how: str
) -> None:
    instance_id = cloud.run(cloud.base)
    cloud.wait_for_ssh(instance_id)
    address = cloud.instance(instance_id)["PublicIpAddress"]
    boot_id = cloud.ssh(instance_id, f"cat {BOOT_ID}")
    script = "/var/lib/cloud/scripts/per-boot/count"
    cloud.ssh(
        instance_id,
        f"printf '#!/bin/sh\\necho boot >> /opt/boots\\n' | sudo tee {script};"
        f"sudo chmod +x {script}; sudo touch /tmp/gone /run/gone",
    )
    if how == "from inside":
        cloud.ssh(instance_id, "sudo reboot")
    else:
        cloud.ec2.reboot_instances(InstanceIds=[instance_id])
    deadline = time.monotonic() + 120
    look = f"cat /opt/boots && ls /tmp /run && cat {BOOT_ID}"
    while not (said := _try_ssh(cloud, instance_id, look)).startswith("boot"):
        assert time.monotonic() < deadline
        time.sleep(0.3)
    assert "gone" not in said
    boots = (boot_id.strip(), said.split()[-1], Path(BOOT_ID).read_text().strip())
    assert len({*boots}) == 3, "each boot of the machine has an id, and the computer another one"
    assert cloud.instance(instance_id)["PublicIpAddress"] == address
    assert cloud.instance(instance_id)["State"]["Name"] == "running"
    cloud.terminate(instance_id)


def _try_ssh(cloud: Cloud, instance_id: str, command: str) -> str:
    try:
        return cloud.ssh(instance_id, command)
    except (AssertionError, subprocess.TimeoutExpired):
        return ""


def test_machine_whose_image_does_not_boot_is_terminated_with_the_reason(cloud: Cloud) -> None:
    instance_id = cloud.run(cloud.base)
    cloud.wait_for_ssh(instance_id)
    cloud.ssh(instance_id, "sudo rm /sbin/init")
    asked = {"InstanceId": instance_id, "NoReboot": True}
    image_id = cloud.ec2.create_image(Name="test/no init", **asked)["ImageId"]
    (pending,) = cloud.ec2.describe_images(ImageIds=[image_id])["Images"]
    assert pending["State"] == "pending"
    with refused("InvalidAMIID.Unavailable"):
        cloud.run(image_id)
    cloud.wait_for_image(image_id)
    cloud.terminate(instance_id)
    broken = cloud.wait_for(cloud.run(image_id), "terminated")
    assert broken["StateReason"]["Code"] == "Server.InternalError"
    assert "init" in broken["StateReason"]["Message"]
    cloud.ec2.deregister_image(ImageId=image_id, DeleteAssociatedSnapshots=True)


def test_terminated_machine_leaves_nothing_on_this_computer(cloud: Cloud) -> None:
    instance_id = cloud.run(cloud.base)
    cloud.wait_for_ssh(instance_id)
    cloud.terminate(instance_id)
    label = f"bake.cloud={cloud.endpoint.request('status')['cloud_id']}"
    assert not [name for name in find_engine().containers(label) if instance_id in name]
    assert not (cloud.home / "local" / "machines" / instance_id).exists()
    nics = cloud.ec2.describe_network_interfaces()["NetworkInterfaces"]
    assert instance_id not in json.dumps(nics, default=str)


# RunInstances -------------------------------------------------------------------------------------


def test_client_token_makes_one_machine_of_two_calls(cloud: Cloud) -> None:
    first = cloud.run(cloud.base, ClientToken="a-token")
    assert cloud.run(cloud.base, ClientToken="a-token") == first
    with refused("IdempotentParameterMismatch"):
        cloud.run(cloud.base, ClientToken="a-token", UserData="other")
    cloud.terminate(first)
    with refused("IdempotentInstanceTerminated"):
        cloud.run(cloud.base, ClientToken="a-token")


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"ImageId": "ami-0123456789abcdef0"}, "InvalidAMIID.NotFound"),
        ({"KeyName": "nobodys"}, "InvalidKeyPair.NotFound"),
        ({"InstanceType": "g99.xlarge"}, "InvalidParameterValue"),
        ({"InstanceType": "t4g.micro"}, "InvalidParameterValue"),  # an ARM machine
        ({"InstanceType": "p4d.24xlarge", "Placement": {"AvailabilityZone": "us-east-1f"}},
         "Unsupported"),
        ({"BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 1}}]},
         "InvalidBlockDeviceMapping"),
        ({"BlockDeviceMappings": [{"DeviceName": "/dev/sdf", "Ebs": {"VolumeSize": 1}}]},
         "UnsupportedOperation"),
        ({"DryRun": True}, "DryRunOperation"),
    ],
    ids=lambda value: value if isinstance(value, str) else next(iter(value)),
)  # fmt: skip
def test_run_instances_is_refused_as_by_ec2_and_starts_nothing(
    cloud: Cloud, changed: dict[str, Any], code: str
) -> None:
    before = cloud.endpoint.request("status")["machines"]
    asked = {"ImageId": cloud.base, "InstanceType": TINY, "MinCount": 1, "MaxCount": 1, **changed}
    with refused(code):
        cloud.ec2.run_instances(**asked)
    assert cloud.endpoint.request("status")["machines"] == before


def test_quota_is_told_and_enforced(cloud: Cloud) -> None:
    quotas = boto3.client(
        "service-quotas",
        endpoint_url=cloud.endpoint.url,
        region_name="us-east-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",
    )
    cloud.endpoint.request("quotas", {"L-DB2E81BA": 3, "L-3819A6DF": 0})
    try:
        quota = quotas.get_service_quota(ServiceCode="ec2", QuotaCode="L-DB2E81BA")["Quota"]
        assert quota["Value"] == 3
        listed = quotas.list_service_quotas(ServiceCode="ec2")["Quotas"]
        assert {q["QuotaCode"]: q["Value"] for q in listed}["L-3819A6DF"] == 0
        asked = {"ImageId": cloud.base, "InstanceType": "g4dn.xlarge", "MinCount": 1, "MaxCount": 1}
        with refused("VcpuLimitExceeded"):
            cloud.ec2.run_instances(**asked)
        with refused("MaxSpotInstanceCountExceeded"):
            cloud.ec2.run_instances(**asked, InstanceMarketOptions={"MarketType": "spot"})
    finally:
        cloud.endpoint.request("quotas", dict.fromkeys(["L-DB2E81BA", "L-3819A6DF"], 4096))


def test_spot_machine_comes_with_its_request(cloud: Cloud) -> None:
    instance_id = cloud.run(
        cloud.base,
        InstanceMarketOptions={"MarketType": "spot", "SpotOptions": {"MaxPrice": "0.5"}},
    )
    instance = cloud.instance(instance_id)
    assert instance["InstanceLifecycle"] == "spot"
    (request,) = cloud.ec2.describe_spot_instance_requests(
        SpotInstanceRequestIds=[instance["SpotInstanceRequestId"]]
    )["SpotInstanceRequests"]
    assert (request["State"], request["InstanceId"]) == ("active", instance_id)
    assert request["SpotPrice"] == "0.5"
    cloud.terminate(instance_id)


def test_machine_is_what_its_launch_template_says(cloud: Cloud) -> None:
    data = {
        "ImageId": cloud.base,
        "InstanceType": TINY,
        "KeyName": "the-tests",
        "BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 20}}],
        "InstanceMarketOptions": {"MarketType": "spot"},
        "InstanceInitiatedShutdownBehavior": "terminate",
    }
    cloud.ec2.create_launch_template(LaunchTemplateName="template", LaunchTemplateData=data)
    instance_id = cloud.ec2.run_instances(
        LaunchTemplate={"LaunchTemplateName": "template"}, MinCount=1, MaxCount=1
    )["Instances"][0]["InstanceId"]
    instance = cloud.instance(instance_id)
    assert instance["InstanceType"] == TINY
    assert instance["InstanceLifecycle"] == "spot"
    (volume,) = cloud.ec2.describe_volumes(
        Filters=[{"Name": "attachment.instance-id", "Values": [instance_id]}]
    )["Volumes"]
    assert volume["Size"] == 20
    cloud.wait_for_ssh(instance_id)
    cloud.terminate(instance_id)


def test_spot_request_of_the_older_kind_starts_a_machine(cloud: Cloud) -> None:
    (request,) = cloud.ec2.request_spot_instances(
        LaunchSpecification={"ImageId": cloud.base, "InstanceType": TINY, "KeyName": "the-tests"}
    )["SpotInstanceRequests"]
    cloud.wait_for_ssh(request["InstanceId"])
    cloud.terminate(request["InstanceId"])


def test_group_of_a_machine_cannot_be_deleted_before_the_machine(cloud: Cloud) -> None:
    group = cloud.ec2.create_security_group(GroupName="its-own", Description="-")["GroupId"]
    instance_id = cloud.run(cloud.base, SecurityGroupIds=[group])
    with refused("DependencyViolation"):
        cloud.ec2.delete_security_group(GroupId=group)
    cloud.terminate(instance_id)
    cloud.ec2.delete_security_group(GroupId=group)


def test_group_can_be_deleted_once_the_machine_s_interface_is_in_another(cloud: Cloud) -> None:
    group = cloud.ec2.create_security_group(GroupName="left", Description="-")["GroupId"]
    instance_id = cloud.run(cloud.base, SecurityGroupIds=[group])
    [interface] = cloud.instance(instance_id)["NetworkInterfaces"]
    wanted = {"vpc-id": interface["VpcId"], "group-name": "default"}
    filters = [{"Name": name, "Values": [value]} for name, value in wanted.items()]
    [default] = cloud.ec2.describe_security_groups(Filters=filters)["SecurityGroups"]
    cloud.ec2.modify_network_interface_attribute(
        NetworkInterfaceId=interface["NetworkInterfaceId"], Groups=[default["GroupId"]]
    )
    [interface] = cloud.instance(instance_id)["NetworkInterfaces"]
    assert [each["GroupId"] for each in interface["Groups"]] == [default["GroupId"]]
    cloud.ec2.delete_security_group(GroupId=group)
    cloud.terminate(instance_id)


def test_terminated_machine_cannot_be_started(cloud: Cloud) -> None:
    instance_id = cloud.run(cloud.base)
    cloud.terminate(instance_id)
    with refused("IncorrectInstanceState"):
        cloud.ec2.start_instances(InstanceIds=[instance_id])


# Images and snapshots -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def image(cloud: Cloud, machine: str) -> Iterator[dict[str, Any]]:
    image_id = cloud.ec2.create_image(InstanceId=machine, Name="test/shared", NoReboot=True)[
        "ImageId"
    ]
    yield cloud.wait_for_image(image_id)
    cloud.ec2.deregister_image(ImageId=image_id, DeleteAssociatedSnapshots=True)


def test_image_of_a_machine_holds_nothing_of_its_seed(cloud: Cloud, image: dict[str, Any]) -> None:
    engine = find_engine()
    status = cloud.endpoint.request("status")
    snapshot_id = image["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"]
    layer = f"localhost/bake-{status['cloud_id']}/snapshot:{snapshot_id}"
    looked = engine.call(
        *("run", "--rm", "--network=none", *engine.limits, layer),
        *("find", "/media/cidata", "/run", "/etc/xdg/pip", "-mindepth", "1", "-type", "f"),
    )
    found = [line for line in looked.stdout.decode().split() if not line.startswith("/run/.")]
    assert found == []


def test_running_machine_goes_on_while_its_snapshot_is_taken(cloud: Cloud, machine: str) -> None:
    boot_id = cloud.ssh(machine, "cat /proc/1/stat | cut -d' ' -f22")
    volume = cloud.instance(machine)["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]
    tags = [{"Key": "stage", "Value": "base"}]
    begun = time.monotonic()
    snapshot = cloud.ec2.create_snapshot(
        VolumeId=volume,
        Description="a checkpoint",
        TagSpecifications=[{"ResourceType": "snapshot", "Tags": tags}],
    )
    assert (snapshot["State"], snapshot["Tags"]) == ("pending", tags)
    snapshot_id = snapshot["SnapshotId"]
    cloud.ec2.get_waiter("snapshot_completed").config.delay = 1
    while (
        cloud.ec2.describe_snapshots(SnapshotIds=[snapshot_id])["Snapshots"][0]["State"]
        == "pending"
    ):
        time.sleep(0.05)
    print(f"CreateSnapshot: {time.monotonic() - begun:.1f} s")
    assert cloud.ssh(machine, "cat /proc/1/stat | cut -d' ' -f22") == boot_id
    (found,) = cloud.ec2.describe_snapshots(Filters=[{"Name": "tag:stage", "Values": ["base"]}])[
        "Snapshots"
    ]
    assert (found["State"], found["Progress"]) == ("completed", "100%")
    copy = cloud.ec2.copy_snapshot(SourceSnapshotId=snapshot_id, SourceRegion="us-east-1")
    cloud.ec2.delete_snapshot(SnapshotId=snapshot_id)
    cloud.ec2.delete_snapshot(SnapshotId=copy["SnapshotId"])
    with refused("InvalidSnapshot.NotFound"):
        cloud.ec2.describe_snapshots(SnapshotIds=[snapshot_id])


def test_snapshot_of_a_running_machine_is_registered_booted_and_removed(cloud: Cloud) -> None:
    first = cloud.run(cloud.base)
    cloud.wait_for_ssh(first)
    cloud.ssh(first, "echo before | sudo tee /opt/before; sudo shutdown -P +60; sudo touch /tmp/t")
    (volume,) = cloud.ec2.describe_volumes(
        Filters=[{"Name": "attachment.instance-id", "Values": [first]}]
    )["Volumes"]
    tags = [{"Key": "stage", "Value": "cuda"}]
    specification = [{"ResourceType": "snapshot", "Tags": tags}]
    with refused("InvalidParameterValue"):
        cloud.ec2.create_snapshot(
            VolumeId=volume["VolumeId"],
            TagSpecifications=[{"ResourceType": "image", "Tags": tags}],
        )
    snapshot_id = cloud.ec2.create_snapshot(
        VolumeId=volume["VolumeId"], TagSpecifications=specification
    )["SnapshotId"]
    cloud.ssh(first, "sudo touch /opt/after")
    (base,) = cloud.ec2.describe_images(ImageIds=[cloud.base])["Images"]
    disk = {"DeviceName": base["RootDeviceName"], "Ebs": {"SnapshotId": snapshot_id}}
    asked = {
        "RootDeviceName": base["RootDeviceName"],
        "Architecture": base["Architecture"],
        "VirtualizationType": "hvm",
        "EnaSupport": True,
        "ImdsSupport": "v2.0",
        "TpmSupport": "v2.0",
        "BootMode": "uefi",
        "TagSpecifications": [{"ResourceType": "image", "Tags": tags}],
    }
    missing = {**disk, "Ebs": {"SnapshotId": "snap-0123456789abcdef0"}}
    with refused("InvalidSnapshot.NotFound"):
        cloud.ec2.register_image(Name="test/missing", BlockDeviceMappings=[missing], **asked)
    deadline = time.monotonic() + 60
    while (
        cloud.ec2.describe_snapshots(SnapshotIds=[snapshot_id])["Snapshots"][0]["State"]
        != "completed"
    ):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    image_id = cloud.ec2.register_image(
        Name="test/checkpoint", BlockDeviceMappings=[disk], **asked
    )["ImageId"]
    (image,) = cloud.ec2.describe_images(ImageIds=[image_id])["Images"]
    assert (image["State"], image["Tags"], image["EnaSupport"]) == ("available", tags, True)
    assert (image["TpmSupport"], image["ImdsSupport"], image["BootMode"]) == (
        *("v2.0", "v2.0", "uefi"),
    )
    assert "SriovNetSupport" not in image  # the request did not contain it
    with refused("InvalidSnapshot.InUse"):
        cloud.ec2.delete_snapshot(SnapshotId=snapshot_id)

    larger = {**disk, "Ebs": {"VolumeSize": volume["Size"] + 10}}
    second = cloud.run(image_id, BlockDeviceMappings=[larger])
    cloud.wait_for(second, "running")
    cloud.ec2.deregister_image(ImageId=image_id)
    cloud.ec2.delete_snapshot(SnapshotId=snapshot_id)
    cloud.terminate(first)
    cloud.wait_for_ssh(second)
    (root,) = cloud.ec2.describe_volumes(
        Filters=[{"Name": "attachment.instance-id", "Values": [second]}]
    )["Volumes"]
    assert root["Size"] == volume["Size"] + 10
    # Another instance for cloud-init, without the processes of the first machine.
    said = cloud.ssh(
        second,
        "ls /opt /tmp; cat /var/lib/cloud/data/instance-id; cat /run/shutdown.pid || true",
    )
    assert said.split() == ["/opt:", "before", "/tmp:", second]
    again = cloud.ec2.create_snapshot(VolumeId=root["VolumeId"])["SnapshotId"]
    cloud.terminate(second)
    while cloud.ec2.describe_snapshots(SnapshotIds=[again])["Snapshots"][0]["State"] == "pending":
        assert time.monotonic() < deadline + 60
        time.sleep(0.1)
    cloud.ec2.delete_snapshot(SnapshotId=again)


def test_snapshot_of_an_image_is_kept_as_long_as_the_image(
    cloud: Cloud, image: dict[str, Any]
) -> None:
    with refused("InvalidSnapshot.InUse"):
        cloud.ec2.delete_snapshot(SnapshotId=image["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"])


def test_image_name_is_taken_once(cloud: Cloud, machine: str, image: dict[str, Any]) -> None:
    with refused("InvalidAMIName.Duplicate"):
        cloud.ec2.create_image(InstanceId=machine, Name=image["Name"])
    with refused("InvalidAMIName.Malformed"):
        cloud.ec2.create_image(InstanceId=machine, Name="no:colons")


def test_protected_image_is_not_deregistered(cloud: Cloud, image: dict[str, Any]) -> None:
    image_id = image["ImageId"]
    cloud.ec2.enable_image_deregistration_protection(ImageId=image_id)
    (shown,) = cloud.ec2.describe_images(ImageIds=[image_id])["Images"]
    assert shown["DeregistrationProtection"] == "enabled-without-cooldown"
    with refused("OperationNotPermitted"):
        cloud.ec2.deregister_image(ImageId=image_id)
    cloud.ec2.disable_image_deregistration_protection(ImageId=image_id)


def test_deprecated_image_is_shown_to_its_owner_and_to_those_who_ask(
    cloud: Cloud, image: dict[str, Any]
) -> None:
    cloud.ec2.enable_image_deprecation(ImageId=image["ImageId"], DeprecateAt="2099-01-01T00:00:00Z")
    (shown,) = cloud.ec2.describe_images(Owners=["self"])["Images"]
    assert shown["DeprecationTime"] == "2099-01-01T00:00:00.000Z"
    cloud.ec2.disable_image_deprecation(ImageId=image["ImageId"])

    asked = {
        "region": "us-east-1",
        "layer": f"localhost/bake-{cloud.endpoint.request('status')['cloud_id']}/snapshot:"
        + image["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"],
        "owner": "000000000002",
        "name": "old",
        "replaces": "old",
        "description": "",
        "root_device_name": "/dev/xvda",
        "size_gb": 8,
        "deprecation_time": "2020-01-01T00:00:00.000Z",
    }
    old = cloud.endpoint.request("os-images", asked)["image_id"]

    def listed(**more: Any) -> list[str]:
        images = cloud.ec2.describe_images(Owners=["000000000002"], **more)["Images"]
        return [image["ImageId"] for image in images]

    assert (listed(), listed(IncludeDeprecated=True)) == ([], [old])


def test_imds_v2_of_an_image_holds_for_its_machines(cloud: Cloud, image: dict[str, Any]) -> None:
    image_id = image["ImageId"]
    cloud.ec2.modify_image_attribute(ImageId=image_id, ImdsSupport={"Value": "v2.0"})
    (shown,) = cloud.ec2.describe_images(ImageIds=[image_id])["Images"]
    assert shown["ImdsSupport"] == "v2.0"
    instance_id = cloud.run(image_id)
    assert cloud.instance(instance_id)["MetadataOptions"]["HttpTokens"] == "required"
    cloud.terminate(instance_id)


def test_base_image_belongs_to_its_maker(cloud: Cloud) -> None:
    with refused("AuthFailure"):
        cloud.ec2.deregister_image(ImageId=cloud.base)
    (base,) = cloud.ec2.describe_images(ImageIds=[cloud.base])["Images"]
    with refused("InvalidSnapshot.NotFound"):
        cloud.ec2.delete_snapshot(SnapshotId=base["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"])


def test_what_is_not_there_is_said_as_an_ec2_error(cloud: Cloud, machine: str) -> None:
    with refused("UnsupportedOperation"):
        cloud.ec2.describe_instances(
            Filters=[{"Name": "hibernation-options.configured", "Values": ["x"]}]
        )
    volume = cloud.ec2.create_volume(AvailabilityZone="us-east-1a", Size=1)["VolumeId"]
    with refused("UnsupportedOperation"):
        cloud.ec2.attach_volume(VolumeId=volume, InstanceId=machine, Device="/dev/sdf")
    cloud.ec2.delete_volume(VolumeId=volume)


# Base images --------------------------------------------------------------------------------------


def test_stand_in_says_that_it_is_one_and_holds_the_files_it_is_given(cloud: Cloud) -> None:
    ubuntu = catalog.load().os_image("ubuntu-18.04")
    files = {"/etc/given": b"by the stand-in upstreams"}
    image_id = os_images.provide(cloud.endpoint, ubuntu, stand_in=True, files=files)
    (image,) = cloud.ec2.describe_images(ImageIds=[image_id])["Images"]
    assert image["OwnerId"] == os_images.STAND_IN_OWNER
    assert image["Name"].startswith(ubuntu.name_pattern.rstrip("*"))
    assert "stand-in: Debian 12 underneath" in image["Description"]
    assert image["RootDeviceName"] == "/dev/sda1"
    assert os_images.provide(cloud.endpoint, ubuntu, stand_in=True, files=files) == image_id
    instance_id = cloud.run(image_id)
    cloud.wait_for_ssh(instance_id)
    said = cloud.ssh(instance_id, "cat /etc/given /etc/motd /etc/bake-stand-in", user="ubuntu")
    assert "by the stand-in upstreams" in said
    assert said.count("stand-in, Debian 12 underneath") == 2
    cloud.terminate(instance_id)


def test_a_machine_of_debian_13_boots_powers_itself_off_and_boots_again(cloud: Cloud) -> None:
    debian = catalog.load().os_image("debian-13")
    instance_id = cloud.run(os_images.provide(cloud.endpoint, debian, stand_in=False))
    cloud.wait_for_ssh(instance_id)
    assert cloud.ssh(instance_id, "cloud-init status --wait").endswith("status: done")
    asked = ". /etc/os-release; echo $VERSION_CODENAME; python3 --version"
    codename, _, python = cloud.ssh(instance_id, asked).split()
    assert codename == "trixie"
    assert python.startswith(f"{debian.python}.")
    cloud.ssh(
        instance_id, "echo kept | sudo tee /opt/kept; sudo shutdown -P +5; sudo shutdown -P now"
    )
    cloud.wait_for(instance_id, "stopped")
    cloud.ec2.start_instances(InstanceIds=[instance_id])
    cloud.wait_for(instance_id, "running")
    cloud.wait_for_ssh(instance_id)
    assert cloud.ssh(instance_id, "cat /opt/kept") == "kept"
    cloud.terminate(instance_id)


# Any client ---------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("packer") is None, reason="Packer is not installed")
def test_packer_bakes_an_image_that_boots(cloud: Cloud, tmp_path: Path) -> None:
    template = {
        "builders": [
            {
                "type": "amazon-ebs",
                **control.packer_builder(cloud.endpoint),
                "region": "us-east-1",
                "source_ami_filter": {
                    "filters": {"name": "debian-12-amd64-*"},
                    "owners": [DEBIAN_OWNER],
                    "most_recent": True,
                },
                "instance_type": "g4dn.xlarge",
                "ssh_username": "admin",
                "ami_name": "packer/baked",
                "tags": {"made-by": "packer"},
                "snapshot_tags": {"made-by": "packer"},
            }
        ],
        "provisioners": [
            {"type": "shell", "inline": ["echo baked | sudo tee /opt/baked"]},
        ],
    }
    path = tmp_path / "template.json"
    path.write_text(json.dumps(template))
    command = ["packer", "build", "-color=false", str(path)]
    environment = {**cloud.environment, "CHECKPOINT_DISABLE": "1", "HOME": str(tmp_path)}
    environment["AWS_POLL_DELAY_SECONDS"] = "1"
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    (image,) = cloud.ec2.describe_images(
        Owners=["self"], Filters=[{"Name": "tag:made-by", "Values": ["packer"]}]
    )["Images"]
    instance_id = cloud.run(image["ImageId"])
    cloud.wait_for_ssh(instance_id)
    assert cloud.ssh(instance_id, "cat /opt/baked") == "baked"
    cloud.terminate(instance_id)
    cloud.ec2.deregister_image(ImageId=image["ImageId"], DeleteAssociatedSnapshots=True)
    assert "made-by" not in json.dumps(cloud.ec2.describe_snapshots(OwnerIds=["self"]), default=str)


def test_user_data_arrives_byte_for_byte_also_what_is_given_while_it_is_stopped(
    cloud: Cloud,
) -> None:
    data = gzip.compress(user_data(cloud.host_key).encode())
    instance_id = cloud.run(cloud.base, UserData=data)
    attribute = cloud.ec2.describe_instance_attribute(InstanceId=instance_id, Attribute="userData")
    assert base64.b64decode(attribute["UserData"]["Value"]) == data
    cloud.wait_for_ssh(instance_id)  # cloud-init has read the host key
    token = "curl -sX PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' $M/api/token"
    read = f'M=http://169.254.169.254/latest; curl -sH "X-aws-ec2-metadata-token: $({token})"'
    shown = cloud.ssh(instance_id, f"{read} $M/user-data | sha256sum")
    assert shown.split()[0] == hashlib.sha256(data).hexdigest()
    cloud.ec2.stop_instances(InstanceIds=[instance_id])
    cloud.wait_for(instance_id, "stopped")
    second = f"{user_data(cloud.host_key)}\n# second\n".encode()
    cloud.ec2.modify_instance_attribute(InstanceId=instance_id, UserData={"Value": second})
    cloud.ec2.start_instances(InstanceIds=[instance_id])
    cloud.wait_for_ssh(instance_id)
    assert "# second" in cloud.ssh(instance_id, "sudo cloud-init query userdata")
    cloud.terminate(instance_id)


def test_layer_with_several_names_loses_only_the_one_that_is_forgotten() -> None:
    engine = find_engine()
    names = [f"localhost/bake-test-{os.getpid()}/{letter}:1" for letter in "ab"]
    engine.call("import", "-", names[0], stdin=_tiny_root())
    try:
        engine.tag(names[0], names[1])
        engine.forget(names[0])
        assert not engine.has_image(names[0])
        assert engine.has_image(names[1])
        assert engine.references(names[1].rpartition(":")[0]) == [names[1]]
    finally:
        engine.call("rmi", "--force", names[1], check=False)
