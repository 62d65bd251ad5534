"""The security group without rules, in which a builder waits until its image is complete.

A security group cannot be deleted while an interface uses it, and a GPU machine keeps its interface
for minutes after its end. So each VPC has one such group, which stays and is used again. A VPC's
default group would not do: its members reach each other, and in old accounts it often allows SSH
from anywhere.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from bake.aws.client.errors import accepting
from bake.aws.client.session import Cloud, filters_for
from bake.aws.client.wait import MINUTE, wait_until
from bake.aws.tags import NAME, RUN, specifications

# It belongs to no run, so neither `reap` nor the end of a run removes it.
ISOLATED = "bake-isolated"
_TAGS = {NAME: ISOLATED, RUN: "isolated"}
_DESCRIPTION = "bake: no access, in and out. It stays for later bakes"


def isolated_group(cloud: Cloud, vpc_id: str) -> str:
    """Return the id of the VPC's security group without rules; create it if it does not exist.

    Rules that someone has added are removed. CloudError if AWS refuses, for example because the
    name belongs to a group that bake did not create.
    """
    find = partial(_find, cloud, vpc_id)
    group = find()
    if group is None:
        _create(cloud, vpc_id)
        group = wait_until(
            find,
            what=f"The security group {ISOLATED} in {vpc_id} is unknown to EC2, or not bake's",
            timeout_s=MINUTE,
            clock=cloud.clock,
        )
    _revoke(cloud, "RevokeSecurityGroupIngress", group, "IpPermissions")
    # A new group allows all outgoing traffic.
    _revoke(cloud, "RevokeSecurityGroupEgress", group, "IpPermissionsEgress")
    return str(group["GroupId"])


def _find(cloud: Cloud, vpc_id: str) -> dict[str, Any] | None:
    filters = filters_for({"vpc-id": vpc_id, "group-name": ISOLATED, f"tag:{RUN}": _TAGS[RUN]})
    return next(iter(cloud.ec2("DescribeSecurityGroups", Filters=filters)["SecurityGroups"]), None)


def _create(cloud: Cloud, vpc_id: str) -> None:
    with accepting({"InvalidGroup.Duplicate"}):
        cloud.ec2(
            "CreateSecurityGroup",
            GroupName=ISOLATED,
            Description=_DESCRIPTION,
            VpcId=vpc_id,
            TagSpecifications=specifications(_TAGS, "security-group"),
        )


def _revoke(cloud: Cloud, operation: str, group: dict[str, Any], key: str) -> None:
    if group.get(key):
        with accepting({"InvalidPermission.NotFound"}):
            cloud.ec2(operation, GroupId=group["GroupId"], IpPermissions=group[key])
