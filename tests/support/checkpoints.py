"""RegisterImage as EC2 does it."""

from __future__ import annotations

from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.amis import Ami


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
