"""Checkpoints: what is in them is what their tags say, and the best one is one that can be used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest import mock

import pytest
from botocore.exceptions import ReadTimeoutError
from hypothesis import given
from hypothesis import strategies as st
from moto.ec2.models import ec2_backends
from moto.ec2.responses.amis import AmisResponse

from bake.aws.base_image import BaseImage, find_base_image
from bake.aws.checkpoint import (
    Checkpoint,
    checkpoints,
    contents_digest,
    create_checkpoint,
    delete_checkpoint,
    wait_until_completed,
)
from bake.aws.client.retry import ATTEMPTS
from bake.aws.image import find_image, images
from bake.aws.launch import run_machine
from bake.aws.machine import Machine
from bake.aws.tags import new_run, read, read_seconds, write_seconds
from bake.aws.temporary_image import temporary_image
from bake.errors import CheckpointError, CloudError, MachineError
from bake.pipeline.checkpoints import best, prune, usable
from bake.plan.plan import Plan, Stage
from bake.plan.script import Script
from bake.recipe import recipe as recipes
from bake.recipe.payload import UPSTREAM
from bake.recipe.resolved import resolve
from tests.support.aws_in_process import ACCOUNT, REGION, UBUNTU, Aws, aws_in_process
from tests.support.checkpoints import register_image
from tests.support.environment import REPOSITORY

MANIFESTS = REPOSITORY / "manifests"
RECIPE = recipes.find("mxnet-cu101", MANIFESTS)
NOW = datetime(2026, 11, 21, 6, 30, tzinfo=UTC)
STAGES = {"base": "b" * 64, "conda": "c" * 64}
TIMEOUT = ReadTimeoutError(endpoint_url="https://ec2")


@pytest.fixture
def aws() -> Iterator[Aws]:
    with (
        aws_in_process() as aws,
        mock.patch.object(AmisResponse, "register_image", register_image),
    ):
        yield aws


def a_machine(aws: Aws) -> Machine:
    machine = run_machine(aws.cloud, aws.run, aws.order("k", "sg-1"), [aws.placement()])
    aws.at_first |= aws.remains()
    return machine


def take(aws: Aws, machine: Machine | None = None, **more: Any) -> Checkpoint:
    fields: dict[str, Any] = {
        "stages": STAGES,
        "seconds": {"base": 12.04, "conda": 70.3, "boot": 9.0},
        "expires_at": NOW + timedelta(days=30),
        **more,
    }
    return create_checkpoint(aws.cloud, aws.run, machine or a_machine(aws), **fields)


def a_base_image(aws: Aws) -> BaseImage:
    return find_base_image(aws.cloud, UBUNTU)  # type: ignore[arg-type]


def snapshots(aws: Aws) -> set[str]:
    return {name for name in aws.remains() if name.startswith("snap-")}


def tag(aws: Aws, snapshot_id: str, key: str, value: str | None) -> None:
    pair = {"Key": key} if value is None else {"Key": key, "Value": value}
    operation = "delete_tags" if value is None else "create_tags"
    client = aws.cloud.session.client("ec2")
    getattr(client, operation)(Resources=[snapshot_id], Tags=[pair])


def answer_with(**values: Any) -> Any:
    def act(answer: dict[str, Any]) -> None:
        for snapshot in answer["Snapshots"]:
            snapshot.update(values)

    return act


def hide(answer: dict[str, Any]) -> None:
    answer["Snapshots"] = []


# Taking one -----------------------------------------------------------------------------------


def test_a_checkpoint_is_tagged_in_the_call_that_creates_it(aws: Aws) -> None:
    machine = a_machine(aws)
    taken = take(aws, machine)
    [request] = aws.params("CreateSnapshot")
    [specification] = request["TagSpecifications"]
    tags = read(specification["Tags"])
    assert request["VolumeId"] == machine.root_volume_id
    assert specification["ResourceType"] == "snapshot"
    assert tags == {
        **aws.run.temporary(),
        "bake:expires": "2026-12-21T06:30:00Z",
        "bake:checkpoint": contents_digest(STAGES),
        "bake:seconds": "base=12.0 conda=70.3",
        "bake:stage:base": "b" * 64,
        "bake:stage:conda": "c" * 64,
    }
    assert taken.sound
    assert checkpoints(aws.cloud) == [taken]
    assert (taken.recipe, taken.run_id) == ("mxnet-cu101", aws.run.id)
    assert taken.stages == STAGES
    assert taken.seconds == {"base": 12.0, "conda": 70.3}
    assert taken.expires_at == NOW + timedelta(days=30)
    assert aws.slept == []


def test_an_unknown_root_volume_is_looked_up(aws: Aws) -> None:
    machine = a_machine(aws)
    assert machine.root_volume_id
    take(aws, replace(machine, root_volume_id=""))
    assert aws.params("CreateSnapshot")[0]["VolumeId"] == machine.root_volume_id
    aws.forget_instances()
    with pytest.raises(MachineError, match="has no disk"):
        take(aws, replace(machine, root_volume_id=""))


def test_a_second_snapshot_waits_for_the_pause_that_ebs_requires(aws: Aws) -> None:
    machine = a_machine(aws)
    aws.refuse("CreateSnapshot", "SnapshotCreationPerVolumeRateExceeded", times=2)
    taken = take(aws, machine)
    assert aws.slept == [15, 15]
    assert snapshots(aws) == {taken.snapshot_id}


def test_a_limit_that_no_retry_lifts_is_reported_at_once(aws: Aws) -> None:
    machine = a_machine(aws)
    aws.refuse("CreateSnapshot", "ConcurrentSnapshotLimitExceeded", "Five are pending.")
    with pytest.raises(CloudError) as caught:
        take(aws, machine)
    assert "Wait until they are completed" in caught.value.hint
    assert aws.slept == []
    assert "DescribeSnapshots" not in aws.sent, "a refusal has made nothing that could be undone"


def test_a_snapshot_whose_response_was_lost_is_found_and_not_created_twice(aws: Aws) -> None:
    machine = a_machine(aws)
    aws.lose_answer("CreateSnapshot")
    taken = take(aws, machine)
    assert aws.sent.count("CreateSnapshot") == 1
    assert snapshots(aws) == {taken.snapshot_id}
    assert taken.sound


def test_a_request_that_never_reached_aws_is_repeated(aws: Aws) -> None:
    machine = a_machine(aws)
    aws.refuse("CreateSnapshot", "InternalError", status=500, times=2)
    taken = take(aws, machine)
    assert aws.sent.count("CreateSnapshot") == 3
    assert snapshots(aws) == {taken.snapshot_id}


def test_another_checkpoint_of_the_run_is_not_mistaken_for_the_lost_one(aws: Aws) -> None:
    machine = a_machine(aws)
    earlier = take(aws, machine, stages={"base": "b" * 64})
    aws.refuse("CreateSnapshot", "InternalError", status=500, times=1)
    assert take(aws, machine).snapshot_id != earlier.snapshot_id


@pytest.mark.parametrize("error", [KeyboardInterrupt(), TIMEOUT])
def test_an_interrupted_call_leaves_no_snapshot_of_a_changing_disk(
    aws: Aws, error: BaseException
) -> None:
    machine = a_machine(aws)
    aws.cut("CreateSnapshot", error)
    aws.alter("DescribeSnapshots", hide, times=5)  # not everywhere known yet
    with pytest.raises((KeyboardInterrupt, CloudError)):
        take(aws, machine)
    assert "CreateSnapshot" in aws.sent
    assert aws.remains() == set()
    assert aws.cloud.leftovers == []


def test_a_lost_snapshot_is_deleted_even_if_the_retry_is_refused(aws: Aws) -> None:
    machine = a_machine(aws)

    def lose_it(_: dict[str, Any]) -> None:
        aws.refuse("CreateSnapshot", "ConcurrentSnapshotLimitExceeded")
        raise TIMEOUT

    aws.alter("CreateSnapshot", lose_it, times=1)
    aws.alter("DescribeSnapshots", hide, times=1)
    with pytest.raises(CloudError) as caught:
        take(aws, machine)
    assert caught.value.code == "ConcurrentSnapshotLimitExceeded"
    assert aws.remains() == set()


def test_a_snapshot_that_cannot_be_deleted_is_reported_with_a_command(aws: Aws) -> None:
    machine = a_machine(aws)
    aws.cut("CreateSnapshot", KeyboardInterrupt())
    aws.refuse("DeleteSnapshot", "UnauthorizedOperation")
    with pytest.raises(KeyboardInterrupt):
        take(aws, machine)
    [leftover] = aws.cloud.leftovers
    assert leftover.command.startswith("aws ec2 delete-snapshot --region us-east-1 --snapshot-id")
    assert contents_digest(STAGES) in leftover.command


# Finding them ---------------------------------------------------------------------------------


def test_checkpoints_of_a_recipe_are_listed_newest_first(aws: Aws) -> None:
    machine = a_machine(aws)
    first, second = take(aws, machine), take(aws, machine, stages={"base": "b" * 64})
    other = create_checkpoint(
        aws.cloud,
        new_run("other", lifetime=timedelta(hours=1)),
        machine,
        stages=STAGES,
        seconds={},
        expires_at=NOW,
    )
    age(aws, first, timedelta(days=2))
    ids = [checkpoint.snapshot_id for checkpoint in checkpoints(aws.cloud, "mxnet-cu101")]
    assert ids == [second.snapshot_id, first.snapshot_id]
    assert other.snapshot_id in {c.snapshot_id for c in checkpoints(aws.cloud)}


def test_of_two_checkpoints_of_one_time_the_one_with_more_stages_is_kept(aws: Aws) -> None:
    machine = a_machine(aws)
    less = take(aws, machine, stages=dict(list(STAGES.items())[:1]))
    more = take(aws, machine)
    snapshots = ec2_backends[ACCOUNT][REGION].snapshots
    moment = snapshots[less.snapshot_id].start_time
    snapshots[more.snapshot_id].start_time = moment
    prune(aws.cloud, aws.run.recipe, keep=1)
    assert [one.snapshot_id for one in checkpoints(aws.cloud)] == [more.snapshot_id]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("bake:stage:base", "0" * 64),
        ("bake:stage:base", None),
        ("bake:stage:mxnet", "e" * 64),
        ("bake:checkpoint", "0" * 64),
        ("bake:checkpoint", ""),
    ],
)
def test_a_tag_changed_by_hand_is_noticed(aws: Aws, key: str, value: str | None) -> None:
    tag(aws, take(aws).snapshot_id, key, value)
    [found] = checkpoints(aws.cloud)
    assert not found.sound
    assert not usable(found, a_plan(found.stages), now=NOW)


def test_other_tags_do_not_change_the_contents_digest(aws: Aws) -> None:
    taken = take(aws)
    tag(aws, taken.snapshot_id, "bake:seconds", "base=nan conda=-1 x 3 =5 base=1e999 conda=2.5")
    tag(aws, taken.snapshot_id, "bake:expires", "next year")
    tag(aws, taken.snapshot_id, "team", "research")
    [found] = checkpoints(aws.cloud)
    assert found == replace(taken, seconds={"conda": 2.5}, expires_at=None)
    assert not found.has_expired(NOW + timedelta(days=9999))


def test_seconds_fit_into_one_tag(aws: Aws) -> None:
    seconds = {f"stage-{n:02}": 100.0 + n for n in range(40)}
    text = write_seconds(seconds)
    assert len(text) <= 256
    kept = read_seconds(text)
    assert len(kept) > 10
    assert kept == dict(list(seconds.items())[-len(kept) :]), "the longest, in their order"


# Waiting --------------------------------------------------------------------------------------


def test_a_pending_checkpoint_is_waited_for_and_its_progress_reported(aws: Aws) -> None:
    taken = replace(take(aws), state="pending")
    aws.alter("DescribeSnapshots", answer_with(State="pending", Progress="42%"), times=220)
    told: list[str] = []
    assert wait_until_completed(aws.cloud, taken, on_progress=told.append).state == "completed"
    assert told[0] == "pending, 42%"
    assert sum(aws.slept) > 600


def test_a_failed_checkpoint_shows_awss_reason(aws: Aws) -> None:
    taken = replace(take(aws), state="pending")
    aws.alter("DescribeSnapshots", answer_with(State="error", StateMessage="KMS key gone"))
    with pytest.raises(CheckpointError, match="went into the state error") as caught:
        wait_until_completed(aws.cloud, taken)
    assert caught.value.reason == "KMS key gone"
    assert aws.slept == []


def test_a_checkpoint_that_ec2_does_not_know_yet_is_waited_for(aws: Aws) -> None:
    taken = replace(take(aws), state="pending")
    aws.refuse("DescribeSnapshots", "InvalidSnapshot.NotFound", times=3)
    assert wait_until_completed(aws.cloud, taken).state == "completed"


@pytest.mark.parametrize(("state", "waited"), [("pending", True), ("completed", False)])
def test_a_checkpoint_that_was_deleted_is_an_error(aws: Aws, state: str, waited: bool) -> None:
    taken = replace(take(aws), state=state)
    delete_checkpoint(aws.cloud, taken)
    with pytest.raises(CheckpointError, match="was deleted"):
        wait_until_completed(aws.cloud, taken)
    assert bool(aws.slept) == waited
    assert sum(aws.slept) < 120


# As an image ----------------------------------------------------------------------------------


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


# Removing them --------------------------------------------------------------------------------


def age(aws: Aws, checkpoint: Checkpoint, time: timedelta) -> None:
    ec2_backends[ACCOUNT][REGION].snapshots[checkpoint.snapshot_id].start_time -= time


def some(aws: Aws, count: int, **more: Any) -> list[Checkpoint]:
    """The newest first."""
    machine = a_machine(aws)
    made = [take(aws, machine, stages={"base": f"{n:064}"}, **more) for n in range(count)]
    for days, checkpoint in enumerate(made):
        age(aws, checkpoint, timedelta(days=days))
    return made


def ids(found: Sequence[Checkpoint]) -> list[str]:
    return [checkpoint.snapshot_id for checkpoint in found]


def test_the_oldest_checkpoints_beyond_keep_are_deleted(aws: Aws) -> None:
    made = some(aws, 4)
    assert ids(prune(aws.cloud, "mxnet-cu101", keep=3, now=NOW)) == ids(made[3:])
    assert snapshots(aws) == set(ids(made[:3]))
    assert prune(aws.cloud, "mxnet-cu101", keep=3, now=NOW) == []


def test_expired_and_failed_checkpoints_do_not_count_for_keep(aws: Aws) -> None:
    made = some(aws, 4)
    tag(aws, made[0].snapshot_id, "bake:expires", "2026-11-21T06:29:59Z")
    ec2_backends[ACCOUNT][REGION].snapshots[made[1].snapshot_id].status = "error"
    assert ids(prune(aws.cloud, "mxnet-cu101", keep=2, now=NOW)) == ids(made[:2])
    assert snapshots(aws) == set(ids(made[2:]))


def test_other_recipes_checkpoints_and_other_snapshots_stay(aws: Aws) -> None:
    machine = a_machine(aws)
    aws.cloud.ec2("CreateSnapshot", VolumeId=machine.root_volume_id)
    theirs = snapshots(aws)
    mine = take(aws, machine)
    assert prune(aws.cloud, "mxnet-cu10", keep=0, now=NOW) == []
    assert ids(prune(aws.cloud, "mxnet-cu101", keep=0, now=NOW)) == [mine.snapshot_id]
    assert snapshots(aws) == theirs


def test_a_checkpoint_in_use_by_an_image_stays(aws: Aws) -> None:
    base, (first, second) = a_base_image(aws), some(aws, 2)
    with temporary_image(aws.cloud, aws.run, second.snapshot_id, base):
        assert ids(prune(aws.cloud, "mxnet-cu101", keep=0, now=NOW)) == [first.snapshot_id]
    assert aws.cloud.leftovers == []
    assert snapshots(aws) == {second.snapshot_id}


def test_a_checkpoint_that_another_run_deletes_is_not_returned(aws: Aws) -> None:
    some(aws, 1)
    aws.refuse("DeleteSnapshot", "InvalidSnapshot.NotFound")
    assert prune(aws.cloud, "mxnet-cu101", keep=0, now=NOW) == []
    assert aws.cloud.leftovers == []


def test_a_checkpoint_that_cannot_be_deleted_is_reported_and_others_are_deleted(aws: Aws) -> None:
    made = some(aws, 2)
    aws.refuse("DeleteSnapshot", "UnauthorizedOperation", times=1)
    assert ids(prune(aws.cloud, "mxnet-cu101", keep=0, now=NOW)) == ids(made[1:])
    [leftover] = aws.cloud.leftovers
    assert leftover.command == (
        f"aws ec2 delete-snapshot --region us-east-1 --snapshot-id {made[0].snapshot_id}"
    )


# Choosing -------------------------------------------------------------------------------------


def a_plan(digests: Mapping[str, str], needs: Mapping[str, Sequence[str]] | None = None) -> Plan:
    """With `seal` at its end, which needs all."""
    wanted = {name: tuple((needs or {}).get(name, ())) for name in digests}
    wanted["seal"] = tuple(digests)
    stages = tuple(
        Stage(Script(name, "", below, (), b""), {}, below, digests.get(name, "5" * 64))
        for name, below in wanted.items()
    )
    return Plan(resolve(RECIPE), UPSTREAM, "ami-1", stages, b"", "d" * 64)


def a_checkpoint(stages: Mapping[str, str] = STAGES, **more: Any) -> Checkpoint:
    fields: dict[str, Any] = {
        "snapshot_id": "snap-1",
        "state": "completed",
        "progress": "100%",
        "size_gb": 64,
        "started_at": NOW - timedelta(days=1),
        "expires_at": NOW + timedelta(days=29),
        "recipe": "mxnet-cu101",
        "run_id": "r",
        "stages": stages,
        "seconds": {},
        "sound": True,
        **more,
    }
    return Checkpoint(**fields)


PLAN = a_plan({**STAGES, "mxnet": "e" * 64}, {"conda": ["base"], "mxnet": ["conda"]})


@pytest.mark.parametrize(
    ("checkpoint", "says"),
    [
        (a_checkpoint(), True),
        (a_checkpoint(state="pending"), True),
        (a_checkpoint({**STAGES, "mxnet": "e" * 64}), True),
        (a_checkpoint(recipe="another"), True),
        (a_checkpoint(expires_at=None), True),
        (a_checkpoint({}), False),
        (a_checkpoint(sound=False), False),
        (a_checkpoint(state="error"), False),
        (a_checkpoint(state="recoverable"), False),
        (a_checkpoint(expires_at=NOW), False),
        (a_checkpoint({**STAGES, "conda": "0" * 64}), False),
        (a_checkpoint({**STAGES, "cuda": "f" * 64}), False),
        (a_checkpoint({"conda": "c" * 64}), False),
        (a_checkpoint({**STAGES, "mxnet": "e" * 64, "seal": "5" * 64}), False),
    ],
)
def test_a_checkpoint_is_usable_if_the_plan_has_all_its_stages(
    checkpoint: Checkpoint, says: bool
) -> None:
    assert usable(checkpoint, PLAN, now=NOW) is says


def test_a_checkpoint_larger_than_the_recipes_disk_is_not_usable() -> None:
    assert best([a_checkpoint(size_gb=65)], PLAN, 64, now=NOW) is None
    assert best([a_checkpoint(size_gb=64)], PLAN, 64, now=NOW)


def test_the_best_checkpoint_saves_the_most_time() -> None:
    digests = {"base": "b" * 64, "cuda": "d" * 64, "conda": "c" * 64, "mxnet": "e" * 64}
    plan = a_plan(digests, {"cuda": ["base"], "conda": ["base"], "mxnet": ["conda"]})
    few = a_checkpoint({n: digests[n] for n in ("base", "cuda")}, snapshot_id="few")
    many = a_checkpoint({n: digests[n] for n in ("base", "conda", "mxnet")}, snapshot_id="many")
    assert best([few, many], plan, 64, now=NOW) == many
    few = replace(few, seconds={"base": 10, "cuda": 600})
    assert best([few, many], plan, 64, now=NOW) == many, "not all times are known"
    many = replace(many, seconds={"conda": 60, "mxnet": 90})
    assert best([few, many], plan, 64, now=NOW) == few


def test_of_equal_checkpoints_a_completed_and_then_a_new_one_is_best() -> None:
    pending = a_checkpoint(state="pending", started_at=NOW)
    old, new = a_checkpoint(), a_checkpoint(started_at=NOW - timedelta(hours=1))
    assert best([pending, old], PLAN, 64, now=NOW) == old
    assert best([old, new], PLAN, 64, now=NOW) == new


NAMES = ("a", "b", "c", "d", "e")


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    names = NAMES[: draw(st.integers(1, len(NAMES)))]
    needs = {n: draw(st.sets(st.sampled_from(names[:i]))) if i else () for i, n in enumerate(names)}
    return a_plan({name: f"digest-{name}" for name in names}, {n: sorted(needs[n]) for n in names})


POSSIBLE = st.builds(
    a_checkpoint,
    st.dictionaries(
        st.sampled_from((*NAMES, "seal", "x")),
        st.booleans(),
        max_size=6,
    ).map(lambda found: {n: f"digest-{n}" if good else "other" for n, good in found.items()}),
    seconds=st.dictionaries(st.sampled_from(NAMES), st.floats(0, 1e6)),
    state=st.sampled_from(["pending", "completed", "completed", "error"]),
    size_gb=st.sampled_from([8, 64, 65]),
    sound=st.sampled_from([True, True, False]),
    started_at=st.integers(0, 50).map(lambda days: NOW - timedelta(days=days)),
    expires_at=st.sampled_from([None, NOW - timedelta(1), NOW + timedelta(1)]),
)


@given(plans(), st.lists(POSSIBLE, max_size=8))
def test_the_best_checkpoint_is_usable_and_no_other_contains_more(
    plan: Plan, found: list[Checkpoint]
) -> None:
    found = [replace(c, snapshot_id=f"snap-{number}") for number, c in enumerate(found)]
    able = [c for c in found if usable(c, plan, now=NOW) and c.size_gb <= 64]
    chosen = best(found, plan, 64, now=NOW)
    assert (chosen is None) == (not able)
    if chosen is None:
        return
    stages = {stage.name: stage for stage in plan.stages}
    assert chosen in able
    assert chosen.sound
    assert chosen.expires_at is None or chosen.expires_at > NOW
    assert all(stages[name].digest == digest for name, digest in chosen.stages.items())
    assert all(need in chosen.stages for name in chosen.stages for need in stages[name].needs)
    for other in able:
        assert not other.stages.keys() > chosen.stages.keys()
        if other.stages == chosen.stages:
            assert (other.state == "completed") <= (chosen.state == "completed")
            if other.state == chosen.state:
                assert other.started_at <= chosen.started_at
    if not any(c.seconds for c in able):
        assert len(chosen.stages) == max(len(c.stages) for c in able)
    # One that turned out bad is left out, until there is none.
    rest = [c for c in found if c.snapshot_id != chosen.snapshot_id]
    again = best(rest, plan, 64, now=NOW)
    assert again != chosen
    assert (again is None) == (len(able) == 1)
