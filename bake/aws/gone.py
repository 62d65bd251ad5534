"""A thing that is gone, under a policy that asks for its tag.

EC2 looks at the permission before it looks for the thing, and what is gone, or not everywhere known
yet, has no tags: it answers "UnauthorizedOperation" to who would else be told that it is not there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bake.errors import CloudError

# How each is looked for: the operation, and its parameter for what the refused call named by this.
_LOOKS = {
    "AuthorizeSecurityGroupIngress": ("GroupId", "DescribeSecurityGroups", "GroupIds"),
    "CancelSpotInstanceRequests": (
        "SpotInstanceRequestIds",
        "DescribeSpotInstanceRequests",
        "SpotInstanceRequestIds",
    ),
    "DeleteKeyPair": ("KeyName", "DescribeKeyPairs", "KeyNames"),
    "DeleteSecurityGroup": ("GroupId", "DescribeSecurityGroups", "GroupIds"),
    "DeleteSnapshot": ("SnapshotId", "DescribeSnapshots", "SnapshotIds"),
    "DeleteVolume": ("VolumeId", "DescribeVolumes", "VolumeIds"),
    "DeregisterImage": ("ImageId", "DescribeImages", "ImageIds"),
    "TerminateInstances": ("InstanceIds", "DescribeInstances", "InstanceIds"),
}


def not_found(
    ask: Callable[..., Any], operation: str, params: dict[str, Any], denied: CloudError
) -> CloudError:
    """EC2's own "… .NotFound" in the place of a denial, where the thing is not there; else that."""
    if operation not in _LOOKS:
        return denied
    given, look, wanted = _LOOKS[operation]
    named = params[given] if isinstance(params[given], list) else [params[given]]
    try:
        ask(look, **{wanted: named})
    except CloudError as error:
        if ".NotFound" in error.code:
            return error
    return denied
