"""Denied requests, explained: the reason that EC2 encodes, and resources that no longer exist.

EC2 encodes the reason of a denial in an "encoded authorization failure message", which only STS can
decode (DecodeAuthorizationMessage in its API reference). docs/iam-policy.json does not include that
permission, because the decoded message contains more than a person who bakes needs to know.

EC2 checks the permission before it looks for the resource. A policy that allows a call only for
resources with bake's tag therefore denies the call for a resource that does not exist.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from bake import files
from bake.errors import CloudError

_ENCODED = re.compile(r"Encoded authorization failure message: (\S+)")


def decode(call_sts: Callable[..., Any], denied: CloudError) -> CloudError:
    """Return the error with the decoded reason, or unchanged if the reason cannot be decoded."""
    encoded = _ENCODED.search(denied.reason)
    if not encoded:
        return denied
    try:
        response = call_sts("DecodeAuthorizationMessage", EncodedMessage=encoded[1])
        message = files.parse_json(response["DecodedMessage"])
        context = message["context"]
        why = "a policy denies" if message["explicitDeny"] else "no policy allows"
        reason = f"{why} {context['action']} on {context['resource']}"
    except (CloudError, KeyError, TypeError, ValueError):
        return denied
    reason = denied.reason.replace(encoded[0], f"Decoded: {reason}")
    return CloudError(denied.message, hint=denied.hint, code=denied.code, reason=reason)


# For each operation: its parameter with the ids, and the operation and the parameter that look for
# the same resources.
_LOOKUPS = {
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
    "RevokeSecurityGroupIngress": ("GroupId", "DescribeSecurityGroups", "GroupIds"),
    "TerminateInstances": ("InstanceIds", "DescribeInstances", "InstanceIds"),
}


def as_not_found(
    call_ec2: Callable[..., Any], operation: str, params: dict[str, Any], denied: CloudError
) -> CloudError:
    """Return EC2's "….NotFound" error if the resource does not exist, otherwise `denied`."""
    if operation not in _LOOKUPS:
        return denied
    parameter, describe, ids = _LOOKUPS[operation]
    value = params[parameter]
    try:
        call_ec2(describe, **{ids: value if isinstance(value, list) else [value]})
    except CloudError as error:
        if ".NotFound" in error.code:
            return error
    return denied
