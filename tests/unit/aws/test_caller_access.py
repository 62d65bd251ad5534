"""The rule by which a caller reaches a machine follows the caller's address, and nothing else."""

from __future__ import annotations

import getpass
import platform
from collections.abc import Iterator
from typing import Any

import pytest

from bake.aws import caller_access
from bake.aws.caller_access import allow_caller, rule_description
from bake.aws.security_group import create_security_group
from bake.errors import CloudError, PreflightError
from tests.support.aws_in_process import Aws, aws_in_process

OLD, NEW, OTHERS = "203.0.113.7/32", "198.51.100.9/32", "192.0.2.1/32"


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    monkeypatch.setenv("BAKE_CALLER_CIDR", NEW)
    with aws_in_process() as aws:
        yield aws


@pytest.fixture
def group(aws: Aws) -> str:
    """The group of a machine that was launched from the old address."""
    tags = aws.run.lasting("mine")
    vpc_id = aws.placement().vpc_id
    return create_security_group(aws.cloud, aws.run, tags, vpc_id=vpc_id, cidr=OLD)


def rules(aws: Aws, group: str) -> dict[str, str]:
    """Return the description of the rule for each address that may reach port 22."""
    [found] = aws.cloud.ec2("DescribeSecurityGroups", GroupIds=[group])["SecurityGroups"]
    return {
        source["CidrIp"]: source.get("Description", "")
        for rule in found["IpPermissions"]
        if rule["FromPort"] == 22
        for source in rule["IpRanges"]
    }


def add(aws: Aws, group: str, cidr: str, description: str, **more: Any) -> None:
    source = {"CidrIp": cidr, "Description": description}
    rule = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, "IpRanges": [source], **more}
    aws.cloud.ec2("AuthorizeSecurityGroupIngress", GroupId=group, IpPermissions=[rule])


def changes(aws: Aws) -> list[str]:
    return [name for name, _ in aws.calls if name.endswith("Ingress")]


def test_the_callers_rule_follows_its_address(aws: Aws, group: str) -> None:
    assert rules(aws, group) == {OLD: rule_description()}
    aws.calls.clear()
    said = allow_caller(aws.cloud, aws.run.id, 22)
    assert said == f"The security group {group} now allows SSH from {NEW} instead of {OLD}"
    assert rules(aws, group) == {NEW: rule_description()}
    # The new one comes first, so that an interruption leaves the machine reachable.
    assert changes(aws) == ["AuthorizeSecurityGroupIngress", "RevokeSecurityGroupIngress"]


def test_nothing_is_changed_if_the_address_is_allowed(
    aws: Aws, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BAKE_CALLER_CIDR", OLD)
    aws.calls.clear()
    assert allow_caller(aws.cloud, aws.run.id, 22) == ""
    assert changes(aws) == []


def test_rules_of_other_people_are_never_removed(aws: Aws, group: str) -> None:
    add(aws, group, OTHERS, "SSH from another@laptop")
    add(aws, group, "10.0.0.0/8", "")
    allow_caller(aws.cloud, aws.run.id, 22)
    assert set(rules(aws, group)) == {NEW, OTHERS, "10.0.0.0/8"}


def test_two_callers_have_a_rule_each(
    aws: Aws, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "another")
    said = allow_caller(aws.cloud, aws.run.id, 22)
    assert said == f"The security group {group} now allows SSH from {NEW}"
    assert set(rules(aws, group)) == {OLD, NEW}


def test_a_computer_whose_domain_comes_from_its_network_is_the_same_caller(
    aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    vpc_id, name = aws.placement().vpc_id, "laptop.home.example"
    monkeypatch.setattr(platform, "node", lambda: name)
    group = create_security_group(
        aws.cloud, aws.run, aws.run.lasting("mine"), vpc_id=vpc_id, cidr=OLD
    )
    name = "laptop.cafe.example"
    allow_caller(aws.cloud, aws.run.id, 22)
    assert set(rules(aws, group)) == {NEW}


def test_a_rule_of_an_older_version_stays(aws: Aws, group: str) -> None:
    """It does not tell whose it is, and may be another person's."""
    add(aws, group, OTHERS, "SSH from the caller")
    allow_caller(aws.cloud, aws.run.id, 22)
    assert set(rules(aws, group)) == {NEW, OTHERS}


@pytest.mark.parametrize(
    "wide",
    [
        {"FromPort": 0, "ToPort": 1024},
        {"IpProtocol": "-1", "FromPort": -1, "ToPort": -1},
    ],
)
def test_a_wider_rule_is_enough(aws: Aws, group: str, wide: dict[str, Any]) -> None:
    add(aws, group, "198.51.100.0/24", "the office", **wide)
    aws.calls.clear()
    assert allow_caller(aws.cloud, aws.run.id, 22) == ""
    assert changes(aws) == []


@pytest.mark.parametrize("useless", [{"FromPort": 443, "ToPort": 443}, {"IpProtocol": "udp"}])
def test_a_rule_for_something_else_is_not_enough(
    aws: Aws, group: str, useless: dict[str, Any]
) -> None:
    add(aws, group, "198.51.100.0/24", "the office", **useless)
    assert allow_caller(aws.cloud, aws.run.id, 22)
    assert NEW in rules(aws, group)


def test_what_a_killed_command_has_left_is_removed_by_the_next(
    aws: Aws, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws.refuse("RevokeSecurityGroupIngress", "UnauthorizedOperation", times=6)
    with pytest.raises(CloudError):
        allow_caller(aws.cloud, aws.run.id, 22)
    assert set(rules(aws, group)) == {OLD, NEW}
    monkeypatch.setenv("BAKE_CALLER_CIDR", OTHERS)
    allow_caller(aws.cloud, aws.run.id, 22)
    assert set(rules(aws, group)) == {OTHERS}


def test_two_commands_at_once_do_not_fail(aws: Aws, group: str) -> None:
    aws.refuse("AuthorizeSecurityGroupIngress", "InvalidPermission.Duplicate", times=1)
    aws.refuse("RevokeSecurityGroupIngress", "InvalidPermission.NotFound", times=1)
    assert allow_caller(aws.cloud, aws.run.id, 22)


def test_a_group_that_is_not_bakes_is_not_touched(aws: Aws, group: str) -> None:
    """The machine's owner has moved it to a group of their own, and deleted bake's."""
    aws.cloud.ec2("DeleteSecurityGroup", GroupId=group)
    theirs = aws.cloud.ec2("CreateSecurityGroup", GroupName="theirs", Description="theirs")
    assert allow_caller(aws.cloud, aws.run.id, 22) == ""
    assert allow_caller(aws.cloud, "", 22) == ""
    assert rules(aws, theirs["GroupId"]) == {}


def test_an_unknown_address_is_an_error(
    aws: Aws, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BAKE_CALLER_CIDR", "here")
    with pytest.raises(PreflightError, match="BAKE_CALLER_CIDR"):
        allow_caller(aws.cloud, aws.run.id, 22)


@pytest.mark.parametrize("user", ["zoë", "a\\b", "x" * 300, None])
def test_ec2_accepts_the_description(user: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def getuser() -> str:
        if user is None:
            raise KeyError("getpwuid(): uid not found: 12345")
        return user

    monkeypatch.setattr(getpass, "getuser", getuser)
    description = rule_description()
    assert len(description) <= 255
    assert not caller_access._NOT_ALLOWED.search(description)
