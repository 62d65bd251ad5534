"""The permissions of an image or a snapshot: the accounts that may use it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from moto.ec2.exceptions import EC2ClientError

Permission = dict[str, str]

# The members of a permission → the parameters of the earlier form, which name one operation.
_EARLIER = {
    "Group": ("UserGroups", "GroupNames"),
    "UserId": ("UserIds",),
    "OrganizationArn": ("OrganizationArns",),
    "OrganizationalUnitArn": ("OrganizationalUnitArns",),
}


def changed_permissions(
    permissions: Sequence[Permission], request: Mapping[str, Any], attribute: str
) -> list[Permission]:
    """Return the permissions after a ModifyImageAttribute or ModifySnapshotAttribute request.

    A request has the changes in the structure `attribute` (Add, Remove), or in the earlier form:
    OperationType and lists of users and groups.
    """
    changes = request.get(attribute) or {}
    added, removed = list(changes.get("Add", ())), list(changes.get("Remove", ()))
    earlier = [
        {member: value}
        for member, names in _EARLIER.items()
        for name in names
        for value in request.get(name) or ()
    ]
    if request.get("OperationType") == "remove":
        removed += earlier
    else:
        added += earlier
    for permission in (*added, *removed):
        _check(permission)
    kept = [each for each in permissions if each not in removed]
    return [*kept, *(each for each in added if each not in kept)]


def _check(permission: Permission) -> None:
    user, group = permission.get("UserId"), permission.get("Group")
    if user is not None and not re.fullmatch(r"\d{12}", user):
        raise EC2ClientError(
            "InvalidAMIAttributeItemValue",
            f'Invalid attribute item value "{user}" for userId item type.',
        )
    if group not in (None, "all"):
        raise EC2ClientError(
            "InvalidAMIAttributeItemValue",
            f'Invalid attribute item value "{group}" for userGroup item type.',
        )
