"""Checkpoints: created with their tags, found by them, and deleted or reported."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any
from unittest import mock

import pytest
from moto.ec2.models import ec2_backends
from moto.ec2.responses.amis import AmisResponse

from bake.aws.checkpoint import (
    Checkpoint,
    checkpoints,
    contents_digest,
    create_checkpoint,
    delete_checkpoint,
    wait_until_completed,
)
from bake.aws.snapshot import NOT_YET
from bake.aws.tags import new_run, read, read_seconds, write_seconds
from bake.aws.temporary_image import temporary_image
from bake.errors import CheckpointError, CloudError, MachineError
from bake.pipeline.checkpoints import prune
from tests.support.aws_in_process import ACCOUNT, REGION, Aws, aws_in_process
from tests.support.checkpoints import (
    NOW,
    STAGES,
    TIMEOUT,
    a_base_image,
    a_machine,
    register_image,
    snapshots,
    take,
)


@pytest.fixture
def aws() -> Iterator[Aws]:
    with (
        aws_in_process() as aws,
        mock.patch.object(AmisResponse, "register_image", register_image),
    ):
        yield aws


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
        "bake:payload": "upstream",
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


def test_a_persons_copy_of_a_checkpoint_is_not_used_and_not_deleted(aws: Aws) -> None:
    """It has all tags of the checkpoint; EC2 gives each copy the same volume id."""
    taken = take(aws, a_machine(aws))

    def as_a_copy(answer: dict[str, Any]) -> None:
        for snapshot in answer["Snapshots"]:
            snapshot["VolumeId"] = "vol-ffffffff"

    assert checkpoints(aws.cloud) == [taken]
    aws.alter("DescribeSnapshots", as_a_copy)
    assert checkpoints(aws.cloud) == []


def test_an_unknown_root_volume_is_looked_up(aws: Aws) -> None:
    machine = a_machine(aws)
    assert machine.root_volume_id
    take(aws, replace(machine, root_volume_id=""))
    assert aws.params("CreateSnapshot")[0]["VolumeId"] == machine.root_volume_id
    aws.forget_instances()
    with pytest.raises(MachineError, match="has no disk"):
        take(aws, replace(machine, root_volume_id=""))


@pytest.mark.parametrize("code", sorted(NOT_YET))
def test_a_snapshot_that_ebs_does_not_take_yet_is_waited_for(aws: Aws, code: str) -> None:
    machine = a_machine(aws)
    aws.refuse("CreateSnapshot", code, times=2)
    taken = take(aws, machine)
    assert aws.slept == [15, 15]
    assert snapshots(aws) == {taken.snapshot_id}


def test_snapshots_that_stay_pending_are_reported_within_a_minute(aws: Aws) -> None:
    machine = a_machine(aws)
    aws.refuse("CreateSnapshot", "ConcurrentSnapshotLimitExceeded", "Five are pending.")
    with pytest.raises(CloudError) as caught:
        take(aws, machine)
    assert "Wait until they are completed" in caught.value.hint
    assert sum(aws.slept) < 60, "the machine is held meanwhile"
    assert "DescribeSnapshots" not in aws.sent, "a refusal has made nothing that could be undone"


def test_a_limit_that_no_retry_lifts_is_reported_at_once(aws: Aws) -> None:
    machine = a_machine(aws)
    aws.refuse("CreateSnapshot", "SnapshotLimitExceeded")
    with pytest.raises(CloudError):
        take(aws, machine)
    assert aws.slept == []


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
    aws.alter("DescribeSnapshots", hide, times=5)  # EC2 does not list it yet
    with pytest.raises((KeyboardInterrupt, CloudError)):
        take(aws, machine)
    assert "CreateSnapshot" in aws.sent
    assert aws.remains() == set()
    assert aws.cloud.leftovers == []


def test_a_lost_snapshot_is_deleted_even_if_the_retry_is_refused(aws: Aws) -> None:
    machine = a_machine(aws)

    def lose_it(_: dict[str, Any]) -> None:
        aws.refuse("CreateSnapshot", "SnapshotLimitExceeded")
        raise TIMEOUT

    aws.alter("CreateSnapshot", lose_it, times=1)
    aws.alter("DescribeSnapshots", hide, times=1)
    with pytest.raises(CloudError) as caught:
        take(aws, machine)
    assert caught.value.code == "SnapshotLimitExceeded"
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


# Removing them --------------------------------------------------------------------------------


def age(aws: Aws, checkpoint: Checkpoint, time: timedelta) -> None:
    ec2_backends[ACCOUNT][REGION].snapshots[checkpoint.snapshot_id].start_time -= time


def some(aws: Aws, count: int, **more: Any) -> list[Checkpoint]:
    """Return checkpoints, the newest first."""
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
    aws.refuse("DeleteSnapshot", "UnauthorizedOperation", times=6)
    assert ids(prune(aws.cloud, "mxnet-cu101", keep=0, now=NOW)) == ids(made[1:])
    [leftover] = aws.cloud.leftovers
    assert leftover.command == (
        f"aws ec2 delete-snapshot --region us-east-1 --snapshot-id {made[0].snapshot_id}"
    )
