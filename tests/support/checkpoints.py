"""RegisterImage as EC2 does it, and checkpoints in the account of a test."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from botocore.exceptions import ReadTimeoutError
from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.amis import Ami

from bake.aws.base_image import BaseImage, find_base_image
from bake.aws.checkpoint import Checkpoint, create_checkpoint
from bake.aws.launch import run_machine
from bake.aws.machine import Machine
from tests.support.aws_in_process import UBUNTU, Aws


def register_image(self: Any) -> ActionResult:
    """Register an image of a completed snapshot, as EC2 does and moto does not."""
    backend = self.ec2_backend
    name = self._get_param("Name")
    if any(image.name == name for image in backend.amis.values()):
        raise EC2ClientError("InvalidAMIName.Duplicate", f"AMI name {name} is already in use")
    [disk] = self._get_param("BlockDeviceMappings")
    assert "Encrypted" not in disk["Ebs"]
    snapshot = backend.snapshots.get(disk["Ebs"]["SnapshotId"])
    if snapshot is None:
        raise EC2ClientError("InvalidSnapshot.NotFound", "The snapshot does not exist.")
    if snapshot.status != "completed":
        raise EC2ClientError("IncorrectState", f"Snapshot '{snapshot.id}' is not 'completed'.")
    image = Ami(backend, f"ami-1{len(backend.amis):016x}", name=name)
    del backend.snapshots[image.ebs_snapshot.id]
    image.ebs_snapshot, snapshot.from_ami = snapshot, image.id
    image.add_tags(self._parse_tag_specification()["image"])
    backend.amis[image.id] = image
    return ActionResult({"ImageId": image.id})


NOW = datetime(2026, 11, 21, 6, 30, tzinfo=UTC)
STAGES = {"base": "b" * 64, "conda": "c" * 64}
TIMEOUT = ReadTimeoutError(endpoint_url="https://ec2")


def a_machine(aws: Aws) -> Machine:
    machine = run_machine(aws.cloud, aws.run, aws.order("k", "sg-1"), [aws.placement()])
    aws.at_first |= aws.remains()
    return machine


def take(aws: Aws, machine: Machine | None = None, **more: Any) -> Checkpoint:
    fields: dict[str, Any] = {
        "stages": STAGES,
        "seconds": {"base": 12.04, "conda": 70.3, "boot": 9.0},
        "expires_at": NOW + timedelta(days=30),
        **more,
    }
    return create_checkpoint(aws.cloud, aws.run, machine or a_machine(aws), **fields)


def a_base_image(aws: Aws) -> BaseImage:
    return find_base_image(aws.cloud, UBUNTU)  # type: ignore[arg-type]


def snapshots(aws: Aws) -> set[str]:
    return {name for name in aws.remains() if name.startswith("snap-")}
