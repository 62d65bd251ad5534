"""Images are listed by their tags, and deleted with all their snapshots."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from bake.aws.image import delete_image, images
from bake.errors import ImageError
from tests.support.aws_in_process import ACCOUNT, Aws, aws_in_process
from tests.support.builders import a_builder, take


@pytest.fixture
def aws() -> Iterator[Aws]:
    with aws_in_process() as aws:
        yield aws


def test_deleting_a_snapshot_in_use_is_retried(aws: Aws) -> None:
    machine = a_builder(aws)
    image = take(aws, machine)
    aws.refuse("DeleteSnapshot", "InvalidSnapshot.InUse", "in use by ami-1", times=3)
    delete_image(aws.cloud, image)
    assert aws.remains() == set()


def test_a_snapshot_that_cannot_be_deleted_is_reported(aws: Aws) -> None:
    image = take(aws, a_builder(aws))
    aws.refuse("DeleteSnapshot", "UnauthorizedOperation", "You may not.")
    with pytest.raises(ImageError, match="could not be removed completely") as caught:
        delete_image(aws.cloud, image)
    [detail] = caught.value.details
    assert (
        f"aws ec2 delete-snapshot --region us-east-1 --snapshot-id {image.snapshot_ids[0]}"
        in detail
    )
    assert aws.remains() == set(image.snapshot_ids)


def test_deleting_an_image_twice_is_no_error(aws: Aws) -> None:
    image = take(aws, a_builder(aws))
    assert aws.remains() == {image.image_id, *image.snapshot_ids}
    delete_image(aws.cloud, image)
    assert aws.remains() == set()
    delete_image(aws.cloud, image)


def test_only_tagged_images_are_listed_newest_first_and_by_recipe(aws: Aws) -> None:
    aws.base_image(owner_id=ACCOUNT, name="by hand")
    machine = a_builder(aws)
    for number, recipe in enumerate(["mxnet-cu101", "pytorch-cu126"]):
        aws.cloud.ec2(
            "CreateImage",
            InstanceId=machine.instance_id,
            Name=f"bake/{recipe}/{number}",
            TagSpecifications=[
                {"ResourceType": kind, "Tags": [
                    {"Key": "bake:run", "Value": "r"},
                    {"Key": "bake:digest", "Value": "d"},
                    {"Key": "bake:recipe", "Value": recipe},
                ]}
                for kind in ("image", "snapshot")
            ],
        )  # fmt: skip

    def age(answer: dict[str, Any]) -> None:
        for image in answer["Images"]:
            image["CreationDate"] = f"202{image['Name'][-1]}-01-01T00:00:00.000Z"

    aws.alter("DescribeImages", age)
    assert [i.recipe for i in images(aws.cloud)] == ["pytorch-cu126", "mxnet-cu101"]
    assert [i.recipe for i in images(aws.cloud, "mxnet-cu101")] == ["mxnet-cu101"]
    assert images(aws.cloud)[0].verified == "no", "what is not said was not proved"
