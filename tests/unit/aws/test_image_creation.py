"""Images: complete, private and tagged, or removed with all their snapshots."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.exceptions import ReadTimeoutError

from bake.aws.client.retry import ATTEMPTS
from bake.aws.image import find_image
from bake.aws.image_creation import create_image, image_name
from bake.aws.machine import find_machine
from bake.aws.snapshot import NOT_YET
from bake.errors import CloudError, ImageError
from tests.support.aws_in_process import ACCOUNT, Aws, aws_in_process
from tests.support.builders import NAME, a_builder, set_state, take


@pytest.fixture
def aws() -> Iterator[Aws]:
    with aws_in_process() as aws:
        yield aws


def values(tags: list[dict[str, str]]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in tags}


def test_an_image_has_its_tags_on_itself_and_on_its_snapshot(aws: Aws) -> None:
    image = take(aws, a_builder(aws))
    assert (image.state, image.name) == ("available", NAME)
    assert (image.recipe, image.verified, image.payload) == ("mxnet-cu101", "gpu", "upstream")
    assert image.run_id == aws.run.id
    assert image.size_gb
    [snapshot_id] = image.snapshot_ids
    answer = aws.cloud.ec2("DescribeSnapshots", SnapshotIds=[snapshot_id])
    assert values(answer["Snapshots"][0]["Tags"]) == image.tags
    [request] = aws.params("CreateImage")
    kinds = [specification["ResourceType"] for specification in request["TagSpecifications"]]
    assert kinds == ["image", "snapshot"]
    assert image.tags["bake:stage:cuda"] == "c"
    assert "bake:expires" not in image.tags


def test_the_machine_is_stopped_before_the_image_is_created(aws: Aws) -> None:
    machine = a_builder(aws)
    told: list[str] = []
    take(aws, machine, on_progress=told.append)
    assert told[0] == "stopped"
    assert aws.sent.index("StopInstances") < aws.sent.index("CreateImage")
    stopped = find_machine(aws.cloud, machine.instance_id)
    assert stopped
    assert stopped.state == "stopped"


def test_a_spot_machine_is_not_stopped_and_ec2_may_shut_it_down(aws: Aws) -> None:
    take(aws, a_builder(aws, market="spot"))
    assert "StopInstances" not in aws.sent
    [request] = aws.params("CreateImage")
    assert not request.get("NoReboot"), "a disk in use would be taken as it is"


def test_an_image_requires_imdsv2_and_is_private(aws: Aws) -> None:
    image = take(aws, a_builder(aws))
    assert aws.params("ModifyImageAttribute") == [
        {"ImageId": image.image_id, "ImdsSupport": {"Value": "v2.0"}}
    ]
    assert [p["Attribute"] for p in aws.params("DescribeImageAttribute")] == ["launchPermission"]


def test_an_image_that_is_shared_is_removed(aws: Aws) -> None:
    aws.alter(
        "DescribeImageAttribute", lambda answer: answer.update(LaunchPermissions=[{"Group": "all"}])
    )
    machine = a_builder(aws)
    with pytest.raises(ImageError, match="is shared"):
        take(aws, machine)
    assert aws.remains() == set()


def test_a_slow_image_is_waited_for_and_its_progress_reported(aws: Aws) -> None:
    machine = a_builder(aws)
    aws.alter("DescribeImages", set_state("pending"), times=240)
    aws.alter("DescribeSnapshots", lambda answer: answer["Snapshots"][0].update(Progress="42%"))
    told: list[str] = []
    take(aws, machine, on_progress=told.append)
    assert "pending, snapshot 42%" in told
    assert sum(aws.slept) > 3600, "boto3's own waiter would have given up after ten minutes"


def test_an_image_that_stays_pending_is_removed_after_the_timeout(aws: Aws) -> None:
    machine = a_builder(aws)
    aws.alter("DescribeImages", set_state("pending"))
    with pytest.raises(ImageError, match="is still pending after 6 h"):
        take(aws, machine)
    assert aws.remains() == set()


def test_a_failed_image_shows_awss_reason_and_is_removed(aws: Aws) -> None:
    machine = a_builder(aws)
    reason = {"Code": "Client.VolumeIOError", "Message": "The volume could not be read"}
    aws.alter("DescribeImages", set_state("failed", StateReason=reason))
    with pytest.raises(ImageError, match="went into the state failed") as caught:
        take(aws, machine)
    assert caught.value.code == "Client.VolumeIOError"
    assert caught.value.reason == "The volume could not be read"
    assert aws.remains() == set()


@pytest.mark.parametrize(
    ("reason", "hint"),
    [
        ("Given key ID is not accessible", "docs/accounts.md"),
        ("The volume was busy", "Bake again"),
    ],
)
def test_a_failed_snapshot_ends_the_wait_at_once(aws: Aws, reason: str, hint: str) -> None:
    machine = a_builder(aws)
    aws.alter("DescribeImages", set_state("pending"))
    aws.alter(
        "DescribeSnapshots",
        lambda answer: answer["Snapshots"][0].update(State="error", StateMessage=reason),
        times=1,
    )
    with pytest.raises(ImageError, match=r"snapshot snap-\w+ of the image") as caught:
        take(aws, machine)
    assert caught.value.reason == reason
    assert hint in caught.value.hint
    assert sum(aws.slept) < 60
    assert aws.remains() == set()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ReadTimeoutError(endpoint_url="https://e")])
@pytest.mark.parametrize("operation", ["CreateImage", "ModifyImageAttribute"])
def test_an_interrupted_call_leaves_no_image_and_no_snapshot(
    aws: Aws, operation: str, error: Exception
) -> None:
    machine = a_builder(aws)
    aws.cut(operation, error, times=ATTEMPTS)
    with pytest.raises((KeyboardInterrupt, CloudError)):
        take(aws, machine)
    assert "CreateImage" in aws.sent
    assert aws.remains() == set()
    assert aws.cloud.leftovers == []


def test_an_interrupt_while_waiting_leaves_no_image_and_no_snapshot(aws: Aws) -> None:
    machine = a_builder(aws)
    aws.cut("DescribeImages", KeyboardInterrupt(), times=1)
    with pytest.raises(KeyboardInterrupt):
        take(aws, machine)
    assert aws.remains() == set()


def test_an_outage_of_minutes_does_not_cost_the_image(aws: Aws) -> None:
    machine = a_builder(aws)
    aws.alter("DescribeImages", set_state("pending"), times=4)
    aws.cut("DescribeImages", ReadTimeoutError(endpoint_url="https://ec2"), times=3 * ATTEMPTS)
    assert take(aws, machine).state == "available"
    assert sum(aws.slept) > 60


@pytest.mark.parametrize("code", sorted(NOT_YET))
def test_create_image_waits_for_the_snapshots_of_the_checkpoints(aws: Aws, code: str) -> None:
    machine = a_builder(aws)
    aws.refuse("CreateImage", code, times=100)
    assert take(aws, machine).state == "available"
    assert aws.slept.count(15.0) == 100


@pytest.mark.parametrize("description", ["", "MXNet for CUDA 10.1"])
def test_an_empty_description_is_not_sent(aws: Aws, description: str) -> None:
    machine, tags = a_builder(aws), aws.run.lasting(NAME)
    create_image(aws.cloud, machine, name=NAME, description=description, tags=tags)
    [request] = aws.params("CreateImage")
    assert request.get("Description", "") == description
    assert ("Description" in request) is bool(description)


def test_a_lasting_outage_is_an_error_and_the_image_is_reported(aws: Aws) -> None:
    machine = a_builder(aws)
    aws.cut("DescribeImages", ReadTimeoutError(endpoint_url="https://ec2"))
    with pytest.raises(CloudError) as caught:
        take(aws, machine)
    assert caught.value.code == "ReadTimeoutError"
    [leftover] = aws.cloud.leftovers
    assert "aws ec2 deregister-image" in leftover.command
    assert sum(aws.slept) < 10 * 60


def test_an_image_that_was_deregistered_is_not_waited_for(aws: Aws) -> None:
    machine = a_builder(aws)
    aws.alter("DescribeImages", set_state("pending"), times=3)
    aws.refuse("DescribeImages", "InvalidAMIID.NotFound")
    with pytest.raises(ImageError, match="was deregistered"):
        take(aws, machine)
    assert sum(aws.slept) < 20 * 60


def test_a_repeated_request_finds_its_own_image(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    machine = a_builder(aws)
    aws.lose_answer("CreateImage")
    image = take(aws, machine)
    assert aws.sent.count("CreateImage") == 2
    assert aws.remains() == {image.image_id, *image.snapshot_ids}


def test_a_name_in_use_is_an_error_and_the_other_image_stays(aws: Aws) -> None:
    theirs = aws.base_image(owner_id=ACCOUNT, name=NAME)
    machine = a_builder(aws)
    with pytest.raises(CloudError) as caught:
        take(aws, machine)
    assert caught.value.code == "InvalidAMIName.Duplicate"
    assert "DeregisterImage" not in aws.sent
    assert find_image(aws.cloud, theirs)


def test_an_image_that_ec2_does_not_know_yet_is_waited_for(aws: Aws) -> None:
    machine = a_builder(aws)
    aws.refuse("DescribeImages", "InvalidAMIID.NotFound", times=3)
    assert take(aws, machine).state == "available"


@pytest.mark.parametrize("operation", ["ModifyImageAttribute", "DescribeImageAttribute"])
def test_an_available_image_may_be_unknown_to_some_of_ec2s_servers(
    aws: Aws, operation: str
) -> None:
    machine = a_builder(aws)
    aws.refuse(operation, "InvalidAMIID.NotFound", times=3)
    assert take(aws, machine).state == "available"


def test_snapshots_that_the_image_does_not_list_yet_are_found_by_their_tags(aws: Aws) -> None:
    machine = a_builder(aws)
    aws.alter("DescribeImages", set_state("failed", BlockDeviceMappings=[]))
    hidden = [3]

    def hide(answer: dict[str, Any]) -> None:
        if hidden[0]:
            hidden[0] -= 1
            answer["Snapshots"] = []

    aws.alter("DescribeSnapshots", hide)
    with pytest.raises(ImageError):
        take(aws, machine)
    assert hidden == [0]
    assert aws.remains() == set()


def test_a_snapshot_that_ec2_does_not_know_yet_is_deleted_later(aws: Aws) -> None:
    machine = a_builder(aws)
    aws.alter("DescribeImages", set_state("failed"))
    aws.refuse("DeleteSnapshot", "InvalidSnapshot.NotFound", times=3)
    with pytest.raises(ImageError):
        take(aws, machine)
    assert aws.remains() == set()


def test_a_leftover_is_reported_and_the_first_error_is_raised(aws: Aws) -> None:
    machine = a_builder(aws)
    aws.alter("DescribeImages", set_state("failed"))
    aws.refuse("DeregisterImage", "UnauthorizedOperation", "You may not.")
    with pytest.raises(ImageError, match="went into the state failed"):
        take(aws, machine)
    [leftover] = aws.cloud.leftovers
    [image_id] = [name for name in aws.remains() if name.startswith("ami-")]
    assert leftover.command == (
        "aws ec2 deregister-image --region us-east-1 --delete-associated-snapshots "
        f"--image-id {image_id}"
    )


def test_image_names_sort_by_time_and_contain_the_digest() -> None:
    time = datetime(2026, 11, 21, 6, 30, tzinfo=UTC)
    assert image_name("mxnet-cu101", time, "0123abcdef") == NAME
