"""The resources in the cloud, to show that a failed run has left none."""

from __future__ import annotations

import time

import boto3

from bake.aws.isolated_group import ISOLATED


def held() -> dict[str, list[str]]:
    """Return the ids of resources that cost money or allow access, by kind, without base images.

    The security group without rules, which stays for later bakes, is left out.

    Waits for machines that are being terminated, because nothing can stop that.
    """
    ec2 = boto3.client("ec2")
    ending = [{"Name": "instance-state-name", "Values": ["shutting-down"]}]
    deadline = time.monotonic() + 30
    while ec2.describe_instances(Filters=ending)["Reservations"] and time.monotonic() < deadline:
        time.sleep(0.1)
    ours = [{"Name": "tag-key", "Values": ["bake:run"]}]
    alive = {"Name": "instance-state-name", "Values": ["pending", "running", "stopping", "stopped"]}
    held = {
        "machines": [
            instance["InstanceId"]
            for reservation in ec2.describe_instances(Filters=[alive])["Reservations"]
            for instance in reservation["Instances"]
        ],
        "volumes": [volume["VolumeId"] for volume in ec2.describe_volumes()["Volumes"]],
        "key pairs": [pair["KeyName"] for pair in ec2.describe_key_pairs()["KeyPairs"]],
        "groups": [
            group["GroupId"]
            for group in ec2.describe_security_groups()["SecurityGroups"]
            if group["GroupName"] not in ("default", ISOLATED)
        ],
        "images": [image["ImageId"] for image in ec2.describe_images(Filters=ours)["Images"]],
        "snapshots": [
            snapshot["SnapshotId"]
            for snapshot in ec2.describe_snapshots(OwnerIds=["self"], Filters=ours)["Snapshots"]
        ],
    }
    return {kind: ids for kind, ids in held.items() if ids}
