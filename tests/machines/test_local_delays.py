"""The delays of a profile, on a local cloud that has them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from bake import catalog
from bake.errors import LocalCloudError
from bake.local import control
from bake.local.machines import os_images

PROFILE = """
scale = 0.5
pending_s = 3
boot_s = 2
stop_s = 3
terminate_s = 3
snapshot_s = 4
snapshot_s_per_gb = 100
snapshot_interval_s = 2
register_image_s = 2
"""


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "profile.toml"
    path.write_text(PROFILE)
    monkeypatch.setenv("BAKE_LOCAL_PROFILE", str(path))
    yield path
    control.down(erase=True)


def state(ec2: Any, instance_id: str) -> str:
    answer = ec2.describe_instances(InstanceIds=[instance_id])
    return str(answer["Reservations"][0]["Instances"][0]["State"]["Name"])


def seconds_in(ec2: Any, instance_id: str, name: str) -> float:
    begun = time.monotonic()
    while state(ec2, instance_id) == name:
        assert time.monotonic() < begun + 60
        time.sleep(0.05)
    return time.monotonic() - begun


def test_states_last_as_long_as_the_profile_says(profile: Path) -> None:
    endpoint = control.up()
    assert endpoint.profile == str(profile)
    with pytest.raises(LocalCloudError, match=r"runs with the delays of .*, not with no delays"):
        control.up(profile="")
    assert control.up() == endpoint
    image = os_images.provide(endpoint, catalog.load().os_image("debian-12"), stand_in=False)
    ec2 = boto3.client(
        "ec2",
        endpoint_url=endpoint.url,
        region_name="us-east-1",
        aws_access_key_id="local",
        aws_secret_access_key="local",
    )
    called_off, machine = (
        ec2.run_instances(ImageId=image, InstanceType="t3.micro", MinCount=1, MaxCount=1)[
            "Instances"
        ][0]["InstanceId"]
        for _ in range(2)
    )
    ec2.terminate_instances(InstanceIds=[called_off])
    assert seconds_in(ec2, machine, "pending") > 1
    begun = time.monotonic()
    statuses = ec2.describe_instance_status(InstanceIds=[machine])["InstanceStatuses"]
    assert statuses[0]["InstanceStatus"]["Status"] == "initializing"
    while statuses[0]["InstanceStatus"]["Status"] != "ok":
        assert time.monotonic() < begun + 90
        time.sleep(0.1)
        statuses = ec2.describe_instance_status(InstanceIds=[machine])["InstanceStatuses"]
    assert time.monotonic() - begun > 1
    assert state(ec2, called_off) == "terminated"

    (volume,) = ec2.describe_volumes(
        Filters=[{"Name": "attachment.instance-id", "Values": [machine]}]
    )["Volumes"]
    begun = time.monotonic()
    snapshot = ec2.create_snapshot(VolumeId=volume["VolumeId"])["SnapshotId"]
    with pytest.raises(ClientError, match="SnapshotCreationPerVolumeRateExceeded"):
        ec2.create_snapshot(VolumeId=volume["VolumeId"])
    asked = {
        "Name": "of a snapshot",
        "RootDeviceName": "/dev/xvda",
        "SriovNetSupport": "simple",
        "BlockDeviceMappings": [{"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": snapshot}}],
    }
    with pytest.raises(ClientError, match=r"\(IncorrectState\)"):
        ec2.register_image(**asked)
    shown = []
    while (found := ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"][0])[
        "State"
    ] == "pending":
        shown.append(int(found["Progress"].rstrip("%")))
        assert time.monotonic() < begun + 60
        time.sleep(0.1)
    assert time.monotonic() - begun > 1.9
    assert shown == sorted(shown)
    assert 0 < shown[-1] < 100
    registered = ec2.register_image(**asked)["ImageId"]
    (pending,) = ec2.describe_images(ImageIds=[registered])["Images"]
    assert (pending["State"], pending["SriovNetSupport"]) == ("pending", "simple")
    ec2.get_waiter("image_available").wait(
        ImageIds=[registered], WaiterConfig={"Delay": 1, "MaxAttempts": 9}
    )

    ec2.stop_instances(InstanceIds=[machine])
    assert seconds_in(ec2, machine, "stopping") > 1.2
    ec2.terminate_instances(InstanceIds=[machine])
    assert seconds_in(ec2, machine, "shutting-down") > 1.2
