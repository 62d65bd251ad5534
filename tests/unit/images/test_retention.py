"""The images that can be removed: old, unused ones, but never a recipe's last good one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bake.aws.image import Image, images
from bake.aws.image_creation import create_image
from bake.aws.launch import run_machine
from bake.aws.machine import Machine
from bake.aws.security_group import create_security_group
from bake.aws.tags import new_run, specifications
from bake.errors import CloudError, RequestError
from bake.images import retention
from bake.images.retention import (
    Verdict,
    judge,
    kept_as_current,
    kept_by_age,
    kept_by_itself,
    remove,
)
from tests.support.aws_in_process import REGION, Aws, aws_in_process

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
NUMBERS = itertools.count()


@pytest.fixture
def aws() -> Iterator[Aws]:
    with aws_in_process() as aws:
        yield aws


def described(
    days: float,
    *,
    recipe: str = "mxnet-cu101",
    verified: str = "gpu",
    payload: str = "upstream",
    **more: Any,
) -> Image:
    """Return an image of this age, as EC2 describes it."""
    number = next(NUMBERS)
    tags = {"bake:recipe": recipe, "bake:verified": verified, "bake:payload": payload}
    fields: dict[str, Any] = {
        "image_id": f"ami-{number:08x}",
        "name": f"bake/{number}",
        "state": "available",
        "architecture": "x86_64",
        "root_device_name": "/dev/sda1",
        "boot_mode": None,
        "ena": True,
        "size_gb": 64,
        "snapshot_ids": (f"snap-{number:08x}",),
        "created_at": NOW - timedelta(days=days),
        "reason_code": "",
        "reason": "",
        "tags": {"bake:run": f"r{number}", **tags},
        **more,
    }
    return Image(**fields)


def kept(found: list[Image], **more: Any) -> list[float]:
    """Return the ages, in days, of the images that are kept by their age."""
    why = kept_by_age(found, **{"keep": 3, "older_than": None, "now": NOW, **more})
    return sorted((NOW - i.created_at) / timedelta(days=1) for i in found if i.image_id in why)


# By age ------------------------------------------------------------------------------------------


def test_the_newest_verified_ones_of_each_recipe_are_kept() -> None:
    ours = [described(days) for days in (1, 2, 3, 4, 5)]
    others = [described(days, recipe="pytorch-cu126") for days in (100, 200)]
    assert kept([*ours, *others]) == [1, 2, 3, 100, 200]
    assert kept([*ours, *others], keep=1) == [1, 100]


def test_an_image_on_which_nothing_was_proved_does_not_count_among_the_newest() -> None:
    assert kept([described(1, verified="no"), described(5), described(9)], keep=1) == [5]


def test_the_newest_is_kept_where_a_recipe_has_nothing_verified() -> None:
    assert kept([described(1, verified="no"), described(5, verified="no")], keep=1) == [1]


def test_one_of_stand_ins_or_of_a_cpu_takes_no_real_ones_place() -> None:
    found = [described(1, payload="stand-in"), described(2, verified="cpu"), described(9)]
    assert kept([*found, described(10)], keep=1) == [1, 2, 9]


def test_what_a_bake_would_reuse_is_kept_beside_the_newest() -> None:
    """A script was changed, baked, and changed back: the older image matches the recipe again."""
    reverted, matching, older = (described(days) for days in (1, 5, 9))
    found = [reverted, matching, older]
    current = {matching.image_id, older.image_id}
    why = kept_as_current(found, lambda image: image.image_id in current)
    assert why == {matching.image_id: "what the recipe makes now"}
    assert kept(found, keep=1) == [1]
    unverified = described(0, verified="no")
    assert kept_as_current([unverified, *found], lambda image: image is unverified) == {
        unverified.image_id: "what the recipe makes now"
    }


def test_what_is_not_that_old_is_kept() -> None:
    found = [described(days) for days in (1, 10, 29, 31)]
    assert kept(found, keep=1, older_than=timedelta(days=30)) == [1, 10, 29]


@given(
    st.lists(
        st.tuples(
            st.floats(0, 400),
            st.sampled_from(["a", "b"]),
            st.sampled_from(["gpu", "cpu", "no", "by hand"]),
            st.sampled_from(["upstream", "stand-in", ""]),
        ),
        max_size=20,
    ),
    st.integers(1, 4),
    st.none() | st.integers(0, 100),
)
def test_no_recipe_ever_loses_its_newest_proof(
    shapes: list[tuple[float, str, str, str]], keep: int, days: int | None
) -> None:
    found = [described(age, recipe=r, verified=v, payload=p) for age, r, v, p in shapes]
    age = None if days is None else timedelta(days=days)
    why = kept_by_age(found, keep=keep, older_than=age, now=NOW)
    stay = [image for image in found if image.image_id in why]
    for image in found:
        same = (image.recipe, image.payload)
        if image.verified in ("gpu", "cpu"):
            newest = [i for i in stay if (i.recipe, i.payload) == same]
            newest = [i for i in newest if i.verified == image.verified]
            assert max(i.created_at for i in newest) >= image.created_at
        else:
            assert any((i.recipe, i.payload) == same for i in stay)


# By what EC2 describes ---------------------------------------------------------------------------


def test_what_is_protected_public_or_launched_lately_is_kept() -> None:
    lately = {"launched_at": NOW - timedelta(days=3)}
    found = [
        described(50, protected=True),
        described(50, public=True),
        described(50, **lately),
        described(50, launched_at=NOW - timedelta(days=40)),
        described(50),
    ]
    why = kept_by_itself(found, lately=timedelta(days=30), now=NOW)
    assert [why.get(image.image_id, "") for image in found] == [
        "protected from deregistration",
        "public",
        "launched 3 d ago",
        "",
        "",
    ]


# On EC2 ------------------------------------------------------------------------------------------


@pytest.fixture
def four(aws: Aws) -> list[Image]:
    """Four images of one recipe, the newest first; their machine has terminated."""
    placement = aws.placement()
    group_id = create_security_group(
        aws.cloud, aws.run, aws.run.temporary(), vpc_id=placement.vpc_id, cidr="203.0.113.7/32"
    )
    machine = run_machine(aws.cloud, aws.run, aws.order("k", group_id), [placement])
    made = [an_image(aws, machine, f"image-{number}") for number in range(4)]
    aws.cloud.ec2("TerminateInstances", InstanceIds=[machine.instance_id])
    set_ages(aws, {image.image_id: (3 - number) * 20 for number, image in enumerate(made)})
    return made[::-1]


def an_image(aws: Aws, machine: Machine, name: str) -> Image:
    tags = new_run("mxnet-cu101").finished(
        name=name, digest=name * 4, stages={"base": "b"}, verified="gpu", payload="upstream"
    )
    return create_image(aws.cloud, machine, name=name, description="d", tags=tags)


def set_ages(aws: Aws, days: dict[str, int]) -> None:
    def act(answer: dict[str, Any]) -> None:
        for found in answer["Images"]:
            if found["ImageId"] in days:
                made = NOW - timedelta(days=days[found["ImageId"]])
                found["CreationDate"] = made.strftime("%Y-%m-%dT%H:%M:%S.000Z")

    aws.alter("DescribeImages", act)


def judged(aws: Aws, **more: Any) -> dict[str, str]:
    found = judge(aws.cloud, "mxnet-cu101", **{"keep": 1, "now": NOW, **more})
    return {verdict.image.image_id: verdict.why for verdict in found}


def test_what_nothing_uses_may_go_and_nothing_is_changed_by_looking(
    aws: Aws, four: list[Image]
) -> None:
    sent = len(aws.sent)
    assert list(judged(aws).values()) == ["the newest", "", "", ""]
    assert {call for call in aws.sent[sent:] if not call.startswith("Describe")} == set()


@pytest.mark.parametrize("state", ["running", "stopped"])
def test_an_image_that_a_machine_was_started_from_is_kept_whoever_started_it(
    aws: Aws, four: list[Image], state: str
) -> None:
    old = four[2].image_id
    answer = aws.cloud.ec2(
        "RunInstances", ImageId=old, MinCount=1, MaxCount=1, InstanceType="g4dn.xlarge"
    )
    instance_id = answer["Instances"][0]["InstanceId"]
    if state == "stopped":
        aws.cloud.ec2("StopInstances", InstanceIds=[instance_id])
    assert judged(aws)[old] == f"{instance_id} uses it"
    aws.cloud.ec2("TerminateInstances", InstanceIds=[instance_id])
    assert judged(aws)[old] == ""


def test_an_image_that_a_launch_template_names_is_kept(aws: Aws, four: list[Image]) -> None:
    old, older = four[2].image_id, four[3].image_id
    first = {"LaunchTemplateName": "workers", "LaunchTemplateData": {"ImageId": old}}
    aws.cloud.ec2("CreateLaunchTemplate", **first)
    again = {"LaunchTemplateName": "workers", "LaunchTemplateData": {"ImageId": older}}
    aws.cloud.ec2("CreateLaunchTemplateVersion", **again)
    why = judged(aws)
    assert why[old] == "the launch template workers (version 1) uses it"
    assert why[older] == "the launch template workers (version 2) uses it"
    assert why[four[1].image_id] == ""


def test_an_image_of_an_old_version_of_a_launch_template_is_kept(
    aws: Aws, four: list[Image]
) -> None:
    """An Auto Scaling group may use any version, but EC2's own answer is about the last ten."""
    template = {"LaunchTemplateName": "workers"}
    for number, image in enumerate([four[3], *[four[0]] * 12]):
        call = "CreateLaunchTemplateVersion" if number else "CreateLaunchTemplate"
        aws.cloud.ec2(call, LaunchTemplateData={"ImageId": image.image_id}, **template)
    [default] = aws.cloud.ec2("DescribeLaunchTemplates")["LaunchTemplates"]
    aws.cloud.ec2("ModifyLaunchTemplate", DefaultVersion="12", **template)
    assert default["LatestVersionNumber"] == 13
    assert judged(aws)[four[3].image_id] == "the launch template workers (version 1) uses it"


def test_an_image_that_an_ssm_parameter_names_is_kept(aws: Aws, four: list[Image]) -> None:
    parameter = {"Name": "/team/image", "Value": four[3].image_id, "Type": "String"}
    aws.cloud.ssm("PutParameter", **parameter)
    assert judged(aws)[four[3].image_id] == "the SSM parameter team/image uses it"
    assert judged(aws)[four[2].image_id] == ""


def test_a_resource_of_a_type_that_bake_does_not_know_keeps_an_image(
    aws: Aws, four: list[Image]
) -> None:
    used = {"ImageId": four[3].image_id, "ResourceType": "new:Thing"}
    used["Arn"] = "arn:aws:new:us-east-1:123456789012:thing/one"
    aws.alter("DescribeImageReferences", lambda answer: answer["ImageReferences"].append(used))
    assert judged(aws)[four[3].image_id] == "the resource (new:Thing) one uses it"


def test_a_region_without_the_question_is_reported_and_the_other_users_are_found(
    aws: Aws, four: list[Image]
) -> None:
    template = {"LaunchTemplateName": "w", "LaunchTemplateData": {"ImageId": four[3].image_id}}
    aws.cloud.ec2("CreateLaunchTemplate", **template)
    aws.refuse("DescribeImageReferences", "InvalidAction")
    warnings: list[str] = []
    why = judged(aws, on_warning=warnings.append)
    assert why[four[3].image_id] == "the launch template w (version 1) uses it"
    assert why[four[2].image_id] == ""
    assert ["SSM parameters and Image Builder recipes" in text for text in warnings] == [True]


def test_an_image_that_is_shared_is_kept(aws: Aws, four: list[Image]) -> None:
    old = four[3].image_id
    permission = {"Add": [{"UserId": "210987654321"}]}
    aws.cloud.ec2("ModifyImageAttribute", ImageId=old, LaunchPermission=permission)
    assert judged(aws)[old] == "shared with others"


def test_an_image_whose_snapshot_another_one_has_is_kept(aws: Aws, four: list[Image]) -> None:
    old = four[3]

    def also(answer: dict[str, Any]) -> None:
        for found in list(answer["Images"]):
            if found["ImageId"] == old.image_id:
                answer["Images"].append({**found, "ImageId": "ami-0f00d", "Tags": []})

    aws.alter("DescribeImages", also)
    assert judged(aws)[old.image_id] == "ami-0f00d has its snapshot"


def test_what_cannot_be_asked_keeps_everything(aws: Aws, four: list[Image]) -> None:
    for operation in (
        "DescribeInstances",
        "DescribeImageReferences",
        "DescribeLaunchTemplates",
        "DescribeImageAttribute",
    ):
        aws.faults = [fault for fault in aws.faults if fault.operation == "DescribeImages"]
        aws.refuse(operation, "UnauthorizedOperation")
        with pytest.raises(CloudError) as caught:
            judged(aws)
        assert f"ec2:{operation}" in caught.value.hint


def test_one_that_may_go_goes_with_its_snapshot(aws: Aws, four: list[Image]) -> None:
    verdicts = judge(aws.cloud, "mxnet-cu101", keep=2, now=NOW)
    removals = remove(aws.cloud, verdicts)
    assert [removal.image.image_id for removal in removals] == [i.image_id for i in four[2:]]
    assert not any(removal.error for removal in removals)
    assert [image.image_id for image in images(aws.cloud)] == [i.image_id for i in four[:2]]
    there = aws.cloud.ec2("DescribeSnapshots", OwnerIds=["self"])["Snapshots"]
    ours = {snapshot["SnapshotId"] for snapshot in there if snapshot.get("Tags")}
    assert ours == {snapshot for image in four[:2] for snapshot in image.snapshot_ids}


def test_two_that_prune_at_once_do_not_err(aws: Aws, four: list[Image]) -> None:
    mine = judge(aws.cloud, keep=1, now=NOW)
    others = judge(aws.elsewhere(REGION), keep=1, now=NOW)
    assert [each.error for each in remove(aws.cloud, mine)] == [None] * 3
    assert [each.error for each in remove(aws.cloud, others)] == [None] * 3


def test_a_refusal_keeps_one_and_the_others_go(aws: Aws, four: list[Image]) -> None:
    aws.refuse("DeregisterImage", "OperationNotPermitted", times=1)
    removals = remove(aws.cloud, judge(aws.cloud, keep=1, now=NOW))
    assert [bool(removal.error) for removal in removals] == [True, False, False]
    assert removals[0].error
    assert "OperationNotPermitted" in str(removals[0].error.details)
    assert {four[0].image_id, four[1].image_id} == {i.image_id for i in images(aws.cloud)}


def test_snapshots_that_only_carry_the_same_tags_are_left(aws: Aws, four: list[Image]) -> None:
    """A user's copy of an image has the same tags, and so has its snapshot."""
    old = four[3]
    volume = aws.cloud.ec2("CreateVolume", Size=1, AvailabilityZone=f"{REGION}a")["VolumeId"]
    tags = [{"Key": key, "Value": value} for key, value in old.tags.items()]
    same = {"ResourceType": "snapshot", "Tags": tags}
    theirs = aws.cloud.ec2("CreateSnapshot", VolumeId=volume, TagSpecifications=[same])
    remove(aws.cloud, [Verdict(old)])
    there = aws.cloud.ec2("DescribeSnapshots", OwnerIds=["self"])["Snapshots"]
    ids = {snapshot["SnapshotId"] for snapshot in there}
    assert theirs["SnapshotId"] in ids
    assert not ids & set(old.snapshot_ids)


# Images that bake did not make --------------------------------------------------------------------


def test_an_image_of_a_launched_machine_is_never_removed(aws: Aws, four: list[Image]) -> None:
    """AWS Backup, a lifecycle policy or a person makes it; the machine's tags are copied to it."""
    tags = {**new_run("mxnet-cu101").lasting("notebook"), "bake:ttl": "12h"}
    backups = [copied_image(aws, four[0], f"backup-{number}", tags) for number in range(3)]
    set_ages(aws, dict.fromkeys(backups, 100))
    assert not set(judged(aws)) & set(backups)
    remove(aws.cloud, judge(aws.cloud, keep=1, now=NOW))
    assert set(backups) <= set(aws.image_ids())


def test_a_persons_copy_of_an_image_is_kept_and_does_not_replace_it(
    aws: Aws, four: list[Image]
) -> None:
    copy = copied_image(aws, four[0], "my copy", four[0].tags)
    set_ages(aws, {copy: -1})
    why = judged(aws)
    assert why[copy] == "not made by bake: its snapshots do not have its tags"
    assert why[four[0].image_id] == "the newest"
    assert why[four[1].image_id] == ""


def test_an_image_of_another_account_is_never_listed(aws: Aws, four: list[Image]) -> None:
    aws.base_image("20260101", tags=four[0].tags)
    assert set(judged(aws)) == {image.image_id for image in four}


def copied_image(aws: Aws, image: Image, name: str, tags: dict[str, str]) -> str:
    """Copy an image with these tags; its snapshot gets none, as with CopyImageTags."""
    made = aws.cloud.ec2(
        "CopyImage",
        SourceImageId=image.image_id,
        SourceRegion=REGION,
        Name=name,
        ClientToken=name,
        TagSpecifications=specifications(tags, "image"),
    )
    return str(made["ImageId"])


# What is asked for -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "hours"), [("12h", 12), ("30d", 720), ("2w", 336), (" 1d ", 24), ("0d", 0)]
)
def test_an_age(text: str, hours: int) -> None:
    assert retention.read_age(text) == timedelta(hours=hours)


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "1.5d", "30 days", "٣d", "999999w"])
def test_no_age(text: str) -> None:
    with pytest.raises(RequestError):
        retention.read_age(text)


def test_all_cannot_be_removed() -> None:
    retention.check_keep(1)
    with pytest.raises(RequestError):
        retention.check_keep(0)
