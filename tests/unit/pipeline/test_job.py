"""An existing image is found, and taken up even if another run has not finished it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bake.aws.image import Image, find_image
from bake.aws.image_creation import create_image, image_name
from bake.console.console import Console
from bake.pipeline import job
from bake.pipeline.job import Context, finished_image, take_up
from bake.recipe.payload import UPSTREAM
from bake.recipe.project import Project
from tests.support.aws_in_process import Aws, aws_in_process
from tests.support.builders import a_builder, set_state

DIGEST = "0123abcd" * 8
PLAN: Any = SimpleNamespace(
    digest=DIGEST, recipe=SimpleNamespace(name="mxnet-cu101"), resolved=None, checks=()
)


@pytest.fixture
def aws() -> Iterator[Aws]:
    with aws_in_process() as aws:
        yield aws


@pytest.fixture
def context(aws: Aws, tmp_path: Path) -> Context:
    return Context(aws.cloud, UPSTREAM, Project(tmp_path), tmp_path, Console())


@pytest.fixture(autouse=True)
def gpu_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "accepted", lambda resolved, **_: frozenset({"gpu"}))


def baked(aws: Aws, *, digest: str = DIGEST, verified: str = "gpu") -> Image:
    name = image_name("mxnet-cu101", aws.run.started_at, f"{len(aws.params('CreateImage')):08}")
    tags = aws.run.finished(
        name=name, digest=digest, stages={}, verified=verified, payload="upstream"
    )
    return create_image(aws.cloud, a_builder(aws), name=name, description="", tags=tags)


def test_the_image_of_just_this_plan_is_found_if_it_is_proved_enough(aws: Aws) -> None:
    assert finished_image(aws.cloud, PLAN) is None
    baked(aws, digest="f" * 64)
    baked(aws, verified="cpu")
    assert finished_image(aws.cloud, PLAN) is None
    image = baked(aws)
    found = finished_image(aws.cloud, PLAN)
    assert found is not None
    assert found.image_id == image.image_id


def test_a_pending_one_is_found_where_none_is_available(aws: Aws) -> None:
    first, second = baked(aws), baked(aws)

    def pending(answer: dict[str, Any]) -> None:
        for image in answer["Images"]:
            if image["ImageId"] == second.image_id:
                image.update(State="pending")

    aws.alter("DescribeImages", pending)
    found = finished_image(aws.cloud, PLAN)
    assert found is not None
    assert found.image_id == first.image_id
    aws.cloud.ec2("DeregisterImage", ImageId=first.image_id)
    found = finished_image(aws.cloud, PLAN)
    assert found is not None
    assert (found.image_id, found.state) == (second.image_id, "pending")


def test_one_that_failed_is_no_image(aws: Aws) -> None:
    baked(aws)
    aws.alter("DescribeImages", set_state("failed"))
    assert finished_image(aws.cloud, PLAN) is None


def test_a_pending_image_of_a_killed_run_is_waited_for(aws: Aws, context: Context) -> None:
    image = replace(baked(aws), state="pending")
    aws.alter("DescribeImages", set_state("pending"), times=5)
    taken = take_up(context, image)
    assert taken is not None
    assert (taken.image_id, taken.state) == (image.image_id, "available")
    assert aws.slept, "it was not waited for"


def test_what_a_killed_run_had_still_to_do_to_its_image_is_done(aws: Aws, context: Context) -> None:
    done = baked(aws)
    assert not replace(done, imdsv2=False).finished
    asked = aws.sent.count("ModifyImageAttribute")
    assert take_up(context, replace(done, imdsv2=False)) is not None
    assert aws.sent.count("ModifyImageAttribute") == asked + 1

    def as_it_is_then(answer: dict[str, Any]) -> None:  # moto forgets it
        answer["Images"][0]["ImdsSupport"] = "v2.0"

    aws.alter("DescribeImages", as_it_is_then)
    found = finished_image(aws.cloud, PLAN)
    assert found is not None
    assert found.finished
    assert take_up(context, found) is found


def test_a_pending_image_that_fails_is_removed_and_baked_again(
    aws: Aws, context: Context, capsys: pytest.CaptureFixture[str]
) -> None:
    image = replace(baked(aws), state="pending")
    aws.alter("DescribeImages", set_state("pending"), times=2)
    aws.alter("DescribeImages", set_state("failed"))
    assert take_up(context, image) is None
    assert find_image(aws.cloud, image.image_id) is None
    assert "baking it again" in capsys.readouterr().err


def test_an_image_that_is_shared_is_not_used_and_stays(
    aws: Aws, context: Context, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may be a person's copy, which has all tags, shared with colleagues."""
    image = baked(aws)
    aws.cloud.ec2(
        "ModifyImageAttribute",
        ImageId=image.image_id,
        LaunchPermission={"Add": [{"UserId": "210987654321"}]},
    )
    assert take_up(context, replace(image, state="pending")) is None
    assert "is shared" in capsys.readouterr().err
    assert find_image(aws.cloud, image.image_id) is not None
