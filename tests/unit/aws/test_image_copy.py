"""Copies in other regions: complete, tagged and only once, or removed with their snapshots."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ReadTimeoutError

from bake.aws.client.session import Cloud
from bake.aws.image import Image, images
from bake.aws.image_copy import Copy, copy_image
from bake.errors import BakeError, CloudError, ImageError, RequestError
from tests.support.aws_in_process import REGION, Aws, aws_in_process
from tests.support.copied_images import NAME, an_image

THERE = "us-west-2"


@pytest.fixture
def aws() -> Iterator[Aws]:
    with aws_in_process() as aws:
        yield aws


@pytest.fixture
def image(aws: Aws) -> Image:
    """A finished image in the region of `aws.cloud`."""
    return an_image(aws)


@pytest.fixture
def there(aws: Aws) -> Cloud:
    return aws.elsewhere(THERE)


def copied(aws: Aws, image: Image, there: Cloud, **more: Any) -> Copy:
    return copy_image(there, image, REGION, **more)


def test_a_copy_has_the_tags_of_the_image_except_for_the_run(
    aws: Aws, image: Image, there: Cloud
) -> None:
    copy = copied(aws, image, there)
    assert copy.made
    made = copy.image
    assert (made.state, made.name) == ("available", NAME)
    assert made.run_id not in ("", image.run_id)
    assert made.tags == image.tags | {"bake:run": made.run_id}
    [snapshot_id] = made.snapshot_ids
    snapshot = there.ec2("DescribeSnapshots", SnapshotIds=[snapshot_id])["Snapshots"][0]
    assert {tag["Key"]: tag["Value"] for tag in snapshot["Tags"]} == made.tags
    assert aws.params("ModifyImageAttribute")[-1] == {
        "ImageId": made.image_id,
        "ImdsSupport": {"Value": "v2.0"},
    }
    assert there.leftovers == []


def test_the_copy_of_an_encrypted_image_uses_the_key_of_its_region(
    aws: Aws, image: Image, there: Cloud
) -> None:
    from dataclasses import replace

    copied(aws, replace(image, encrypted=True), there)
    [request] = aws.params("CopyImage")
    assert request["Encrypted"] is True
    assert "KmsKeyId" not in request
    assert len(request["ClientToken"]) <= 128


def test_an_existing_copy_is_returned_to_the_next_run(aws: Aws, image: Image, there: Cloud) -> None:
    first = copied(aws, image, there)
    second = copied(aws, image, aws.elsewhere(THERE), name="another-name")
    assert (second.made, second.image.image_id) == (False, first.image.image_id)
    assert len(aws.params("CopyImage")) == 1


def test_the_pending_copy_of_a_run_that_was_killed_is_waited_for(
    aws: Aws, image: Image, there: Cloud
) -> None:
    killed = copied(aws, image, there).image
    pending = 5

    def once_pending(answer: dict[str, Any]) -> None:
        nonlocal pending
        for found in answer["Images"]:
            if found["ImageId"] == killed.image_id and pending:
                pending -= 1
                found["State"] = "pending"

    aws.alter("DescribeImages", once_pending)
    told: list[str] = []
    again = copied(aws, image, there, on_progress=told.append)
    assert (again.made, again.image.image_id) == (False, killed.image_id)
    assert any("pending" in line for line in told)
    assert len(aws.params("CopyImage")) == 1


def test_a_pending_copy_that_fails_is_deleted_and_created_again(
    aws: Aws, image: Image, there: Cloud
) -> None:
    dead = copied(aws, image, there).image
    looks = 0

    def fails(answer: dict[str, Any]) -> None:
        nonlocal looks
        for found in answer["Images"]:
            if found["ImageId"] == dead.image_id:
                looks += 1
                found["State"] = "pending" if looks < 3 else "failed"

    aws.alter("DescribeImages", fails)
    again = copied(aws, image, there)
    assert again.made
    assert [each.image_id for each in images(there)] == [again.image.image_id]
    assert aws.remains_in(THERE) == {again.image.image_id, *again.image.snapshot_ids}


def test_a_pending_copy_that_is_shared_is_not_deleted_as_a_failed_one(
    aws: Aws, image: Image, there: Cloud
) -> None:
    """A person may have shared it with colleagues before this command has looked at it."""
    shared = copied(aws, image, there).image
    there.ec2(
        "ModifyImageAttribute",
        ImageId=shared.image_id,
        LaunchPermission={"Add": [{"UserId": "210987654321"}]},
    )
    looks = 0

    def pending_at_first(answer: dict[str, Any]) -> None:
        nonlocal looks
        for found in answer["Images"]:
            if found["ImageId"] == shared.image_id:
                looks += 1
                found["State"] = "pending" if looks < 3 else "available"

    aws.alter("DescribeImages", pending_at_first)
    with pytest.raises(RequestError, match="cannot have the name"):
        copied(aws, image, there)
    assert copied(aws, image, there).image.image_id == shared.image_id


def test_two_at_once_make_one_copy(aws: Aws, image: Image) -> None:
    made: list[Copy | BaseException] = []
    clouds = [aws.elsewhere(THERE), aws.elsewhere(THERE)]
    together = threading.Barrier(2)

    def work(cloud: Cloud) -> None:
        together.wait()
        try:
            made.append(copied(aws, image, cloud))
        except BaseException as error:
            made.append(error)

    threads = [threading.Thread(target=work, args=(cloud,)) for cloud in clouds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    copies = [each for each in made if isinstance(each, Copy)]
    assert sorted(copy.made for copy in copies) == [False, True], made
    assert len({copy.image.image_id for copy in copies}) == 1
    assert len(images(clouds[0])) == 1


def test_a_lost_response_creates_no_second_copy(aws: Aws, image: Image, there: Cloud) -> None:
    aws.lose_answer("CopyImage")
    copy = copied(aws, image, there)
    assert copy.made
    assert [each.image_id for each in images(there)] == [copy.image.image_id]
    assert aws.remains_in(THERE) == {copy.image.image_id, *copy.image.snapshot_ids}


@pytest.mark.parametrize("error", [ReadTimeoutError(endpoint_url="x"), KeyboardInterrupt()])
def test_a_copy_whose_call_was_interrupted_is_removed(
    aws: Aws, image: Image, there: Cloud, error: BaseException
) -> None:
    aws.cut("CopyImage", error)
    with pytest.raises((CloudError, KeyboardInterrupt)):
        copied(aws, image, there)
    assert aws.remains_in(THERE) == set()
    assert there.leftovers == []


def test_a_failed_copy_is_removed_with_its_snapshots_and_its_reason_reported(
    aws: Aws, image: Image, there: Cloud
) -> None:
    def fails(answer: dict[str, Any]) -> None:
        for found in answer["Images"]:
            if found["ImageId"] != image.image_id:
                reason = {"Code": "Client.InternalError", "Message": "The key is disabled"}
                found.update(State="failed", StateReason=reason)

    aws.alter("DescribeImages", fails)
    with pytest.raises(ImageError, match="went into the state failed") as caught:
        copied(aws, image, there)
    assert caught.value.reason == "The key is disabled"
    assert caught.value.hint.startswith("Copy it again")
    assert aws.remains_in(THERE) == set()


def test_what_cannot_be_removed_is_named_with_its_command(
    aws: Aws, image: Image, there: Cloud
) -> None:
    aws.refuse("ModifyImageAttribute", "UnauthorizedOperation")
    aws.refuse("DeregisterImage", "UnauthorizedOperation")
    with pytest.raises(CloudError) as caught:
        copied(aws, image, there)
    [left] = images(there)
    assert any(
        f"--region {THERE}" in line and left.image_id in line for line in caught.value.details
    )


def test_a_name_in_use_is_refused_before_the_copy_is_requested(
    aws: Aws, image: Image, there: Cloud
) -> None:
    copied(aws, image, there)
    other = an_image(aws, digest="f" * 64, name="another")
    with pytest.raises(RequestError) as caught:
        copied(aws, other, there, name=NAME)
    assert NAME in str(caught.value.details)
    assert len(aws.params("CopyImage")) == 1


def test_a_missing_permission_is_reported_and_nothing_is_left(
    aws: Aws, image: Image, there: Cloud
) -> None:
    aws.refuse("CopyImage", "UnauthorizedOperation")
    with pytest.raises(BakeError) as caught:
        copied(aws, image, there)
    assert "ec2:CopyImage" in caught.value.hint
    assert aws.remains_in(THERE) == set()
