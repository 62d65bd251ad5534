"""Security groups that allow SSH from one address, or no access at all."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

from bake.aws.caller_access import ssh_rule
from bake.aws.client.commands import removal_command, run_resources
from bake.aws.client.errors import was_refused
from bake.aws.client.retry import retry
from bake.aws.client.session import Cloud, filters_for
from bake.aws.client.undo import undo
from bake.aws.client.wait import MINUTE, delete_when_unused, poll, wait_until
from bake.aws.isolated_group import isolated_group
from bake.aws.tags import RUN, Run, Tags, specifications
from bake.errors import CloudError

# A group is in use until EC2 deletes the network interface, a while after the machine has ended.
_DELETE_S = 10 * MINUTE
# For this time EC2 may treat a group as in use after the last interface has left it.
_LEFT_S = MINUTE / 2
# How long a new group may be unknown to some of EC2's servers.
_KNOWN_S = 15.0


def create_security_group(
    cloud: Cloud, run: Run, tags: Tags, *, vpc_id: str, cidr: str | None, port: int = 22
) -> str:
    """Create a security group that allows access from `cidr` to `port`; return its id.

    With `cidr` None, no access is allowed. All outgoing traffic is allowed (EC2's default).
    """
    made: set[str] = set()
    try:
        group_id = _create(cloud, run, tags, vpc_id, cidr)
        made.add(group_id)
        if cidr is not None:
            _allow(cloud, group_id, cidr, port)
    except BaseException as error:
        # Even if the first call was interrupted: it may have had its effect.
        if made or not was_refused(error):
            remove_security_groups(cloud, run.id, made, unknown_for_s=_KNOWN_S)
        raise
    return group_id


def _create(cloud: Cloud, run: Run, tags: Tags, vpc_id: str, cidr: str | None) -> str:
    try:
        group_id: str = cloud.ec2(
            "CreateSecurityGroup",
            GroupName=f"bake-{run.id}",
            Description="bake: SSH from one address" if cidr else "bake: no access",
            VpcId=vpc_id,
            TagSpecifications=specifications(tags, "security-group"),
        )["GroupId"]
    except CloudError as error:
        # The request has no ClientToken, so boto may have repeated a successful one.
        if error.code != "InvalidGroup.Duplicate" or not (own := _find(cloud, run.id, _KNOWN_S)):
            raise
        return own[0]
    return group_id


def remove_security_groups(
    cloud: Cloud, run_id: str, known: Collection[str] = (), *, unknown_for_s: float = 0
) -> None:
    """Delete the groups `known`, or if empty all groups of the run; never raises.

    Each is deleted as soon as it is not in use. `unknown_for_s` is the time in which EC2 may not
    yet list a new group.
    """
    ids = known or [run_resources("security group", run_id, region=cloud.region)]
    command = " && ".join(
        removal_command("security group", each, region=cloud.region) for each in ids
    )
    with undo(cloud.leftovers, f"security group {' '.join(known) or f'of run {run_id}'}", command):
        for group_id in known or _find(cloud, run_id, unknown_for_s):
            delete_security_group(cloud, group_id)


def _find(cloud: Cloud, run_id: str, unknown_for_s: float) -> list[str]:
    find = partial(_groups_of, cloud, run_id)
    return poll(find, timeout_s=unknown_for_s, clock=cloud.clock) or []


def _groups_of(cloud: Cloud, run_id: str) -> list[str] | None:
    mine = filters_for({f"tag:{RUN}": run_id})
    groups = cloud.pages("DescribeSecurityGroups", "SecurityGroups", Filters=mine)
    return [group["GroupId"] for group in groups] or None


def _allow(cloud: Cloud, group_id: str, cidr: str, port: int) -> None:
    def probe() -> bool | None:
        try:
            cloud.ec2(
                "AuthorizeSecurityGroupIngress",
                GroupId=group_id,
                IpPermissions=[ssh_rule(cidr, port)],
            )
        except CloudError as error:
            if error.code == "InvalidGroup.NotFound":  # some of EC2's servers do not know it yet
                return None
            if (
                error.code != "InvalidPermission.Duplicate"
            ):  # from an attempt whose response was lost
                raise
        return True

    wait_until(
        probe,
        what=f"The security group {group_id} is still unknown to EC2",
        timeout_s=MINUTE,
        clock=cloud.clock,
    )


def leave_security_group(cloud: Cloud, network_interface_id: str, group_id: str) -> None:
    """Move a machine's interface to its VPC's group without access, and delete the old group.

    So the group can be deleted before the machine has ended. CloudError if EC2 refuses or the group
    stays in use; it can be deleted later, as usual.
    """
    [group] = cloud.ec2("DescribeSecurityGroups", GroupIds=[group_id])["SecurityGroups"]
    move = partial(
        cloud.ec2,
        "ModifyNetworkInterfaceAttribute",
        NetworkInterfaceId=network_interface_id,
        Groups=[isolated_group(cloud, group["VpcId"])],
    )
    # Some of EC2's servers may not know a new group yet.
    retry(move, cloud.clock, codes={"InvalidGroup.NotFound"})
    delete_security_group(cloud, group_id, unknown_for_s=0, timeout_s=_LEFT_S)


def delete_security_group(
    cloud: Cloud, group_id: str, *, unknown_for_s: float = _KNOWN_S, timeout_s: float = _DELETE_S
) -> None:
    """Delete a security group, if it exists, as soon as nothing uses it.

    `unknown_for_s` is the time in which EC2 may not yet know a group that was just created.
    """
    delete_when_unused(
        partial(cloud.ec2, "DeleteSecurityGroup", GroupId=group_id),
        in_use="DependencyViolation",
        not_found="InvalidGroup.NotFound",
        what=f"The security group {group_id} is still in use",
        unknown_for_s=unknown_for_s,
        timeout_s=timeout_s,
        clock=cloud.clock,
    )
