"""Everything that AWS would refuse is reported at once, with advice, before anything is made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from bake import catalog
from bake.aws.base_image import find_base_image
from bake.aws.client.credentials import CredentialsEnd
from bake.aws.client.session import Cloud
from bake.errors import PreflightError
from bake.pipeline.preflight import PreflightResult, preflight
from bake.recipe.payload import UPSTREAM
from bake.recipe.recipe import BaseSection
from tests.support.aws_in_process import ACCOUNT, BASE_NAME, CANONICAL, UBUNTU, Aws, aws_in_process

# The only calls that a preflight may make.
LOOKS = ("Describe", "Get")


@pytest.fixture
def aws() -> Iterator[Aws]:
    with aws_in_process() as aws:
        yield aws
        assert all(operation.startswith(LOOKS) for operation in aws.sent), "it made something"


def recipe(*instance_types: str, market: str = "on-demand", disk_gb: int = 64) -> Any:
    builder = SimpleNamespace(
        instance_types=instance_types or ("g4dn.xlarge",),
        market=market,
        disk_gb=disk_gb,
        timeout_hours=6,
    )
    os_image = replace(catalog.load().os_image("ubuntu-18.04"), security_until=date.max)
    own = SimpleNamespace(builder=builder, base=BaseSection(os="ubuntu-18.04"))
    return SimpleNamespace(recipe=own, os_image=os_image, base=None, unchecked=False)


def check(aws: Aws, recipe: Any, **more: Any) -> PreflightResult:
    return preflight(aws.cloud, recipe, **more)


def refused(aws: Aws, recipe: Any, **more: Any) -> list[str]:
    with pytest.raises(PreflightError) as caught:
        check(aws, recipe, **more)
    assert caught.value.exit_code == 2
    return [str(finding) for finding in caught.value.findings]


def test_a_sound_request_has_its_base_image_and_its_placements(aws: Aws) -> None:
    checked = check(aws, recipe("g4dn.xlarge", "g5.xlarge"), image_name="bake/x/1")
    assert checked.base_image.name == BASE_NAME + "20230607"
    assert checked.base_image.root_device_name == "/dev/sda1"
    zones = {placement.zone for placement in checked.placements}
    assert zones >= {"us-east-1a", "us-east-1b"}
    assert {placement.market for placement in checked.placements} == {"on-demand"}
    assert checked.warnings == ()


def test_an_operating_system_without_security_updates_is_a_warning(aws: Aws) -> None:
    old = recipe()
    old.os_image = catalog.load().os_image("ubuntu-18.04")
    [warning] = check(aws, old).warnings
    assert warning.place == "base"
    assert "ubuntu-18.04 has received no security updates since 2023-05-31" in warning.message
    assert "run `sudo pro attach`" in warning.hint


def test_placements_are_in_the_recipes_order_and_then_by_zone(aws: Aws) -> None:
    checked = check(aws, recipe("g5.xlarge", "g4dn.xlarge"))
    names = [placement.instance_type for placement in checked.placements]
    assert names == sorted(names, reverse=True)
    first = [p.zone for p in checked.placements if p.instance_type == "g5.xlarge"]
    assert first == sorted(first)


def test_a_placement_is_only_where_the_type_is_offered(aws: Aws) -> None:
    offered = {
        offering["Location"]
        for offering in aws.cloud.pages(
            "DescribeInstanceTypeOfferings",
            "InstanceTypeOfferings",
            LocationType="availability-zone",
            Filters=[{"Name": "instance-type", "Values": ["g4dn.xlarge"]}],
        )
    }
    zones = {subnet["AvailabilityZone"] for subnet in aws.cloud.ec2("DescribeSubnets")["Subnets"]}
    assert zones - offered, "the test needs a zone without the type"
    placed = {placement.zone for placement in check(aws, recipe()).placements}
    assert placed == zones & offered


def test_the_newest_base_image_is_taken_and_deprecated_ones_count(aws: Aws) -> None:
    newest = aws.base_image("20990101")

    def deprecate(answer: dict[str, Any]) -> None:
        for image in answer["Images"]:
            image["CreationDate"] = image["Name"][-8:-4] + "-01-01T00:00:00.000Z"
            image["DeprecationTime"] = "2025-06-07T00:00:00.000Z"

    aws.alter("DescribeImages", deprecate)
    base_image = find_base_image(aws.cloud, UBUNTU)
    assert base_image.image_id == newest
    assert base_image.deprecated
    [request] = aws.params("DescribeImages")
    assert request["IncludeDeprecated"] is True
    assert request["Owners"] == [UBUNTU.owner]
    filters = {one["Name"]: one["Values"] for one in request["Filters"]}
    assert filters == {
        "name": [BASE_NAME + "*"],
        "architecture": ["x86_64"],
        "state": ["available"],
        "root-device-type": ["ebs"],
        "virtualization-type": ["hvm"],
    }


def test_the_owner_of_a_stand_in_takes_the_catalogs_place(aws: Aws) -> None:
    mine = aws.base_image("20000101", owner_id=ACCOUNT)
    assert (
        check(aws, recipe(), payload=replace(UPSTREAM, image_owner=ACCOUNT)).base_image.image_id
        == mine
    )


@pytest.mark.parametrize(
    ("region", "owner"),
    [("us-gov-west-1", "513442679011"), ("cn-north-1", "837727238323"), ("eu-west-1", CANONICAL)],
)
def test_the_owner_of_a_base_image_is_that_of_the_partition(
    aws: Aws, region: str, owner: str
) -> None:
    cloud = aws.elsewhere(region)
    with pytest.raises(PreflightError, match=f"No base image for ubuntu-18.04 in {region}"):
        find_base_image(cloud, UBUNTU)
    [request] = aws.params("DescribeImages")
    assert request["Owners"] == [owner]


def test_a_partition_without_a_known_owner(aws: Aws) -> None:
    with pytest.raises(PreflightError) as caught:
        find_base_image(aws.elsewhere("us-gov-west-1"), catalog.load().os_image("debian-12"))
    [finding] = caught.value.findings
    assert "debian-12 in aws-us-gov is not known" in finding.message


def test_no_base_image(aws: Aws) -> None:
    [finding] = refused(aws, recipe(), payload=replace(UPSTREAM, image_owner="999999999999"))
    assert finding.startswith("base: no available x86_64 image of owner 999999999999")
    assert "--include-deprecated" in finding


def test_a_type_that_is_not_offered(aws: Aws) -> None:
    [finding] = refused(aws, recipe("p2.xlarge"))
    assert "p2.xlarge is not offered in us-east-1" in finding
    assert "invoke gpus --region us-east-1" in finding


def test_a_type_that_cannot_be_had_is_left_out_where_another_can(aws: Aws) -> None:
    checked = check(aws, recipe("p2.xlarge", "g4dn.xlarge"))
    assert {placement.instance_type for placement in checked.placements} == {"g4dn.xlarge"}
    [warning] = checked.warnings
    assert "p2.xlarge is not offered" in warning.message


@pytest.mark.parametrize(("market", "code"), [("on-demand", "L-DB2E81BA"), ("spot", "L-3819A6DF")])
def test_a_quota_of_0_says_how_to_ask_for_more(aws: Aws, market: str, code: str) -> None:
    aws.quotas[code] = 0
    [finding] = refused(aws, recipe(market=market))
    assert f"g4dn.xlarge ({market}) needs 4 vCPUs" in finding
    assert "which is 0" in finding
    flag = " --spot" if market == "spot" else ""
    assert finding.endswith(f"invoke quota --region us-east-1 --type g4dn.xlarge{flag} --raise 4")


def test_the_quota_is_the_familys_own(aws: Aws) -> None:
    aws.quotas["L-DB2E81BA"] = 0
    assert check(aws, recipe("p3dn.24xlarge")).placements


def test_a_quota_too_small_for_one_type_leaves_the_smaller_one(aws: Aws) -> None:
    aws.quotas["L-DB2E81BA"] = 4
    checked = check(aws, recipe("g4dn.2xlarge", "g4dn.xlarge"))
    assert {placement.instance_type for placement in checked.placements} == {"g4dn.xlarge"}


def test_what_runs_already_counts_against_the_quota(aws: Aws) -> None:
    aws.quotas["L-DB2E81BA"] = 8

    def running(answer: dict[str, Any]) -> None:
        cpu = {"CoreCount": 2, "ThreadsPerCore": 2}
        kinds = ["g5.xlarge", "g4dn.xlarge", "t3.large", "p3dn.24xlarge"]
        instances = [{"InstanceType": kind, "CpuOptions": cpu} for kind in kinds]
        instances.append(instances[0] | {"InstanceLifecycle": "spot"})
        answer["Reservations"] = [{"Instances": instances}]

    aws.alter("DescribeInstances", running)
    [finding] = refused(aws, recipe())
    assert "which is 8, 8 in use" in finding
    assert "Terminate machines" in finding
    assert "--raise 12" in finding


def test_a_quota_that_may_not_be_read_is_a_warning(aws: Aws) -> None:
    aws.quotas.clear()
    checked = check(aws, recipe())
    assert checked.placements
    [warning] = checked.warnings
    assert "AccessDeniedException" in warning.message


def test_a_cpu_machine_counts_against_the_standard_quota(aws: Aws) -> None:
    aws.quotas["L-1216C47A"] = 1
    [finding] = refused(aws, recipe("t3.large"))
    assert finding.endswith("invoke quota --region us-east-1 --type t3.large --raise 2")


def test_an_image_of_another_architecture(aws: Aws) -> None:
    [finding] = refused(aws, recipe("g5g.xlarge"))
    assert "g5g.xlarge is arm64, but the image is x86_64" in finding


def test_an_image_that_boots_otherwise(aws: Aws) -> None:
    aws.base_image("20990101", owner_id=ACCOUNT, boot_mode="uefi")
    [finding] = refused(aws, recipe("g4dn.metal"), payload=replace(UPSTREAM, image_owner=ACCOUNT))
    assert "g4dn.metal boots only by legacy-bios, but the image by uefi" in finding


def test_an_image_without_ena(aws: Aws) -> None:
    aws.alter("DescribeImages", lambda answer: answer["Images"][0].update(EnaSupport=False))
    [finding] = refused(aws, recipe())
    assert "needs an image with ENA" in finding


def test_a_disk_smaller_than_the_base_image(aws: Aws) -> None:
    [finding] = refused(aws, recipe(disk_gb=8))
    assert finding.startswith("builder.disk_gb: 8 GB is less than the base image's 15")


def test_a_name_that_is_taken(aws: Aws) -> None:
    taken = aws.base_image(owner_id=ACCOUNT, name="bake/mine")
    [finding] = refused(aws, recipe(), image_name="bake/mine")
    assert f"the image {taken} (available) already has the name bake/mine" in finding
    assert "deregister-image" in finding
    [request] = [p for p in aws.params("DescribeImages") if p["Owners"] == ["self"]]
    assert request["IncludeDisabled"] is True, "a disabled image keeps its name"


def test_no_default_vpc(aws: Aws) -> None:
    aws.alter("DescribeSubnets", lambda answer: answer.update(Subnets=[]))
    [finding] = refused(aws, recipe())
    assert "aws ec2 create-default-vpc --region us-east-1" in finding
    assert "aws ec2 create-default-subnet --region us-east-1" in finding, "a VPC without subnets"


@pytest.mark.parametrize(
    ("left", "warned"),
    [
        (timedelta(minutes=50), True),
        (timedelta(hours=7), False),
        (None, False),  # AWS does not tell it
    ],
)
def test_credentials_that_end_before_the_bake_are_a_warning(
    aws: Aws, left: timedelta | None, warned: bool
) -> None:
    end = CredentialsEnd(aws.cloud.now() + left if left else None)
    with mock.patch.object(Cloud, "credentials_end", return_value=end):
        warnings = check(aws, recipe()).warnings
    assert bool(warnings) is warned
    if warned:
        assert "the AWS credentials end in 50 min, but the bake may take 6 h" in str(warnings[0])


def test_a_subnet_of_ones_own_is_the_only_place(aws: Aws) -> None:
    subnet = aws.cloud.ec2("DescribeSubnets")["Subnets"][0]
    checked = check(aws, recipe(), subnet_id=subnet["SubnetId"])
    [placement] = checked.placements
    assert placement.subnet_id == subnet["SubnetId"]
    assert placement.vpc_id == subnet["VpcId"]


def test_a_subnet_that_does_not_exist(aws: Aws) -> None:
    [finding] = refused(aws, recipe(), subnet_id="subnet-0123456789abcdef0")
    assert "subnet subnet-0123456789abcdef0 not found in" in finding


def test_a_subnet_in_a_zone_without_the_type(aws: Aws) -> None:
    without = aws.placement(zone="e").subnet_id
    [finding] = refused(aws, recipe(), subnet_id=without)
    assert "g4dn.xlarge is offered in us-east-1a" in finding
    assert "the subnets are in us-east-1e" in finding


def test_everything_that_is_wrong_is_said_at_once(aws: Aws) -> None:
    aws.quotas["L-DB2E81BA"] = 0
    aws.base_image(owner_id=ACCOUNT, name="bake/mine")
    findings = refused(aws, recipe("p2.xlarge", "g4dn.xlarge", disk_gb=8), image_name="bake/mine")
    places = [finding.partition(":")[0] for finding in findings]
    assert places == ["builder.instance_types", "quota", "name", "builder.disk_gb"]


def test_a_missing_permission_hides_no_other_finding(aws: Aws) -> None:
    aws.refuse("DescribeImages", "UnauthorizedOperation", "You are not authorized.")
    aws.quotas["L-DB2E81BA"] = 0
    findings = refused(aws, recipe(), image_name="bake/mine")
    assert [finding.partition(":")[0] for finding in findings] == ["base", "quota", "name"]
    assert "the permission ec2:DescribeImages" in findings[0]
