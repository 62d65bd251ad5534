"""Each VPC has one security group without rules. It stays, and later bakes use it again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from bake.aws.isolated_group import ISOLATED, isolated_group
from bake.aws.reap import find_orphans
from bake.aws.security_group import create_security_group, leave_security_group
from bake.errors import CloudError
from tests.support.aws_in_process import Aws, aws_in_process
from tests.support.runs import an_account, later

RULE = {
    "IpProtocol": "tcp",
    "FromPort": 22,
    "ToPort": 22,
    "IpRanges": [{"CidrIp": "0.0.0.0/0"}],
}


@pytest.fixture
def aws() -> Iterator[Aws]:
    with aws_in_process() as aws:
        yield aws


def rules(aws: Aws, group_id: str) -> list[Any]:
    [group] = aws.cloud.ec2("DescribeSecurityGroups", GroupIds=[group_id])["SecurityGroups"]
    assert (group["GroupName"], group["VpcId"]) == (ISOLATED, aws.placement().vpc_id)
    return [*group["IpPermissions"], *group["IpPermissionsEgress"]]


def test_it_allows_nothing_and_is_made_once(aws: Aws) -> None:
    first = isolated_group(aws.cloud, aws.placement().vpc_id)
    assert rules(aws, first) == []
    assert isolated_group(aws.cloud, aws.placement().vpc_id) == first
    assert len(aws.params("CreateSecurityGroup")) == 1


def test_a_second_vpc_has_its_own(aws: Aws) -> None:
    other = aws.cloud.ec2("CreateVpc", CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    first = isolated_group(aws.cloud, aws.placement().vpc_id)
    assert isolated_group(aws.cloud, other) != first


def test_a_rule_that_someone_has_added_is_removed_before_it_is_used(aws: Aws) -> None:
    group_id = isolated_group(aws.cloud, aws.placement().vpc_id)
    aws.cloud.ec2("AuthorizeSecurityGroupIngress", GroupId=group_id, IpPermissions=[RULE])
    assert rules(aws, group_id)
    isolated_group(aws.cloud, aws.placement().vpc_id)
    assert rules(aws, group_id) == []


def test_two_runs_that_make_it_at_once_share_it(aws: Aws) -> None:
    group_id = isolated_group(aws.cloud, aws.placement().vpc_id)
    aws.alter("DescribeSecurityGroups", lambda answer: answer.update(SecurityGroups=[]), times=1)
    assert isolated_group(aws.cloud, aws.placement().vpc_id) == group_id
    assert len(aws.params("CreateSecurityGroup")) == 2, "EC2 refused the second one"
    aws.refuse("RevokeSecurityGroupEgress", "InvalidPermission.NotFound")
    isolated_group(aws.cloud, aws.placement().vpc_id)


def test_a_group_of_someone_else_with_this_name_is_not_used(aws: Aws) -> None:
    vpc_id = aws.placement().vpc_id
    made = {"GroupName": ISOLATED, "Description": "theirs", "VpcId": vpc_id}
    theirs = aws.cloud.ec2("CreateSecurityGroup", **made)["GroupId"]
    with pytest.raises(CloudError, match="not bake's"):
        isolated_group(aws.cloud, vpc_id)
    assert rules(aws, theirs), "its rules are theirs"


def test_a_group_that_ec2_does_not_know_yet_is_tried_again(aws: Aws) -> None:
    group_id = create_security_group(
        aws.cloud, aws.run, aws.run.temporary(), vpc_id=aws.placement().vpc_id, cidr=None
    )
    aws.refuse("ModifyNetworkInterfaceAttribute", "InvalidGroup.NotFound", times=2)
    subnet = aws.placement().subnet_id
    made = aws.cloud.ec2("CreateNetworkInterface", SubnetId=subnet, Groups=[group_id])
    leave_security_group(aws.cloud, made["NetworkInterface"]["NetworkInterfaceId"], group_id)
    assert len(aws.params("ModifyNetworkInterfaceAttribute")) == 3
    names = {g["GroupName"] for g in aws.cloud.ec2("DescribeSecurityGroups")["SecurityGroups"]}
    assert names == {"default", ISOLATED}


def test_it_is_never_reaped() -> None:
    with an_account() as aws:
        isolated_group(aws.cloud, aws.placement().vpc_id)
        later(aws, days=3650)
        assert find_orphans(aws.cloud) == []
