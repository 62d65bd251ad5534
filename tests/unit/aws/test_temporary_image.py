"""A temporary image of a checkpoint: it is like the base image, and it never stays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
from moto.ec2.models import ec2_backends
from moto.ec2.responses.amis import AmisResponse

from bake.aws.checkpoint import (
    delete_checkpoint,
)
from bake.aws.client.retry import ATTEMPTS
from bake.aws.image import find_image, images
from bake.aws.temporary_image import temporary_image
from bake.errors import CheckpointError, CloudError, MachineError
from tests.support.aws_in_process import ACCOUNT, REGION, Aws, aws_in_process
from tests.support.checkpoints import (
    TIMEOUT,
    a_base_image,
    register_image,
    take,
)


@pytest.fixture
def aws() -> Iterator[Aws]:
    with (
        aws_in_process() as aws,
        mock.patch.object(AmisResponse, "register_image", register_image),
    ):
        yield aws


def test_a_temporary_image_has_the_attributes_of_the_base_image(aws: Aws) -> None:
    base = replace(a_base_image(aws), boot_mode="uefi-preferred", ena=True, sriov="simple")
    base = replace(base, tpm="v2.0")
    taken = take(aws)
    with temporary_image(aws.cloud, aws.run, taken.snapshot_id, base) as image_id:
        found = find_image(aws.cloud, image_id)
        assert found
        assert found.tags == aws.run.temporary()
        assert images(aws.cloud) == [], "it is none of the user's"
    [request] = aws.params("RegisterImage")
    [specification] = request.pop("TagSpecifications")
    assert specification["ResourceType"] == "image"
    request.pop("Description")
    assert request == {
        "Name": f"bake-{aws.run.id}/{taken.snapshot_id}",
        "Architecture": "x86_64",
        "VirtualizationType": "hvm",
        "RootDeviceName": "/dev/sda1",
        "BlockDeviceMappings": [
            {
                "DeviceName": "/dev/sda1",
                "Ebs": {
                    "SnapshotId": taken.snapshot_id,
                    "VolumeType": "gp3",
                    "DeleteOnTermination": True,
                },
            }
        ],
        "BootMode": "uefi-preferred",
        "EnaSupport": True,
        "SriovNetSupport": "simple",
        "TpmSupport": "v2.0",
        "ImdsSupport": "v2.0",
    }
    assert aws.remains() == {taken.snapshot_id}
    assert aws.cloud.leftovers == []


def test_a_base_image_has_ec2s_values_for_its_attributes(aws: Aws) -> None:
    flags = {"SriovNetSupport": "simple", "TpmSupport": "v2.0", "EnaSupport": True}
    aws.alter("DescribeImages", lambda answer: answer["Images"][0].update(flags))
    base = a_base_image(aws)
    assert (base.sriov, base.tpm, base.ena) == ("simple", "v2.0", True)


def test_attributes_that_the_base_image_lacks_are_not_requested(aws: Aws) -> None:
    base = replace(a_base_image(aws), boot_mode=None, ena=False, sriov=None)
    with temporary_image(aws.cloud, aws.run, take(aws).snapshot_id, base):
        pass
    [request] = aws.params("RegisterImage")
    assert not {"BootMode", "EnaSupport", "SriovNetSupport", "TpmSupport"} & request.keys()


def test_a_deleted_checkpoint_is_a_checkpoint_error(aws: Aws) -> None:
    base, taken = a_base_image(aws), take(aws)
    delete_checkpoint(aws.cloud, taken)
    with (
        pytest.raises(CheckpointError) as caught,
        temporary_image(aws.cloud, aws.run, taken.snapshot_id, base),
    ):
        pytest.fail("there is nothing to start from")
    assert caught.value.code == "InvalidSnapshot.NotFound"
    assert "base image" in caught.value.hint
    assert aws.slept == []
    assert aws.remains() == set()


def test_a_checkpoint_that_is_not_completed_cannot_be_used_yet(aws: Aws) -> None:
    base, taken = a_base_image(aws), take(aws)
    ec2_backends[ACCOUNT][REGION].snapshots[taken.snapshot_id].status = "pending"
    with (
        pytest.raises(CheckpointError),
        temporary_image(aws.cloud, aws.run, taken.snapshot_id, base),
    ):
        pytest.fail("it is pending")


def test_an_error_that_no_other_checkpoint_would_avoid_is_raised(aws: Aws) -> None:
    base, taken = a_base_image(aws), take(aws)
    aws.refuse("RegisterImage", "UnauthorizedOperation")
    with (
        pytest.raises(CloudError) as caught,
        temporary_image(aws.cloud, aws.run, taken.snapshot_id, base),
    ):
        pytest.fail("refused")
    assert not isinstance(caught.value, CheckpointError)
    assert "ec2:RegisterImage" in caught.value.hint


def test_an_image_that_fails_is_deregistered(aws: Aws) -> None:
    base, taken = a_base_image(aws), take(aws)
    reason = {"Code": "Client.Bad", "Message": "The disk has no boot sector"}

    def fail(answer: dict[str, Any]) -> None:
        for image in answer["Images"]:
            image.update(State="failed", StateReason=reason)

    aws.alter("DescribeImages", fail)
    with (
        pytest.raises(CheckpointError) as caught,
        temporary_image(aws.cloud, aws.run, taken.snapshot_id, base),
    ):
        pytest.fail("it failed")
    assert caught.value.reason == "The disk has no boot sector"
    assert aws.remains() == {taken.snapshot_id}


def test_an_image_that_ec2_does_not_know_yet_is_waited_for(aws: Aws) -> None:
    base, taken = a_base_image(aws), take(aws)
    aws.refuse("DescribeImages", "InvalidAMIID.NotFound", times=3)
    with temporary_image(aws.cloud, aws.run, taken.snapshot_id, base) as image_id:
        assert len(aws.slept) == 3
        aws.refuse("DeregisterImage", "InvalidAMIID.Unavailable", times=2)
    assert image_id not in aws.remains()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), TIMEOUT])
def test_an_interrupted_registration_leaves_no_image(aws: Aws, error: BaseException) -> None:
    base, taken = a_base_image(aws), take(aws)
    aws.cut("RegisterImage", error, times=ATTEMPTS)
    aws.alter("DescribeImages", lambda answer: answer.update(Images=[]), times=4)
    with (
        pytest.raises((KeyboardInterrupt, CloudError)),
        temporary_image(aws.cloud, aws.run, taken.snapshot_id, base),
    ):
        pytest.fail("it was cut off")
    assert "RegisterImage" in aws.sent
    assert aws.remains() == {taken.snapshot_id}
    assert aws.cloud.leftovers == []


def test_a_repeated_registration_finds_its_own_image(
    aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    base, taken = a_base_image(aws), take(aws)
    aws.lose_answer("RegisterImage")
    with temporary_image(aws.cloud, aws.run, taken.snapshot_id, base):
        assert aws.sent.count("RegisterImage") == 2
    assert aws.remains() == {taken.snapshot_id}


def test_an_error_inside_is_raised_and_the_image_is_deregistered(aws: Aws) -> None:
    base, taken = a_base_image(aws), take(aws)
    with (
        pytest.raises(MachineError, match="ended"),
        temporary_image(aws.cloud, aws.run, taken.snapshot_id, base),
    ):
        raise MachineError("it ended")
    assert aws.remains() == {taken.snapshot_id}


def test_an_image_that_cannot_be_deregistered_is_reported(aws: Aws) -> None:
    base, taken = a_base_image(aws), take(aws)
    aws.refuse("DeregisterImage", "UnauthorizedOperation")
    with temporary_image(aws.cloud, aws.run, taken.snapshot_id, base) as image_id:
        pass
    [leftover] = aws.cloud.leftovers
    assert leftover.command == f"aws ec2 deregister-image --region us-east-1 --image-id {image_id}"
