"""What EC2 says of a denial in a form that only AWS can read: asked of AWS, where the caller may.

"Encoded authorization failure message" (DecodeAuthorizationMessage in STS's API reference). The
permission for it is in no policy of ours: what it tells is more than who bakes needs to know.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from bake import files
from bake.errors import CloudError

_ENCODED = re.compile(r"Encoded authorization failure message: (\S+)")


def decoded(ask: Callable[..., Any], denied: CloudError) -> CloudError:
    """The same error with AWS's reason in words; as it is, where that cannot be had.

    `ask` calls an operation of STS.
    """
    encoded = _ENCODED.search(denied.reason)
    if not encoded:
        return denied
    try:
        answer = ask("DecodeAuthorizationMessage", EncodedMessage=encoded[1])
        told = files.parse_json(answer["DecodedMessage"])
        context = told["context"]
        why = "a policy denies" if told["explicitDeny"] else "no policy allows"
        said = f"{why} {context['action']} on {context['resource']}"
    except (CloudError, KeyError, TypeError, ValueError):
        return denied
    reason = denied.reason.replace(encoded[0], f"Decoded: {said}")
    return CloudError(denied.message, hint=denied.hint, code=denied.code, reason=reason)


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
