"""Machines: listing, starting, stopping and terminating them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from bake.aws.key_pair import delete_key_pair, find_key_pair, import_key_pair
from bake.aws.launch import run_machine
from bake.aws.machine import (
    Machine,
    console_output,
    find_machine,
    find_own_machine,
    machines,
    start,
    stop,
    terminate,
)
from bake.aws.security_group import create_security_group
from bake.aws.tags import new_run
from bake.errors import CloudError, MachineError, RequestError
from tests.support.aws_in_process import Aws, aws_in_process, public_key


@pytest.fixture
def aws() -> Iterator[Aws]:
    with aws_in_process() as aws:
        yield aws


def launch(aws: Aws, name: str = "notebook", **more: Any) -> Machine:
    run = new_run("mxnet-cu101")
    tags = run.lasting(name)
    placement = aws.placement(**more)
    group_id = create_security_group(
        aws.cloud, run, tags, vpc_id=placement.vpc_id, cidr="203.0.113.7/32", port=2222
    )
    order = aws.order("mine", group_id, tags=tags, stays=True)
    return run_machine(aws.cloud, run, order, [placement])


def test_a_machine_is_read_with_all_its_attributes(aws: Aws) -> None:
    launched = launch(aws)
    [machine] = machines(aws.cloud)
    assert machine == launched
    assert (machine.name, machine.recipe, machine.state) == ("notebook", "mxnet-cu101", "running")
    assert (machine.instance_type, machine.zone) == ("g4dn.xlarge", "us-east-1a")
    assert (machine.market, machine.key_name) == ("on-demand", "mine")
    assert machine.address
    assert machine.image_id.startswith("ami-")
    assert machine.launched_at.tzinfo


def test_only_tagged_machines_that_still_exist_are_listed(aws: Aws) -> None:
    aws.cloud.ec2("RunInstances", ImageId=aws.image_ids()[0], MinCount=1, MaxCount=1)
    gone = launch(aws, "gone")
    kept = launch(aws, "kept")
    terminate(aws.cloud, gone.instance_id)
    assert [machine.name for machine in machines(aws.cloud)] == ["kept"]
    assert kept.instance_id in aws.remains()


def test_the_newest_machine_comes_first(aws: Aws) -> None:
    def age(answer: dict[str, Any]) -> None:
        instances = [i for r in answer["Reservations"] for i in r["Instances"]]
        for number, instance in enumerate(instances):
            instance["LaunchTime"] = instance["LaunchTime"].replace(year=2020 + number)

    launch(aws, "old"), launch(aws, "new")
    aws.alter("DescribeInstances", age)
    years = [machine.launched_at.year for machine in machines(aws.cloud)]
    assert years == [2021, 2020]


def test_a_machine_is_stopped_and_started_again(aws: Aws) -> None:
    machine = launch(aws)
    states: list[str] = []
    assert stop(aws.cloud, machine.instance_id, on_state=states.append).state == "stopped"
    assert start(aws.cloud, machine.instance_id, on_state=states.append).state == "running"
    assert states == ["stopped", "running"]


def test_a_starting_machine_may_be_reported_as_stopped_for_a_while(aws: Aws) -> None:
    machine = launch(aws)
    stop(aws.cloud, machine.instance_id)
    aws.alter("DescribeInstances", set_state("stopped"), times=3)
    assert start(aws.cloud, machine.instance_id).state == "running"
    assert len(aws.slept) == 3


def test_a_machine_whose_disk_cannot_be_decrypted_is_not_waited_for(aws: Aws) -> None:
    machine = launch(aws)
    stop(aws.cloud, machine.instance_id)

    def fail(answer: dict[str, Any]) -> None:
        for instance in answer["Reservations"][0]["Instances"]:
            instance["State"]["Name"] = "stopped"
            reason = {"Code": "Client.InternalError", "Message": "Client error on launch"}
            instance["StateReason"] = reason

    aws.alter("DescribeInstances", fail)
    with pytest.raises(MachineError) as caught:
        start(aws.cloud, machine.instance_id)
    assert "KMS key" in caught.value.hint
    assert 100 < sum(aws.slept) < 200


def test_a_start_without_capacity_is_an_error(aws: Aws) -> None:
    machine = launch(aws)
    stop(aws.cloud, machine.instance_id)
    aws.refuse("StartInstances", "InsufficientInstanceCapacity", "None left.")
    with pytest.raises(CloudError) as caught:
        start(aws.cloud, machine.instance_id)
    assert caught.value.code == "InsufficientInstanceCapacity"
    assert "another region" in caught.value.hint


def test_stopping_a_spot_machine_is_an_error_with_a_hint(aws: Aws) -> None:
    machine = launch(aws, market="spot")
    with pytest.raises(MachineError, match="one-time spot machine") as caught:
        stop(aws.cloud, machine.instance_id)
    assert "invoke terminate notebook" in caught.value.hint
    assert "StopInstances" not in aws.sent


def test_terminating_a_machine_deletes_its_disk_and_its_group(aws: Aws) -> None:
    machine = launch(aws)
    assert any(name.startswith("sg-") for name in aws.remains())
    terminate(aws.cloud, machine.instance_id)
    assert aws.remains() == set()
    assert aws.cloud.leftovers == []


def test_another_launch_keeps_its_group(aws: Aws) -> None:
    first, second = launch(aws, "first"), launch(aws, "second")
    terminate(aws.cloud, first.instance_id)
    groups = [name for name in aws.remains() if name.startswith("sg-")]
    assert len(groups) == 1
    terminate(aws.cloud, second.instance_id)
    assert aws.remains() == set()


@pytest.mark.parametrize("act", [stop, terminate])
def test_a_machine_that_does_not_exist(aws: Aws, act: Any) -> None:
    with pytest.raises(MachineError, match="Machine i-0123456789abcdef0 not found") as caught:
        act(aws.cloud, "i-0123456789abcdef0")
    assert "invoke machines" in caught.value.hint


def test_a_terminated_machine_is_waited_for_until_it_is(aws: Aws) -> None:
    machine = launch(aws)
    states: list[str] = []
    aws.alter("DescribeInstances", set_state("shutting-down"), times=3)
    terminate(aws.cloud, machine.instance_id, on_state=states.append)
    assert states == ["shutting-down", "shutting-down", "terminated"]


def test_an_unknown_machine_is_none(aws: Aws) -> None:
    assert find_machine(aws.cloud, "i-0123456789abcdef0") is None
    assert find_machine(aws.cloud, "notebook") is None


def test_the_latest_console_output_is_requested_first(aws: Aws) -> None:
    machine = launch(aws)
    aws.refuse("GetConsoleOutput", "UnsupportedOperation", times=1)
    assert "Linux version" in console_output(aws.cloud, machine.instance_id)
    first, second = aws.params("GetConsoleOutput")
    assert first["Latest"] is True
    assert "Latest" not in second


def test_refused_console_output_is_empty(aws: Aws) -> None:
    aws.refuse("GetConsoleOutput", "UnauthorizedOperation")
    assert console_output(aws.cloud, "i-0123456789abcdef0") == ""


def test_a_key_pair_is_found_by_its_name(aws: Aws) -> None:
    key = public_key()
    made = import_key_pair(aws.cloud, "mine", key, {"bake:run": "r"})
    found = find_key_pair(aws.cloud, "mine")
    assert found
    assert (found.key_pair_id, found.tags) == (made.key_pair_id, {"bake:run": "r"})
    assert find_key_pair(aws.cloud, "other") is None
    delete_key_pair(aws.cloud, "mine")
    assert find_key_pair(aws.cloud, "mine") is None


def test_a_key_pair_with_the_same_name_is_not_replaced(aws: Aws) -> None:
    import_key_pair(aws.cloud, "mine", public_key(), {"bake:run": "theirs"})
    with pytest.raises(CloudError) as caught:
        import_key_pair(aws.cloud, "mine", public_key(), {"bake:run": "ours"})
    assert caught.value.code == "InvalidKeyPair.Duplicate"


def test_a_repeated_import_finds_its_own_key_pair(aws: Aws) -> None:
    key, tags = public_key(), {"bake:run": "ours"}
    first = import_key_pair(aws.cloud, "mine", key, tags)
    assert import_key_pair(aws.cloud, "mine", key, tags).key_pair_id == first.key_pair_id
    aws.refuse("DescribeKeyPairs", "InvalidKeyPair.NotFound", times=3)  # EC2 does not know it yet
    assert import_key_pair(aws.cloud, "mine", key, tags).key_pair_id == first.key_pair_id


def set_state(state: str) -> Any:
    def act(answer: dict[str, Any]) -> None:
        for reservation in answer["Reservations"]:
            for instance in reservation["Instances"]:
                instance["State"]["Name"] = state

    return act


def test_one_of_several_machines_is_found_by_its_id_or_its_name(aws: Aws) -> None:
    one, two = launch(aws, "one"), launch(aws, "two")
    assert find_own_machine(aws.cloud, "two") == two
    assert find_own_machine(aws.cloud, one.instance_id) == one
    with pytest.raises(RequestError, match="More than one machine") as refused:
        find_own_machine(aws.cloud, None)
    assert len(refused.value.details) == 2
    with pytest.raises(RequestError, match="Machine three not found"):
        find_own_machine(aws.cloud, "three")


def test_a_machine_that_is_not_found_may_be_in_another_region(aws: Aws) -> None:
    """The usual region may have changed since the launch."""
    with pytest.raises(RequestError, match="Machine notebook not found in us-east-1") as refused:
        find_own_machine(aws.cloud, "notebook")
    assert "--region" in refused.value.hint
