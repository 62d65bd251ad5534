"""Security groups that let one address in, by SSH, or nobody."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

from bake.aws.client.commands import aws_command, run_resources
from bake.aws.client.errors import was_refused
from bake.aws.client.session import Cloud
from bake.aws.client.undo import undo
from bake.aws.client.wait import MINUTE, poll, wait_until
from bake.aws.tags import RUN, Run, Tags, specifications
from bake.errors import CloudError

# A group stays in use until the machine's network interface is gone, a while after the machine.
_DELETE_S = 10 * MINUTE
# What an interface is in, not all of EC2's servers know at once.
_LEFT_S = MINUTE / 2
# How long a new group may be unknown to some of EC2's servers.
_KNOWN_S = 15.0


def create_security_group(
    cloud: Cloud, run: Run, tags: Tags, *, vpc_id: str, cidr: str | None, port: int = 22
) -> str:
    """A group that lets `cidr` in on `port`, nobody else, and everything out (EC2's default).

    None: nobody at all.
    """
    made: set[str] = set()
    try:
        group_id = _create(cloud, run, tags, vpc_id, cidr)
        made.add(group_id)
        if cidr is not None:
            _let_in(cloud, group_id, cidr, port)
    except BaseException as error:
        # Also when the first call was cut off: it may have taken effect.
        if made or not was_refused(error):
            remove_security_groups(cloud, run.id, made, unknown_for_s=_KNOWN_S)
        raise
    return group_id


def _create(cloud: Cloud, run: Run, tags: Tags, vpc_id: str, cidr: str | None) -> str:
    try:
        group_id: str = cloud.ec2(
            "CreateSecurityGroup",
            GroupName=f"bake-{run.id}",
            Description="bake: SSH from one address" if cidr else "bake: nobody gets in",
            VpcId=vpc_id,
            TagSpecifications=specifications(tags, "security-group"),
        )["GroupId"]
    except CloudError as error:
        # No ClientToken here: a request that boto repeats may meet its own work.
        if error.code != "InvalidGroup.Duplicate" or not (mine := _look(cloud, run.id, _KNOWN_S)):
            raise
        return mine[0]
    return group_id


def remove_security_groups(
    cloud: Cloud, run_id: str, known: Collection[str] = (), *, unknown_for_s: float = 0
) -> None:
    """`known`, or else all groups of that run, each as soon as nothing uses it; never raises.

    `unknown_for_s`: how long to look for what EC2 may not list yet.
    """
    ids = known or [run_resources("security group", run_id, region=cloud.region)]
    command = " && ".join(
        aws_command("ec2", "delete-security-group", region=cloud.region, group_id=each)
        for each in ids
    )
    with undo(cloud.leftovers, f"security group {' '.join(known) or f'of run {run_id}'}", command):
        for group_id in known or _look(cloud, run_id, unknown_for_s):
            delete_security_group(cloud, group_id)


def _look(cloud: Cloud, run_id: str, unknown_for_s: float) -> list[str]:
    look = partial(_groups_of, cloud, run_id)
    return poll(look, timeout_s=unknown_for_s, clock=cloud.clock) or []


def _groups_of(cloud: Cloud, run_id: str) -> list[str] | None:
    mine = [{"Name": f"tag:{RUN}", "Values": [run_id]}]
    groups = cloud.pages("DescribeSecurityGroups", "SecurityGroups", Filters=mine)
    return [group["GroupId"] for group in groups] or None


def _let_in(cloud: Cloud, group_id: str, cidr: str, port: int) -> None:
    def probe() -> bool | None:
        try:
            cloud.ec2(
                "AuthorizeSecurityGroupIngress",
                GroupId=group_id,
                IpPermissions=[
                    {
                        "IpProtocol": "tcp",
                        "FromPort": port,
                        "ToPort": port,
                        "IpRanges": [{"CidrIp": cidr, "Description": "SSH from the caller"}],
                    }
                ],
            )
        except CloudError as error:
            if error.code == "InvalidGroup.NotFound":  # not everywhere known yet
                return None
            if error.code != "InvalidPermission.Duplicate":  # an answer that was lost
                raise
        return True

    wait_until(probe, what=f"security group {group_id}", timeout_s=MINUTE, clock=cloud.clock)


def leave_security_group(cloud: Cloud, network_interface_id: str, group_id: str) -> None:
    """Put a machine's interface into its VPC's default group instead, and delete this one.

    So the group need not wait for the machine's end. CloudError when EC2 says no, or when the group
    stays in use; it can still be deleted as usual then.
    """
    [group] = cloud.ec2("DescribeSecurityGroups", GroupIds=[group_id])["SecurityGroups"]
    wanted = {"vpc-id": group["VpcId"], "group-name": "default"}  # each VPC has it, and keeps it
    filters = [{"Name": name, "Values": [value]} for name, value in wanted.items()]
    found = cloud.ec2("DescribeSecurityGroups", Filters=filters)
    default_id = found.the_first("SecurityGroups")["GroupId"]
    cloud.ec2(
        "ModifyNetworkInterfaceAttribute",
        NetworkInterfaceId=network_interface_id,
        Groups=[default_id],
    )
    delete_security_group(cloud, group_id, unknown_for_s=0, timeout_s=_LEFT_S)


def delete_security_group(
    cloud: Cloud, group_id: str, *, unknown_for_s: float = _KNOWN_S, timeout_s: float = _DELETE_S
) -> None:
    """Delete it as soon as nothing uses it; no error when it is gone already.

    `unknown_for_s`: how long one may be unknown that was made a moment ago.
    """
    began = cloud.clock.now()

    def probe() -> bool | None:
        try:
            cloud.ec2("DeleteSecurityGroup", GroupId=group_id)
        except CloudError as error:
            if error.code == "DependencyViolation":
                return None
            if error.code != "InvalidGroup.NotFound":
                raise
            # Gone; or made a moment ago, and not everywhere known yet.
            return None if cloud.clock.now() - began < unknown_for_s else True
        return True

    what = f"security group {group_id} is still in use"
    wait_until(probe, what=what, timeout_s=timeout_s, clock=cloud.clock)
