"""Copies to several regions at once: independent of each other, and removed by an interrupt."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from moto.ec2.models import ec2_backends

from bake.aws.client.session import Cloud
from bake.aws.client.wait import Clock
from bake.aws.image import Image, images
from bake.console.console import Console
from bake.errors import AccessError, RequestError
from bake.images.copies import Copied, copy_everywhere, read_regions
from tests.support.aws_in_process import REGION, Aws, aws_in_process
from tests.support.copied_images import an_image

WEST, FRANKFURT = "us-west-2", "eu-central-1"


@pytest.fixture
def aws() -> Iterator[Aws]:
    with aws_in_process() as aws:
        yield aws


@pytest.fixture
def image(aws: Aws) -> Image:
    return an_image(aws)


def copied(aws: Aws, image: Image, *wanted: str, connect: Any = None) -> list[Copied]:
    return copy_everywhere(image, REGION, wanted, connect or aws.elsewhere, Console(quiet=True))


def test_each_region_gets_one(aws: Aws, image: Image) -> None:
    outcomes = copied(aws, image, WEST, FRANKFURT)
    assert [(each.region, each.status) for each in outcomes] == [
        (WEST, "copied"),
        (FRANKFURT, "copied"),
    ]
    again = copied(aws, image, WEST, FRANKFURT)
    assert [each.status for each in again] == ["exists"] * 2
    assert [each.image and each.image.image_id for each in again] == [
        each.image and each.image.image_id for each in outcomes
    ]


def test_one_that_fails_does_not_keep_the_others_and_is_made_up_for_later(
    aws: Aws, image: Image
) -> None:
    def connect(region: str) -> Cloud:
        if region == WEST:
            raise AccessError("The region is not switched on")
        return aws.elsewhere(region)

    failed, done = copied(aws, image, WEST, FRANKFURT, connect=connect)
    assert (failed.status, done.status) == ("failed", "copied")
    assert failed.error
    later = copied(aws, image, WEST, FRANKFURT)
    assert [each.status for each in later] == ["copied", "exists"]
    assert len(aws.params("CopyImage")) == 2


def test_an_interrupt_removes_the_copies_that_are_being_made(aws: Aws, image: Image) -> None:
    asked = threading.Barrier(3)
    waiting = set()

    def pending(answer: dict[str, Any]) -> None:
        for found in answer["Images"]:
            if found["ImageId"] != image.image_id:
                found["State"] = "pending"
                if found["ImageId"] not in waiting:
                    waiting.add(found["ImageId"])
                    asked.wait(20)

    aws.alter("DescribeImages", pending)

    def connect(region: str) -> Cloud:
        if region == "interrupted":
            asked.wait(20)
            raise KeyboardInterrupt
        return aws.elsewhere(region, Clock())

    with pytest.raises(KeyboardInterrupt):
        copied(aws, image, WEST, FRANKFURT, "interrupted", connect=connect)
    assert len(waiting) == 2
    assert aws.remains_in(WEST) | aws.remains_in(FRANKFURT) == set()


def test_what_is_no_finished_image_of_ours_is_refused(aws: Aws, image: Image) -> None:
    with pytest.raises(RequestError, match="was not made by bake"):
        copied(aws, replace(image, tags={}), WEST)
    with pytest.raises(RequestError, match="is pending"):
        copied(aws, replace(image, state="pending"), WEST)


def test_regions_are_a_list_with_commas() -> None:
    assert read_regions("us-west-2, eu-central-1,us-west-2", REGION) == [WEST, FRANKFURT]
    for wrong in (None, "", " , ", f"us-west-2,{REGION}"):
        with pytest.raises(RequestError):
            read_regions(wrong, REGION)


def test_copies_are_images_like_others(aws: Aws, image: Image) -> None:
    copied(aws, image, WEST)
    [copy] = images(aws.elsewhere(WEST), image.recipe)
    assert (copy.digest, copy.verified) == (image.digest, "gpu")
    assert ec2_backends["123456789012"][WEST].amis[copy.image_id].name == image.name
