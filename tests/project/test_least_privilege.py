"""docs/iam-policy.json is exactly enough: all calls of the product work with it, but not with less.

moto checks actions only, so `bake/local/api/authorization.py` replaces its check: resources and
tags count as they do at AWS.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from moto.ec2.models import ec2_backends

from bake import catalog
from bake.aws.caller_access import allow_caller
from bake.aws.checkpoint import (
    create_checkpoint,
    delete_checkpoint,
    wait_until_completed,
)
from bake.aws.client.session import Cloud, enabled_regions
from bake.aws.disk_key import customer_key
from bake.aws.image import delete_image, deregister_image
from bake.aws.image_copy import copy_image
from bake.aws.image_creation import create_image
from bake.aws.key_pair import delete_key_pair, find_key_pair, import_key_pair, key_pair
from bake.aws.launch import LaunchSpec, remove_machine, run_machine
from bake.aws.lease import Lease, lease
from bake.aws.machine import console_output, start, stop, tag, terminate, terminate_all
from bake.aws.parameter import read as read_parameter
from bake.aws.price import on_demand, price_errors, spot
from bake.aws.quota import read_quota, request_increase
from bake.aws.reap import find_orphans, remove_orphans
from bake.aws.recipe_failures import clear_failures, record_failure
from bake.aws.reservation import find_reservation
from bake.aws.security_group import (
    create_security_group,
    delete_security_group,
    leave_security_group,
    remove_security_groups,
)
from bake.aws.snapshot import delete_snapshot
from bake.aws.tags import ENDS, Run, new_run, specifications
from bake.aws.temporary_image import temporary_image
from bake.errors import BakeError, CloudError
from bake.images.retention import Verdict, judge, kept_by_users, remove
from bake.local.api.iam_policy import Need, allows, as_list
from bake.pipeline.checkpoints import prune
from bake.pipeline.preflight import PreflightResult, preflight
from bake.recipe.recipe import BaseSection
from tests.support.aws_in_process import ACCOUNT, REGION, public_key
from tests.support.iam_account import ACTIONS, OTHER_REGION, POLICY, Account, an_account, without

GRANTS = [
    (each["Sid"], action, resource)
    for each in POLICY["Statement"]
    for action in as_list(each["Action"])
    for resource in as_list(each["Resource"])
]
DIGEST = "d" * 64
PUBLIC_PARAMETER = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
STAGES = {"base": "b" * 64}


@pytest.fixture(scope="module")
def account() -> Iterator[Account]:
    with an_account() as account:
        yield account


# All calls of the product ------------------------------------------------------------------


def live(account: Account) -> None:
    """Make all calls of the product, from preflight to the last deletion; raise what went wrong."""
    cloud = account.cloud()
    ground = preflight(cloud, a_recipe(), image_name="bake/mxnet-cu101/1")
    assert read_parameter(cloud, PUBLIC_PARAMETER).value
    assert customer_key(cloud) is None
    on_demand(cloud, ["g4dn.xlarge"])
    spot(cloud, ground.placements)
    quota = read_quota(cloud, "L-DB2E81BA", "on-demand")
    request_increase(cloud, quota, quota.vcpus + 4)
    told = [
        str(each) for each in (*ground.warnings, *(f"{e}: {e.code}" for e in price_errors(cloud)))
    ]
    if told:
        raise AssertionError("\n".join(told))
    # Calls that need no earlier resource come first, so that most runs of this are short.
    reap(account, cloud)
    launch_and_end(account, cloud, ground)
    run = new_run("mxnet-cu101", lifetime=timedelta(hours=4))
    record_failure(cloud, run, "identity", "It failed before.")
    with lease(cloud, run, DIGEST, found=lambda: None) as held:
        assert isinstance(held, Lease)
        image, checkpoint = bake(cloud, run, ground)
        held.renew()
    clear_failures(cloud, "mxnet-cu101")
    later = new_run("mxnet-cu101", lifetime=timedelta(hours=4))
    with temporary_image(cloud, later, checkpoint.snapshot_id, ground.base_image) as image_id:
        resume(cloud, later, ground, image_id)
    there = account.cloud(OTHER_REGION)
    delete_image(there, copy_image(there, image, REGION).image)
    newer = judge(cloud, keep=1, now=datetime.now(UTC) + timedelta(days=90))
    assert [(verdict.image.image_id, verdict.why) for verdict in newer] == [
        (image.image_id, "the newest")
    ]
    assert kept_by_users(cloud, [image]) == {}
    for removal in remove(cloud, [Verdict(image)]):
        if removal.error:
            raise removal.error
    assert prune(cloud, "mxnet-cu101", keep=0)
    left = [str(leftover) for leftover in (*cloud.leftovers, *there.leftovers)]
    if left:
        raise AssertionError("\n".join(left))


def a_recipe() -> Any:
    builder = SimpleNamespace(
        instance_types=("g4dn.xlarge",), market="on-demand", disk_gb=64, timeout_hours=6
    )
    os_image = replace(catalog.load().os_image("ubuntu-18.04"), security_until=date.max)
    own = SimpleNamespace(builder=builder, base=BaseSection(os="ubuntu-18.04"))
    return SimpleNamespace(recipe=own, os_image=os_image, base=None, unchecked=False)


def an_order(
    ground: PreflightResult, key: str, group: str, run: Run, image_id: str = ""
) -> LaunchSpec:
    base = ground.base_image
    image_id = image_id or base.image_id
    return LaunchSpec(image_id, base.root_device_name, 64, key, group, "#!", run.temporary())


def bake(cloud: Cloud, run: Run, ground: PreflightResult) -> Any:
    vpc_id = ground.placements[0].vpc_id
    with key_pair(cloud, run, public_key()) as key:
        group = create_security_group(
            cloud, run, run.temporary(), vpc_id=vpc_id, cidr="192.0.2.1/32"
        )
        try:
            machine = run_machine(
                cloud, run, an_order(ground, key, group, run), ground.placements[:1]
            )
            checkpoint = create_checkpoint(
                cloud,
                run,
                machine,
                stages=STAGES,
                seconds={},
                expires_at=run.expires_at or run.started_at,
            )
            tags = run.finished(
                name="one", digest=DIGEST, stages=STAGES, verified="gpu", payload="upstream"
            )
            image = create_image(
                cloud,
                machine,
                name="one",
                description="An image",
                tags=tags,
                meanwhile=partial(leave_security_group, cloud, machine.network_interface_id, group),
            )
            remove_machine(cloud, run, machine.instance_id, wait=False)
        finally:
            remove_security_groups(cloud, run.id, {group})
    return image, wait_until_completed(cloud, checkpoint)


def resume(cloud: Cloud, run: Run, ground: PreflightResult, image_id: str) -> None:
    """Launch a spot machine from a checkpoint, lose it, and find its resources by their tag."""
    placement = ground.placements[0]
    on_spot = type(placement)(**{**vars(placement), "market": "spot"})
    with key_pair(cloud, run, public_key()) as key:
        group = create_security_group(
            cloud, run, run.temporary(), vpc_id=placement.vpc_id, cidr="192.0.2.1/32"
        )
        run_machine(cloud, run, an_order(ground, key, group, run, image_id), [on_spot])
        remove_machine(cloud, run)
        remove_security_groups(cloud, run.id)


def launch_and_end(account: Account, cloud: Cloud, ground: PreflightResult) -> None:
    """Launch in a capacity reservation, which has no tag of bake."""
    place, image_id = ground.placements[0], ground.base_image.image_id
    made = account.aws.cloud.ec2(
        "CreateCapacityReservation",
        InstanceType=place.instance_type,
        InstancePlatform="Linux/UNIX",
        AvailabilityZone=place.zone,
        InstanceCount=1,
    )["CapacityReservation"]
    place = replace(place, reservation=find_reservation(cloud, made["CapacityReservationId"]))
    run = new_run("mxnet-cu101")
    tags = run.lasting("mine")
    import_key_pair(cloud, "bake-me", public_key(), tags)
    assert find_key_pair(cloud, "bake-me")
    group = create_security_group(cloud, run, tags, vpc_id=place.vpc_id, cidr="192.0.2.1/32")
    order = LaunchSpec(image_id, "/dev/sda1", 64, "bake-me", group, "#!", tags, stays=True)
    machine = run_machine(cloud, run, order, [place])
    assert console_output(cloud, machine.instance_id), "no console: ec2:GetConsoleOutput"
    tag(cloud, machine.instance_id, {ENDS: "2026-11-21T20:00:00Z"})
    stop(cloud, machine.instance_id)
    start(cloud, machine.instance_id)
    with mock.patch.dict(os.environ, BAKE_CALLER_CIDR="192.0.2.2/32"):
        assert allow_caller(cloud, run.id, 22)
    terminate(cloud, machine.instance_id)
    delete_key_pair(cloud, "bake-me")


def reap(account: Account, cloud: Cloud) -> None:
    """Leave and reap resources; those of a builder were removed by the calls above."""
    owner, long_ago = account.aws.cloud, account.aws.cloud.now() - timedelta(days=1)
    run = new_run("mxnet-cu101", lifetime=timedelta(hours=4), now=long_ago)
    tag = partial(specifications, run.temporary())
    zone = f"{REGION}a"
    owner.ec2("CreateVolume", AvailabilityZone=zone, Size=8, TagSpecifications=tag("volume"))
    before = account.aws.remains()
    machine = {"ImageId": account.aws.image_ids()[0], "InstanceType": "g4dn.xlarge"}
    requests = owner.ec2(
        "RequestSpotInstances",
        LaunchSpecification=machine,
        TagSpecifications=tag("spot-instances-request"),
    )["SpotInstanceRequests"]
    request = ec2_backends[ACCOUNT][REGION].spot_instance_requests[
        requests[0]["SpotInstanceRequestId"]
    ]
    request.state = "open"
    request.instance.terminate()  # moto starts one at once, EC2 when it has capacity
    account.aws.at_first |= account.aws.remains() - before
    assert REGION in enabled_regions(cloud)
    removals = remove_orphans(cloud, find_orphans(cloud))
    left = [str(each.leftover) for each in removals if each.leftover]
    if left:
        raise AssertionError("\n".join(left))
    assert {each.orphan.kind for each in removals} == {"volume", "spot request"}


# With the policy, and with less ----------------------------------------------------------------


@pytest.fixture(scope="module")
def needed(account: Account) -> list[Need]:
    """Return the permissions that all calls of the product needed."""
    account.begin(POLICY)
    live(account)
    assert account.aws.remains() == set()
    return account.needed


def test_all_calls_of_the_product_are_allowed(needed: list[Need]) -> None:
    assert all(allows([POLICY], need) for need in needed)
    assert {need.action for need in needed} == set(ACTIONS)


@pytest.mark.parametrize("action", ACTIONS)
def test_a_life_needs(account: Account, action: str) -> None:
    account.begin(without(lambda _, named: named == action))
    with pytest.raises((BakeError, AssertionError)) as caught:
        live(account)
    assert action in told(caught.value), told(caught.value)


@pytest.mark.parametrize(("sid", "action", "resource"), GRANTS)
def test_every_grant_of_the_policy_is_needed(
    needed: list[Need], sid: str, action: str, resource: str
) -> None:
    """Return each grant of the policy: an action on a resource in a statement."""
    policy = copy.deepcopy(POLICY)
    [statement] = [each for each in policy["Statement"] if each["Sid"] == sid]
    others = [each for each in as_list(statement["Action"]) if each != action]
    resources = [each for each in as_list(statement["Resource"]) if each != resource]
    policy["Statement"].remove(statement)
    policy["Statement"] += [
        {**statement, "Action": others},
        {**statement, "Action": action, "Resource": resources},
    ]
    refused = {need.action for need in needed if not allows([policy], need)}
    assert refused == {action}


@pytest.mark.parametrize(
    "sid", [each["Sid"] for each in POLICY["Statement"] if "Condition" in each]
)
def test_conditions_exclude_resources_without_our_tag(needed: list[Need], sid: str) -> None:
    """The same calls are refused for a resource that has no tag `bake:run` or would get none.

    What EC2 reads for the caller is refused if the caller reads it without EC2.
    """
    [statement] = [each for each in POLICY["Statement"] if each["Sid"] == sid]
    ours = [
        need
        for need in needed
        if (need.keys or any(need.several.values()))
        and need.action in as_list(statement["Action"])
        and allows([{"Statement": statement}], need)
    ]
    assert ours
    for need in ours:
        if need.action == "ec2:CopyImage" and ":image/" in need.resource:
            continue  # CopyFromAnyImage: only the copy's snapshot has to have the tag
        foreign = {k: v for k, v in need.keys.items() if not k.endswith("/bake:run")}
        foreign = foreign if foreign != need.keys else {}
        assert not allows([POLICY], Need(need.action, need.resource, foreign)), need


def told(error: BaseException) -> str:
    parts = [str(error)]
    if isinstance(error, BakeError):
        parts += [error.code, error.reason, error.hint, *error.details]
    return "\n".join(parts)


# Deleted resources have no tags, so EC2 denies the call instead of not finding them


def test_a_deleted_resource_is_not_found_under_the_policy(account: Account) -> None:
    account.begin(POLICY)
    cloud, owner = account.cloud(), account.aws.cloud
    ground = preflight(cloud, a_recipe())
    run = new_run("mxnet-cu101", lifetime=timedelta(hours=4))
    image, checkpoint = bake(cloud, run, ground)
    delete_image(cloud, image)
    owner.ec2("DeleteSnapshot", SnapshotId=checkpoint.snapshot_id)
    assert not delete_checkpoint(cloud, checkpoint)
    assert deregister_image(cloud, image.image_id) is None
    delete_snapshot(cloud, checkpoint.snapshot_id, unknown_for_s=0)
    delete_security_group(cloud, "sg-0123456789abcdef0", unknown_for_s=0)
    delete_key_pair(cloud, "never-made")
    account.aws.forget_instances()
    terminate_all(cloud, ["i-0123456789abcdef0"])
    assert cloud.leftovers == []
    assert "ec2:DeleteKeyPair" in {need.action for need in account.needed}


def test_a_resource_without_our_tag_is_denied(account: Account) -> None:
    account.begin(POLICY)
    cloud, owner = account.cloud(), account.aws.cloud
    owner.ec2("ImportKeyPair", KeyName="theirs", PublicKeyMaterial=public_key().encode())
    with pytest.raises(CloudError) as caught:
        delete_key_pair(cloud, "theirs")
    assert caught.value.code == "UnauthorizedOperation"
    assert find_key_pair(owner, "theirs")


def test_a_terminated_machine_without_tags_counts_as_terminated(account: Account) -> None:
    account.begin(POLICY)
    cloud, owner = account.cloud(), account.aws.cloud
    order = account.aws.order("k", "sg-1")
    machine = run_machine(owner, account.aws.run, order, [account.aws.placement()])
    terminate_all(owner, [machine.instance_id])
    ec2_backends[ACCOUNT][REGION].tags.pop(machine.instance_id)
    terminate_all(cloud, [machine.instance_id])
