"""CreateTags: only resources that exist get tags."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError

# The prefix of an id → the ids in a region, and the code for an unknown one. moto checks others.
_KNOWN: dict[str, tuple[Callable[[Any], Iterable[str]], str]] = {
    "i": (lambda ec2: (each.id for each in ec2.all_instances()), "InvalidInstanceID.NotFound"),
    "ami": (lambda ec2: ec2.amis, "InvalidAMIID.NotFound"),
    "snap": (lambda ec2: ec2.snapshots, "InvalidSnapshot.NotFound"),
    "vol": (lambda ec2: ec2.volumes, "InvalidVolume.NotFound"),
    "eni": (lambda ec2: ec2.enis, "InvalidNetworkInterfaceID.NotFound"),
    "key": (lambda ec2: (key.id for key in ec2.key_pairs.values()), "InvalidKeyPair.NotFound"),
    "sg": (
        lambda ec2: (group.id for group in ec2.describe_security_groups()),
        "InvalidGroup.NotFound",
    ),
    "sir": (lambda ec2: ec2.spot_instance_requests, "InvalidSpotInstanceRequestID.NotFound"),
}


class TagResponse:
    def create_tags(self: Any) -> ActionResult:
        for resource_id in self._get_param("Resources", []):
            prefix = resource_id.partition("-")[0]
            if prefix not in _KNOWN:
                continue
            ids, code = _KNOWN[prefix]
            if resource_id not in ids(self.ec2_backend):
                raise EC2ClientError(code, f"The ID '{resource_id}' does not exist")
        return super().create_tags()  # type: ignore[misc]
