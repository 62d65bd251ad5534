"""Reaping: orphaned resources are found by their tags and removed, and nothing else is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from moto.ec2.models import ec2_backends

from bake.aws import lease_holder, parameter
from bake.aws.checkpoint import create_checkpoint
from bake.aws.client.session import connect
from bake.aws.image_creation import create_image
from bake.aws.key_pair import import_key_pair
from bake.aws.launch import run_machine
from bake.aws.machine import Machine
from bake.aws.orphans import KINDS, Candidate, Orphan
from bake.aws.reap import find_orphans, judge, remove_orphans
from bake.aws.run_state import SILENT, RunState
from bake.aws.security_group import create_security_group
from bake.aws.tags import Run, new_run, specifications, start_time
from bake.errors import CloudError
from tests.support.aws_in_process import ACCOUNT, REGION, Aws, _session, public_key
from tests.support.cloud_clock import put_wrong
from tests.support.runs import DAY, DIGEST, a_builder, a_run, an_account, ended, later, lease

ELSEWHERE = "another-computer pid:[1] 1 1"


@pytest.fixture
def aws() -> Iterator[Aws]:
    with an_account() as aws:
        yield aws


def backend() -> Any:
    return ec2_backends[ACCOUNT][REGION]


def an_image(aws: Aws, run: Run, machine: Machine, name: str = "one") -> str:
    digest = hashlib.sha256(name.encode()).hexdigest()
    tags = run.finished(
        name=name, digest=digest, stages={"base": "b" * 64}, verified="cpu", payload="stand-in"
    )
    image = create_image(aws.cloud, machine, name=name, description="", tags=tags)
    return image.image_id


def a_checkpoint(aws: Aws, run: Run, machine: Machine, ends_in: timedelta = 30 * DAY) -> str:
    return create_checkpoint(
        aws.cloud,
        run,
        machine,
        stages={"base": "b" * 64},
        seconds={},
        expires_at=aws.cloud.now() + ends_in,
    ).snapshot_id


def registered(aws: Aws, run: Run, snapshot_id: str) -> str:
    """Register a temporary image of a checkpoint."""
    return str(
        aws.cloud.ec2(
            "RegisterImage",
            Name=f"bake-{run.id}/{snapshot_id}",
            BlockDeviceMappings=[{"DeviceName": "/dev/sda1", "Ebs": {"SnapshotId": snapshot_id}}],
            TagSpecifications=specifications(run.temporary(), "image"),
        )["ImageId"]
    )


def everything(aws: Aws, run: Run) -> None:
    """Create every kind of resource that a run can leave behind."""
    machine = a_builder(aws, run)
    aws.cloud.ec2(
        "CreateVolume",
        AvailabilityZone=REGION + "a",
        Size=8,
        TagSpecifications=specifications(run.temporary(), "volume"),
    )
    registered(aws, run, a_checkpoint(aws, run, machine))
    failed = an_image(aws, run, machine, "failed")
    backend().amis[failed].state = "failed"
    # As if the run was killed between the two calls that remove an image.
    aws.cloud.ec2("DeregisterImage", ImageId=an_image(aws, run, machine, "orphan"))
    before = aws.remains()
    launch = {"ImageId": aws.image_ids()[0], "InstanceType": "g4dn.xlarge"}
    asked = aws.cloud.ec2(
        "RequestSpotInstances",
        LaunchSpecification=launch,
        TagSpecifications=specifications(run.temporary(), "spot-instances-request"),
    )["SpotInstanceRequests"][0]["SpotInstanceRequestId"]
    request = backend().spot_instance_requests[asked]
    request.state = "open"
    request.instance.terminate()
    aws.at_first |= (
        aws.remains() - before
    )  # moto starts the machine at once, EC2 when it has capacity


def left(aws: Aws) -> set[str]:
    names = {one.name for one in parameter.list_below(aws.cloud, "/bake", recursive=True)}
    return aws.remains() | names | set(backend().spot_instance_requests)


def kinds(orphans: list[Orphan]) -> list[str]:
    return [each.kind for each in orphans]


# All kinds of resources -----------------------------------------------------------------------


def test_all_resources_of_a_killed_run_are_found_and_removed(aws: Aws) -> None:
    run = a_run(aws)
    lease(aws, run, ended())
    everything(aws, run)
    later(aws, minutes=2)
    orphans = find_orphans(aws.cloud)
    assert kinds(orphans) == [
        "spot request",
        *["image"] * 2,
        "machine",
        "volume",
        "security group",
        "key pair",
        "snapshot",
        "lease",
    ]
    assert {(each.run, each.recipe, each.region) for each in orphans} == {
        (run.id, "mxnet-cu101", REGION)
    }
    assert all(each.why and each.made_at for each in orphans)
    assert [removal.leftover for removal in remove_orphans(aws.cloud, orphans)] == [None] * len(
        orphans
    )
    kept = {each for each in left(aws) if each.startswith("snap-")}
    assert left(aws) == kept
    assert len(kept) == 1, "its checkpoint, from which the next one starts"
    assert find_orphans(aws.cloud) == []
    assert aws.cloud.leftovers == []


def test_machines_are_terminated_before_their_resources_are_removed(aws: Aws) -> None:
    run = a_run(aws)
    lease(aws, run, ended())
    everything(aws, run)
    later(aws, minutes=2)
    orphans = find_orphans(aws.cloud)
    before = len(aws.calls)
    remove_orphans(aws.cloud, orphans)
    order = [name for name, _ in aws.calls[before:] if not name.startswith("Describe")]
    assert order[0] == "CancelSpotInstanceRequests"
    assert sorted(order[1:4]) == ["DeleteSnapshot", "DeregisterImage", "DeregisterImage"]
    assert order[4:] == [
        "TerminateInstances",
        "DeleteVolume",
        "DeleteSecurityGroup",
        "DeleteKeyPair",
        "DeleteSnapshot",
        "DeleteParameter",
    ]


# Dead runs ------------------------------------------------------------------------------------


def test_a_run_whose_process_has_ended_is_dead(aws: Aws) -> None:
    run = a_run(aws)
    lease(aws, run, ended())
    a_builder(aws, run)
    [machine, *_] = find_orphans(aws.cloud)
    assert machine.why == "its run is dead: its process on this computer has ended"


def test_a_run_that_has_not_renewed_its_lease_is_dead(aws: Aws) -> None:
    run = a_run(aws)
    lease(aws, run, ELSEWHERE)
    a_builder(aws, run)
    later(aws, seconds=SILENT.total_seconds() - 5)
    assert find_orphans(aws.cloud) == []
    later(aws, seconds=SILENT.total_seconds() + 5)
    orphans = find_orphans(aws.cloud)
    assert kinds(orphans) == ["machine", "security group", "key pair", "lease"]
    reason = "its run is dead: it has not renewed its lease for 4 min"
    assert orphans[0].why == reason


def test_a_run_from_which_another_has_taken_over_is_dead(aws: Aws) -> None:
    first, second = a_run(aws), a_run(aws)
    taken = lease(aws, first, ELSEWHERE)
    a_builder(aws, first)
    note = replace(taken._holder, run=second.id, token="another").encode(0)
    parameter.create(aws.cloud, f"{taken.path}/2", note, second.temporary())
    a_builder(aws, second)
    orphans = find_orphans(aws.cloud)
    assert {each.run for each in orphans} == {first.id}
    assert orphans[0].why == f"its run is dead: run {second.id} has taken over"


def test_a_run_that_takes_over_knows_that_the_other_is_dead(aws: Aws) -> None:
    first, second = a_run(aws), a_run(aws)
    lease(aws, first, ended())
    a_builder(aws, first)
    ours = lease(aws, second, lease_holder._this_process())
    assert ours.dead == {first.id}
    a_builder(aws, second)
    assert find_orphans(aws.cloud) == []
    orphans = find_orphans(aws.cloud, recipe="mxnet-cu101", dead=ours.dead, leases=False)
    assert {each.run for each in orphans} == {first.id}
    assert [removal.leftover for removal in remove_orphans(aws.cloud, orphans)] == [None] * 3
    ours.check()


def test_resources_of_a_run_without_a_lease_stay_until_they_expire(aws: Aws) -> None:
    """For example a builder that was kept for debugging."""
    run = a_run(aws, ends_in=timedelta(hours=4))
    a_builder(aws, run)
    later(aws, hours=3, minutes=59)
    assert find_orphans(aws.cloud) == []
    later(aws, hours=4, minutes=1)
    orphans = find_orphans(aws.cloud)
    assert kinds(orphans) == ["machine", "security group", "key pair"]
    assert orphans[0].why.startswith("it expired on ")


def test_the_group_of_a_kept_builder_is_removed_after_its_power_off(aws: Aws) -> None:
    run = a_run(aws, ends_in=timedelta(hours=4))
    aws.cloud.ec2("TerminateInstances", InstanceIds=[a_builder(aws, run).instance_id])
    aws.cloud.ec2("DeleteKeyPair", KeyName=f"bake-{run.id}")
    later(aws, hours=5)
    orphans = find_orphans(aws.cloud)
    assert kinds(orphans) == ["security group"]
    remove_orphans(aws.cloud, orphans)
    assert {each for each in aws.remains() if not each.startswith(("vol-", "eni-"))} == set()


@pytest.mark.parametrize("wrong", [timedelta(hours=2), timedelta(hours=-2)])
def test_a_local_clock_that_is_two_hours_wrong_changes_nothing(aws: Aws, wrong: timedelta) -> None:
    """All expiry times are in AWS's time, so nothing has expired, and no run is dead."""
    session = _session(REGION)
    put_wrong(session)(wrong)
    aws.cloud = connect(session=session)
    aws.listen(session)
    theirs, ours = a_run(aws, ends_in=timedelta(hours=1)), a_run(aws, ends_in=timedelta(hours=1))
    a_builder(aws, theirs)
    lease(aws, theirs, ELSEWHERE)
    aws.alter("GetParametersByPath", partial(shift_renewal, by=wrong))  # in AWS's time
    a_checkpoint(aws, ours, a_builder(aws, ours), timedelta(hours=1))
    assert find_orphans(aws.cloud) == []


def shift_renewal(answer: dict[str, Any], by: timedelta) -> None:
    for one in answer["Parameters"]:
        one["LastModifiedDate"] += by


# What is never removed --------------------------------------------------------------------------


def test_resources_of_a_live_run_stay_even_if_they_have_expired(aws: Aws) -> None:
    run = a_run(aws, ends_in=timedelta(minutes=1))
    everything(aws, run)
    later(aws, minutes=2)
    lease(aws, run, lease_holder._this_process())
    aws.alter("GetParametersByPath", partial(shift_renewal, by=timedelta(minutes=2)))
    assert find_orphans(aws.cloud) == []


def test_resources_without_an_expiry_time_stay(aws: Aws) -> None:
    """These stay: a launched machine with its key and group, a finished image with its snapshot, a
    pending image, resources that bake has not created, and unreadable leases."""
    run, other = new_run("mxnet-cu101"), a_run(aws)
    tags = run.lasting("notebook")
    import_key_pair(aws.cloud, "mine", public_key(), tags)
    where = aws.placement()
    group = create_security_group(aws.cloud, run, tags, vpc_id=where.vpc_id, cidr="192.0.2.1/32")
    machine = run_machine(aws.cloud, run, aws.order("mine", group, tags=tags, stays=True), [where])
    lease(aws, other, ended())
    an_image(aws, other, machine, "finished")
    pending = an_image(aws, other, machine, "pending")
    backend().amis[pending].state = "pending"
    disabled = an_image(aws, a_run(aws), machine, "disabled")
    backend().amis[disabled].state = "disabled"
    aws.cloud.ec2("CreateSecurityGroup", GroupName="theirs", Description="theirs")
    aws.cloud.ec2("CreateVolume", AvailabilityZone=REGION + "a", Size=8)
    aws.cloud.ec2("CreateSnapshot", VolumeId=machine.root_volume_id)
    # A backup of the machine's disk, with a copy of its tags.
    copied = specifications(tags, "snapshot")
    aws.cloud.ec2("CreateSnapshot", VolumeId=machine.root_volume_id, TagSpecifications=copied)
    note = lease_holder.this_process(other, aws.cloud.now()).encode(0).replace(other.id, "")
    parameter.create(aws.cloud, "/bake/lease/by-hand/1", note, {})
    later(aws, days=3650)
    assert kinds(find_orphans(aws.cloud)) == ["lease"], "the dead run's own"


def test_a_backup_or_a_copy_of_what_a_builder_had_stays(aws: Aws) -> None:
    """A lifecycle policy copies a builder's tags to its snapshots and images, with their expiry."""
    run = a_run(aws)
    lease(aws, run, ended())
    machine = a_builder(aws, run)
    copied = partial(specifications, run.temporary())
    volume = {"VolumeId": machine.root_volume_id}
    backup = aws.cloud.ec2("CreateSnapshot", TagSpecifications=copied("snapshot"), **volume)
    image = aws.cloud.ec2(
        "RegisterImage",
        Name="policy-0123 of a machine",
        BlockDeviceMappings=[
            {"DeviceName": "/dev/sda1", "Ebs": {"SnapshotId": backup["SnapshotId"]}}
        ],
        TagSpecifications=copied("image"),
    )
    checkpoint = a_checkpoint(aws, run, machine, timedelta(hours=1))
    tags = backend().snapshots[checkpoint].get_tags()
    copy = aws.cloud.ec2(
        "CopySnapshot",
        SourceSnapshotId=checkpoint,
        SourceRegion=REGION,
        TagSpecifications=[
            {
                "ResourceType": "snapshot",
                "Tags": [{"Key": tag["key"], "Value": tag["value"]} for tag in tags],
            }
        ],
    )["SnapshotId"]

    def as_at_ec2(answer: dict[str, Any]) -> None:
        for one in answer["Snapshots"]:
            if one["SnapshotId"] == copy:
                one["VolumeId"] = "vol-ffffffff"

    aws.alter("DescribeSnapshots", as_at_ec2)
    later(aws, days=3650)
    remove_orphans(aws.cloud, find_orphans(aws.cloud))
    assert {backup["SnapshotId"], image["ImageId"], copy} <= aws.remains()
    assert checkpoint not in aws.remains()


def test_a_checkpoint_of_a_dead_run_stays_until_it_expires(aws: Aws) -> None:
    run = a_run(aws)
    lease(aws, run, ended())
    machine = a_builder(aws, run)
    soon = a_checkpoint(aws, run, machine, timedelta(hours=1))
    a_checkpoint(aws, run, machine)
    broken = a_checkpoint(aws, run, machine)
    backend().snapshots[broken].status = "error"
    orphans = find_orphans(aws.cloud)
    assert [each.id for each in orphans if each.kind == "checkpoint"] == [broken]
    remove_orphans(aws.cloud, orphans)
    later(aws, hours=2)
    assert find_orphans(aws.cloud, recipe="another") == []
    assert [each.id for each in find_orphans(aws.cloud)] == [soon]


def test_a_checkpoint_from_which_a_live_run_starts_stays(aws: Aws) -> None:
    run = a_run(aws)
    machine = a_builder(aws, run)
    lease(aws, run, lease_holder._this_process())
    old = a_run(aws)
    registered(aws, run, a_checkpoint(aws, old, machine, timedelta(minutes=1)))
    later(aws, minutes=2)
    aws.alter("GetParametersByPath", partial(shift_renewal, by=timedelta(minutes=2)))
    assert find_orphans(aws.cloud) == []


def test_a_snapshot_without_an_image_stays_for_a_day(
    aws: Aws,
) -> None:
    run = a_run(aws)
    machine = a_builder(aws, run)
    image_id = an_image(aws, run, machine)
    aws.cloud.ec2("DeregisterImage", ImageId=image_id)
    lease(aws, run, ended())
    assert "snapshot" not in kinds(find_orphans(aws.cloud)), (
        "its image may not be known everywhere yet"
    )
    later(aws, minutes=2)
    assert "snapshot" in kinds(find_orphans(aws.cloud))
    aws.cloud.ssm("DeleteParameter", Name=f"/bake/lease/{DIGEST}/1")
    later(aws, hours=23)
    assert find_orphans(aws.cloud) == []
    later(aws, hours=25)
    [snapshot] = [each for each in find_orphans(aws.cloud) if each.kind == "snapshot"]
    assert snapshot.why == "no image uses it"


# One recipe -------------------------------------------------------------------------------------


def test_with_a_recipe_only_its_resources_are_found(aws: Aws) -> None:
    mine, other = a_run(aws), a_run(aws, "pytorch-cu126")
    for run in (mine, other):
        lease(aws, run, ended(), digest=run.id)
        a_builder(aws, run)
    orphans = find_orphans(aws.cloud, recipe="pytorch-cu126")
    assert {each.run for each in orphans} == {other.id}
    assert len(orphans) == 4


def test_finding_nothing_takes_one_call_for_each_kind(aws: Aws) -> None:
    run = a_run(aws, "pytorch-cu126")
    a_builder(aws, run)
    a_checkpoint(aws, a_run(aws), a_builder(aws, a_run(aws, "another")))
    before = len(aws.calls)
    assert find_orphans(aws.cloud, recipe="mxnet-cu101", leases=False) == []
    assert sorted(name for name, _ in aws.calls[before:]) == [
        "DescribeImages",
        "DescribeInstances",
        "DescribeKeyPairs",
        "DescribeSecurityGroups",
        "DescribeSnapshots",
        "DescribeSpotInstanceRequests",
        "DescribeVolumes",
    ]


# Errors --------------------------------------------------------------------------------


def test_a_resource_that_aws_does_not_remove_is_reported_and_the_rest_removed(aws: Aws) -> None:
    run = a_run(aws)
    lease(aws, run, ended())
    machine = a_builder(aws, run)
    aws.refuse("TerminateInstances", "OperationNotPermitted", "It is protected.")
    aws.refuse("DeleteVolume", "UnauthorizedOperation", "You may not.")
    removals = remove_orphans(aws.cloud, find_orphans(aws.cloud))
    refused = {removal.orphan.kind: removal.leftover for removal in removals if removal.leftover}
    protected = refused.pop("machine")
    assert protected
    assert (protected.resource, protected.reason, protected.command) == (
        f"machine {machine.instance_id}",
        "OperationNotPermitted: It is protected.",
        f"aws ec2 terminate-instances --region {REGION} --instance-ids {machine.instance_id}",
    )
    # The group is in use as long as the machine exists.
    assert set(refused) <= {"security group"}
    assert f"bake-{run.id}" not in backend().key_pairs
    # The next reap finds the same orphans.
    aws.faults.clear()
    again = find_orphans(aws.cloud)
    assert kinds(again)[-1] == "lease"
    remove_orphans(aws.cloud, again)
    assert find_orphans(aws.cloud) == []


def test_every_command_is_valid_for_the_aws_cli() -> None:
    from awscli.clidriver import create_clidriver

    commands = create_clidriver()._get_command_table()
    for kind in KINDS:
        one = Orphan(REGION, kind, "x-1", "r", "mxnet", None, snapshot_ids=("snap-1",))
        if kind != "image":
            one = replace(one, snapshot_ids=())
        words = one.command.split()
        table = commands[words[1]]._get_command_table()
        arguments = table[words[2]].arg_table
        for word in words[3:]:
            if word.startswith("--") and word != "--region":
                assert word[2:] in arguments, one.command


def test_a_resource_that_another_reap_has_removed_counts_as_removed(aws: Aws) -> None:
    run = a_run(aws)
    lease(aws, run, ended())
    everything(aws, run)
    later(aws, minutes=2)
    orphans = find_orphans(aws.cloud)
    for number in range(2):
        if number:
            aws.refuse("CancelSpotInstanceRequests", "InvalidSpotInstanceRequestID.NotFound")
            aws.forget_instances()
        removals = remove_orphans(aws.cloud, orphans)
        assert [removal.leftover for removal in removals] == [None] * len(orphans)
    assert aws.slept == []


def test_an_error_while_listing_removes_nothing(aws: Aws) -> None:
    run = a_run(aws)
    lease(aws, run, ended())
    a_builder(aws, run)
    aws.refuse("GetParametersByPath", "AccessDeniedException")
    with pytest.raises(CloudError) as caught:
        find_orphans(aws.cloud)
    assert "ssm:GetParametersByPath" in caught.value.hint


# The decision alone ----------------------------------------------------------------------------

NOW = datetime(2026, 11, 21, 6, 30, tzinfo=UTC)
RUNS = ["one", "two", "three"]


@st.composite
def candidates(draw: st.DrawFn) -> Candidate:
    kind = draw(st.sampled_from(KINDS[:-1]))
    hours = draw(st.none() | st.integers(-3, 3))
    return Candidate(
        Orphan(REGION, kind, draw(st.uuids()).hex, draw(st.sampled_from(RUNS)), "r", NOW),
        None if hours is None else NOW + timedelta(hours=hours),
        broken=draw(st.sampled_from(["", "it failed"])),
        of_run=draw(st.booleans()),
    )


RUN_STATES = st.lists(
    st.builds(
        RunState,
        lease=st.uuids().map(str),
        run=st.sampled_from(RUNS),
        recipe=st.just("r"),
        renewed_at=st.just(NOW),
        dead=st.sampled_from(["", "its process on this computer has ended"]),
    )
)


@given(st.lists(candidates()), RUN_STATES)
def test_what_is_removed_has_a_reason_and_is_of_no_live_run(
    found: list[Candidate], runs: list[RunState]
) -> None:
    alive = {run.run for run in runs if not run.dead}
    dead = {run.run for run in runs if run.dead}
    by_id = {one.orphan.id: one for one in found}
    going = {each.id: each for each in judge(found, runs, frozenset(), NOW)}
    for each in going.values():
        one = by_id[each.id]
        assert each.run not in alive
        assert each.why
        expired = one.expires_at is not None and one.expires_at <= NOW
        assert one.broken or expired or (one.of_run and each.run in dead)
    for one in found:
        if one.orphan.run not in alive and (one.broken or one.has_expired(NOW)):
            assert one.orphan.id in going


@pytest.mark.parametrize("run_id", ["", "mine", "20261301-000000-abcdef", "20261121-063000"])
def test_an_invalid_run_id_has_no_start_time(run_id: str) -> None:
    assert start_time(run_id) is None
    assert start_time(new_run("r", now=NOW).id) == NOW
