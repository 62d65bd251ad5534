"""The base image that a recipe names: its id, its owner and name, a parameter, another recipe."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from moto.ec2.models import ec2_backends

from bake.aws.base_image import BaseImage, ImageSource, find_base_image, find_image_of_recipe
from bake.errors import CloudError, PreflightError
from tests.support.aws_in_process import (
    ACCOUNT,
    BASE_NAME,
    CANONICAL,
    REGION,
    UBUNTU,
    Aws,
    aws_in_process,
)

OTHER = "111122223333"
TEAM = ImageSource(owner=OTHER, name="team/base-*")
# Tags of an image that a bake has finished.
BAKED = {
    "bake:run": "20261121-063000-0123ab",
    "bake:digest": "0" * 64,
    "bake:recipe": "team",
    "bake:verified": "gpu",
    "bake:payload": "upstream",
}


@pytest.fixture
def aws() -> Iterator[Aws]:
    with aws_in_process() as aws:
        yield aws


def find(aws: Aws, source: ImageSource, **more: Any) -> BaseImage:
    return find_base_image(aws.cloud, UBUNTU, source=source, **more)


def refused(aws: Aws, source: ImageSource, **more: Any) -> tuple[str, str]:
    with pytest.raises(PreflightError) as caught:
        find(aws, source, **more)
    [finding] = caught.value.findings
    return finding.place, f"{finding.message}. {finding.hint}"


def image(aws: Aws, name: str = "team/base-1", **more: Any) -> str:
    created = {"creation_date": month(more.pop("created", "2026-01"))}
    return aws.base_image(**{"name": name, "owner_id": OTHER, **created, **more})


def month(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m")


def test_an_id_is_found_whoever_owns_the_image(aws: Aws) -> None:
    image_id = image(aws, "anything")
    found = find(aws, ImageSource(image_id=image_id))
    assert (found.image_id, found.name) == (image_id, "anything")
    assert found.boot_mode == "legacy-bios"


def test_the_newest_image_of_owner_and_name_is_found(aws: Aws) -> None:
    old = image(aws, "team/base-1", created="2026-01")
    new = image(aws, "team/base-2", created="2026-02")
    image(aws, "team/other", created="2026-03")
    image(aws, "team/base-3", owner_id=CANONICAL, created="2026-04")
    assert find(aws, TEAM).image_id == new
    assert find(aws, ImageSource(owner=OTHER, name="team/base-1")).image_id == old
    assert find(aws, TEAM, locked=old).image_id == old
    assert find(aws, TEAM, locked="team/base-1").image_id == old


def test_an_image_that_cannot_be_used_is_left_out_for_an_older_one(aws: Aws) -> None:
    old = image(aws, "team/base-1", created="2026-01")
    image(aws, "team/base-2", created="2026-02", architecture="arm64")
    assert find(aws, TEAM).image_id == old


@pytest.mark.parametrize(
    ("attributes", "says"),
    [
        ({"architecture": "arm64"}, "is arm64, but ubuntu-18.04 is x86_64"),
        ({"platform": "windows"}, "has Windows"),
        ({"root_device_type": "instance-store"}, "has its root device in the instance-store"),
        ({"virtualization_type": "paravirtual"}, "has the virtualization type paravirtual"),
    ],
)
def test_an_image_that_cannot_be_a_base_is_refused_with_the_reason(
    aws: Aws, attributes: dict[str, Any], says: str
) -> None:
    image_id = image(aws, **attributes)
    place, text = refused(aws, ImageSource(image_id=image_id))
    assert place == "base.ami"
    assert f"{image_id} (team/base-1) {says}" in text
    place, text = refused(aws, TEAM)
    assert place == "base.name"
    assert f"{image_id} (team/base-1) {says}" in text


def test_an_image_that_is_not_finished_is_refused(aws: Aws) -> None:
    image_id = image(aws)
    ec2_backends[ACCOUNT][REGION].amis[image_id].state = "pending"
    _, text = refused(aws, ImageSource(image_id=image_id))
    assert "is pending" in text


def test_an_image_of_another_region_is_refused_with_that_region(aws: Aws) -> None:
    image_id = image(aws)
    elsewhere = aws.elsewhere("eu-west-1")
    with pytest.raises(PreflightError) as caught:
        find_base_image(elsewhere, UBUNTU, source=ImageSource(image_id=image_id))
    [finding] = caught.value.findings
    assert finding.message == f"{image_id} is in us-east-1, but not in eu-west-1"
    assert 'region = "us-east-1"' in finding.hint
    assert "aws ec2 copy-image --region eu-west-1 --source-region us-east-1" in finding.hint


def test_an_unknown_image_is_refused_also_if_no_other_region_answers(aws: Aws) -> None:
    aws.refuse("DescribeRegions", "UnauthorizedOperation", status=403)
    place, text = refused(aws, ImageSource(image_id="ami-0123456789abcdef0"))
    assert place == "base.ami"
    assert "ami-0123456789abcdef0 not found in us-east-1" in text


def test_a_name_that_no_image_has_is_refused_with_a_command_that_lists_them(aws: Aws) -> None:
    place, text = refused(aws, ImageSource(owner=OTHER, name="none-*"))
    assert place == "base.name"
    assert f"{OTHER} has no image named none-* in us-east-1" in text
    assert "aws ec2 describe-images --region us-east-1 --include-deprecated" in text


def put(aws: Aws, name: str, value: str) -> ImageSource:
    aws.cloud.ssm("PutParameter", Name=name, Value=value, Type="String")
    return ImageSource(parameter=name)


def test_a_parameter_names_the_image(aws: Aws) -> None:
    image_id = image(aws, "anything")
    assert find(aws, put(aws, "/team/base", image_id)).image_id == image_id


def test_a_lock_of_a_parameter_is_the_image_that_it_named(aws: Aws) -> None:
    locked, now = image(aws, "team/base-1"), image(aws, "team/base-2")
    source = put(aws, "/team/base", now)
    assert find(aws, source, locked=locked).image_id == locked
    place, text = refused(aws, source, locked="team/base-1")
    assert place == "base.ssm_parameter"
    assert "the lock has no id of team/base-1 in us-east-1" in text


def test_a_parameter_that_names_no_image_is_refused(aws: Aws) -> None:
    place, text = refused(aws, put(aws, "/team/base", '{"image_id": "ami-1"}'))
    assert place == "base.ssm_parameter"
    assert """the value of /team/base is not an image's id: '{"image_id": "ami-1"}'""" in text
    _, text = refused(aws, ImageSource(parameter="/team/none"))
    assert "parameter /team/none not found in us-east-1" in text
    _, text = refused(aws, put(aws, "/team/gone", "ami-0123456789abcdef0"))
    assert "ami-0123456789abcdef0 not found in us-east-1" in text
    aws.refuse("GetParameter", "AccessDeniedException")
    with pytest.raises(CloudError, match="GetParameter"):
        find(aws, put(aws, "/team/base2", "ami-1"))


def baked(aws: Aws, created: str = "2026-01", **tags: str) -> str:
    image_id = aws.base_image(
        name=f"bake/team/{created}", owner_id=ACCOUNT, creation_date=month(created)
    )
    pairs = [{"Key": key, "Value": value} for key, value in (BAKED | tags).items()]
    aws.cloud.ec2("CreateTags", Resources=[image_id], Tags=pairs)
    return image_id


def of_recipe(aws: Aws, **more: Any) -> BaseImage:
    command = "invoke bake team --local"
    wanted: dict[str, Any] = {
        "accepted": ("gpu",),
        "payload": "upstream",
        "bake": command,
        **more,
    }
    return find_image_of_recipe(aws.cloud, "team", UBUNTU, **wanted)


@pytest.fixture
def with_imdsv2(aws: Aws) -> None:
    """Every image requires IMDSv2, as a finished image of bake does. moto does not have this."""

    def finished(response: dict[str, Any]) -> None:
        for image in response["Images"]:
            image["ImdsSupport"] = "v2.0"

    aws.alter("DescribeImages", finished)


@pytest.mark.usefixtures("with_imdsv2")
def test_the_newest_finished_image_of_another_recipe_is_found_with_its_tags(aws: Aws) -> None:
    older = baked(aws)
    newer = baked(aws, "2026-02")
    baked(aws, "2026-03", **{"bake:recipe": "other"})
    baked(aws, "2026-04", **{"bake:verified": "cpu"})
    baked(aws, "2026-05", **{"bake:payload": "stand-in"})
    found = of_recipe(aws)
    assert found.image_id == newer
    assert found.tags["bake:recipe"] == "team"
    assert of_recipe(aws, locked=older).image_id == older


def refused_recipe(aws: Aws, **more: Any) -> str:
    with pytest.raises(PreflightError) as caught:
        of_recipe(aws, **more)
    [finding] = caught.value.findings
    assert finding.place == "base.recipe"
    return f"{finding.message}. {finding.hint}"


@pytest.mark.usefixtures("with_imdsv2")
def test_a_recipe_without_an_image_is_refused_with_the_command_that_bakes_it(aws: Aws) -> None:
    text = refused_recipe(aws)
    assert "the recipe team has no finished image in us-east-1. Bake it first" in text
    assert text.endswith("invoke bake team --local")
    image_id = baked(aws, **{"bake:verified": "cpu"})
    assert f"the newest is {image_id} (proved: cpu, downloads: upstream)" in refused_recipe(aws)
    assert "the locked image ami-1 of team not found" in refused_recipe(aws, locked="ami-1")


def test_an_unfinished_image_of_another_recipe_is_no_base(aws: Aws) -> None:
    baked(aws)  # without IMDSv2
    assert "has no finished image" in refused_recipe(aws)


def test_the_catalogs_image_needs_no_source(aws: Aws) -> None:
    assert find_base_image(aws.cloud, UBUNTU).name == f"{BASE_NAME}20230607"
