"""docs/iam-policy.json allows exactly the calls of the code, with every possible condition."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from typing import Any

import botocore.session
import pytest

from bake.aws.permission import in_partition
from bake.local.api.authorization import facts, needs
from bake.local.api.iam_policy import Need, allows, as_list
from tests.support.environment import REPOSITORY

# Required by AWS for calls with tags, and for the first spot machine of an account.
IMPLIED = {"ec2:CreateTags", "iam:CreateServiceLinkedRole", "ssm:AddTagsToResource"}
# Required by AWS for DescribeImageReferences, and allowed only for what EC2 reads for it.
FOR_REFERENCES = {
    "imagebuilder:GetContainerRecipe",
    "imagebuilder:ListContainerRecipes",
    "imagebuilder:ListImageRecipes",
    "ssm:DescribeParameters",
    "ssm:GetParameters",
}
VIA_EC2 = {"ForAnyValue:StringEquals": {"aws:CalledVia": "ec2-images.amazonaws.com"}}
# Allowed without a permission (GetCallerIdentity in STS's API reference).
FREE = {"sts:GetCallerIdentity"}
# Used by `invoke doctor` if they are allowed.
OPTIONAL = {"iam:SimulatePrincipalPolicy", "sts:DecodeAuthorizationMessage"}
# The names of each service in IAM and in botocore.
SERVICES = {
    "ec2": "ec2",
    "iam": "iam",
    "pricing": "pricing",
    "servicequotas": "service-quotas",
    "ssm": "ssm",
    "sts": "sts",
}
# Their rows in the Service Authorization Reference have no resource type, and so no tag (see
# `bake/local/api/authorization.toml`); the type of GetServiceQuota is optional.
UNSCOPED = {
    "ec2:DescribeCapacityReservations",
    "ec2:DescribeImageReferences",
    "ec2:DescribeImages",
    "ec2:DescribeInstanceTypeOfferings",
    "ec2:DescribeInstanceTypes",
    "ec2:DescribeInstances",
    "ec2:DescribeKeyPairs",
    "ec2:DescribeLaunchTemplateVersions",
    "ec2:DescribeLaunchTemplates",
    "ec2:DescribeRegions",
    "ec2:DescribeSecurityGroups",
    "ec2:DescribeSnapshots",
    "ec2:DescribeSpotInstanceRequests",
    "ec2:DescribeSpotPriceHistory",
    "ec2:DescribeSubnets",
    "ec2:DescribeVolumes",
    "ec2:GetEbsDefaultKmsKeyId",
    "pricing:GetProducts",
    "servicequotas:GetServiceQuota",
}
# The images, keys and reservations of a launch or a copy may belong to others; networks always do.
ANYBODYS = {
    ("ec2:RunInstances", "capacity-reservation"),
    ("ec2:RunInstances", "image"),
    ("ec2:RunInstances", "key-pair"),
    ("ec2:RunInstances", "subnet"),
    ("ec2:CopyImage", "image"),
    ("ec2:CreateSecurityGroup", "vpc"),
}
# The only tag that is changed later (`invoke extend`).
TO_MOVE_AN_END = {
    "StringLike": {"aws:ResourceTag/bake:run": "*"},
    "ForAllValues:StringEquals": {"aws:TagKeys": "bake:ends"},
}
# The limit of a managed policy, without white space (IAM User Guide, "IAM and AWS STS quotas").
MOST_CHARACTERS = 6144

POLICY: dict[str, Any] = json.loads((REPOSITORY / "docs" / "iam-policy.json").read_text())
GRANTS = [
    (action, resource, statement.get("Condition", {}))
    for statement in POLICY["Statement"]
    for action in as_list(statement["Action"])
    for resource in as_list(statement["Resource"])
]


def test_the_policy_allows_exactly_the_calls_of_the_code() -> None:
    source = "".join(path.read_text() for path in (REPOSITORY / "bake" / "aws").rglob("*.py"))
    words = set(re.findall(r'"([A-Z][A-Za-z]+)"', source))
    session = botocore.session.Session()
    called = {
        f"{prefix}:{operation}"
        for prefix, service in SERVICES.items()
        for operation in words & set(session.get_service_model(service).operation_names)
    }
    allowed = {action for action, _, _ in GRANTS}
    assert allowed - IMPLIED - FOR_REFERENCES == called - IMPLIED - FREE - OPTIONAL


def test_only_parameters_under_bake_and_public_ones_are_allowed() -> None:
    reached = {r for action, r, c in GRANTS if action.startswith("ssm:") and c != VIA_EC2}
    public = "arn:aws:ssm:*::parameter/aws/service/*"
    assert reached == {"arn:aws:ssm:*:*:parameter/bake/*", public}
    assert {action for action, resource, _ in GRANTS if resource == public} == {"ssm:GetParameter"}


def test_other_parameters_and_recipes_are_read_only_by_ec2_itself() -> None:
    via = {action for action, _, condition in GRANTS if condition == VIA_EC2}
    assert via == FOR_REFERENCES
    assert not allows([POLICY], Need("ssm:GetParameters"))
    called_via = {"aws:CalledVia": ["ec2-images.amazonaws.com"]}
    assert allows([POLICY], Need("ssm:GetParameters", several=called_via))


def test_only_unscoped_actions_are_allowed_on_all_resources() -> None:
    on_all = {action for action, resource, _ in GRANTS if resource == "*"}
    assert on_all - FOR_REFERENCES <= UNSCOPED


@pytest.mark.parametrize(
    "action", sorted({a for a, _, _ in GRANTS if a.startswith("ec2:")} - UNSCOPED - IMPLIED)
)
def test_each_resource_type_is_allowed_only_with_our_tag(action: str) -> None:
    rows = facts()[action.removeprefix("ec2:")]
    granted = defaultdict(list)
    for _, resource, condition in [grant for grant in GRANTS if grant[0] == action]:
        granted[kind(resource)].append(condition)
    required = {of for of, row in rows if not row.get("optional")}
    assert required <= granted.keys() <= {of for of, _ in rows}
    for of, conditions in granted.items():
        if (action, of) in ANYBODYS:
            assert conditions == [{}]
            continue
        [tags] = {row["tags"] for each, row in rows if each == of}
        assert conditions == [{"StringLike": {f"aws:{tags.capitalize()}Tag/bake:run": "*"}}]


def test_tags_are_allowed_only_in_creating_calls_with_our_tag() -> None:
    tagging = [(kind(r), c) for action, r, c in GRANTS if action == "ec2:CreateTags"]
    moved = ("instance", TO_MOVE_AN_END)
    assert tagging.count(moved) == 1
    tagging.remove(moved)
    condition = tagging[0][1]
    assert all(each == condition for _, each in tagging)
    making = {
        operation
        for operation, rows in facts().items()
        if any(row.get("tags") == "request" for _, row in rows)
    }
    assert set(condition["StringEquals"]["ec2:CreateAction"]) == making
    assert condition["StringLike"] == {"aws:RequestTag/bake:run": "*"}
    tagged = {of for rows in facts().values() for of, row in rows if row.get("tags") == "request"}
    assert {of for of, _ in tagging} == tagged


@pytest.mark.parametrize(
    ("ours", "keys", "allowed"),
    [
        (True, ["bake:ends"], True),
        (True, ["bake:ends", "bake:run"], False),
        (True, ["Name"], False),
        (False, ["bake:ends"], False),
    ],
)
def test_only_the_end_tag_of_a_tagged_machine_can_be_changed(
    ours: bool, keys: list[str], allowed: bool
) -> None:
    [need] = needs(
        "ec2",
        "CreateTags",
        {"Resources": ["i-1"], "Tags": [{"Key": key, "Value": "v"} for key in keys]},
        region="us-east-1",
        account="123456789012",
        tags_of=lambda kind, name: {"bake:run": "r"} if ours else {},
    )
    assert allows([POLICY], need) is allowed


@pytest.mark.parametrize(
    ("region", "partition"), [("us-gov-west-1", "aws-us-gov"), ("cn-north-1", "aws-cn")]
)
def test_it_holds_in_another_partition_with_its_arns(region: str, partition: str) -> None:
    [need] = needs(
        "ec2",
        "StopInstances",
        {"InstanceIds": ["i-1"]},
        region=region,
        account="123456789012",
        tags_of=lambda kind, name: {"bake:run": "r"},
    )
    assert need.resource == f"arn:{partition}:ec2:{region}:123456789012:instance/i-1"
    assert allows([in_partition(POLICY, partition)], need)
    assert not allows([POLICY], need)


def test_it_fits_into_a_managed_policy_and_its_statements_have_names() -> None:
    assert len(json.dumps(POLICY, separators=(",", ":"))) <= MOST_CHARACTERS
    names = [statement["Sid"] for statement in POLICY["Statement"]]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[A-Za-z0-9]+", name) for name in names)


def test_each_resource_type_has_a_valid_arn() -> None:
    """The ARNs of images and snapshots have no account; a wrong ARN would allow nothing."""
    for action, resource, _ in GRANTS:
        if action.startswith("ec2:") and resource != "*":
            account = "" if kind(resource) in {"image", "snapshot"} else "*"
            assert resource == f"arn:aws:ec2:*:{account}:{kind(resource)}/*"


def kind(resource: str) -> str:
    """Return the resource type in an ARN of EC2."""
    return resource.rpartition(":")[2].partition("/")[0]
