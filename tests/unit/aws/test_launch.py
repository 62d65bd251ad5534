"""Launches: the parameters of the requests, and no leftovers of a run that failed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from botocore.exceptions import ReadTimeoutError

from bake.aws.client.undo import clean_up
from bake.aws.isolated_group import ISOLATED
from bake.aws.key_pair import key_pair
from bake.aws.launch import remove_machine, run_machine
from bake.aws.machine import Machine
from bake.aws.reservation import Reservation
from bake.aws.security_group import (
    create_security_group,
    leave_security_group,
    remove_security_groups,
)
from bake.errors import CapacityError, CloudError, LostError, MachineError, NoAnswerError
from tests.support.aws_in_process import REGION, Aws, aws_in_process, public_key

MINE = "203.0.113.7/32"


@pytest.fixture
def aws() -> Iterator[Aws]:
    with aws_in_process() as aws:
        yield aws


def bake(aws: Aws, work: Callable[[Machine], Any], *placements: Any, **order: Any) -> None:
    """Do a run with everything that a builder needs, in the order of a bake."""
    placements = placements or (aws.placement(),)
    with clean_up(aws.cloud.leftovers) as stack:
        key_name = stack.enter_context(key_pair(aws.cloud, aws.run, public_key()))
        group_id = create_security_group(
            aws.cloud, aws.run, aws.run.temporary(), vpc_id=placements[0].vpc_id, cidr=MINE
        )
        stack.callback(remove_security_groups, aws.cloud, aws.run.id, {group_id})
        request = aws.order(key_name, group_id, **order)
        machine = run_machine(aws.cloud, aws.run, request, placements)
        stack.callback(remove_machine, aws.cloud, aws.run, machine.instance_id)
        work(machine)


def nothing(_: Machine) -> None:
    pass


def values(tags: list[dict[str, str]]) -> dict[str, str]:
    return {tag["Key"]: tag["Value"] for tag in tags}


def test_a_run_leaves_nothing(aws: Aws) -> None:
    seen: list[Machine] = []
    bake(aws, seen.append)
    assert seen[0].state == "running"
    assert seen[0].address
    assert aws.remains() == set()
    assert aws.cloud.leftovers == []


def test_a_builder_is_requested_with_the_designed_parameters(aws: Aws) -> None:
    bake(aws, nothing)
    [request] = aws.params("RunInstances")
    assert request["MinCount"] == request["MaxCount"] == 1
    assert request["InstanceInitiatedShutdownBehavior"] == "terminate"
    assert request["MetadataOptions"] == {
        "HttpEndpoint": "enabled",
        "HttpTokens": "required",
        "HttpPutResponseHopLimit": 1,
    }
    assert request["BlockDeviceMappings"] == [
        {
            "DeviceName": "/dev/sda1",
            "Ebs": {
                "VolumeSize": 64,
                "VolumeType": "gp3",
                "Encrypted": True,
                "DeleteOnTermination": True,
            },
        }
    ]
    [interface] = request["NetworkInterfaces"]
    assert interface["AssociatePublicIpAddress"] is True
    assert len(request["ClientToken"]) == 64
    assert "InstanceMarketOptions" not in request


def test_a_spot_request_is_one_time_and_tagged(aws: Aws) -> None:
    bake(aws, nothing, aws.placement(market="spot"))
    [request] = aws.params("RunInstances")
    assert request["InstanceMarketOptions"] == {
        "MarketType": "spot",
        "SpotOptions": {
            "SpotInstanceType": "one-time",
            "InstanceInterruptionBehavior": "terminate",
        },
    }
    assert [spec["ResourceType"] for spec in request["TagSpecifications"]] == [
        "instance",
        "volume",
        "network-interface",
        "spot-instances-request",
    ]


@pytest.mark.parametrize("block", [False, True])
def test_a_launch_names_its_reservation_or_capacity_block(aws: Aws, block: bool) -> None:
    """User Guide, "Launch instances into an existing Capacity Reservation" and "... using Capacity
    Blocks"."""
    place = aws.placement()
    reserved = Reservation("cr-1", place.instance_type, place.zone, block=block)
    bake(aws, nothing, replace(place, reservation=reserved))
    [request] = aws.params("RunInstances")
    assert request["CapacityReservationSpecification"] == {
        "CapacityReservationTarget": {"CapacityReservationId": "cr-1"}
    }
    market = {"MarketType": "capacity-block"} if block else None
    assert request.get("InstanceMarketOptions") == market
    tagged = [spec["ResourceType"] for spec in request["TagSpecifications"]]
    assert "spot-instances-request" not in tagged


def test_what_expired_credentials_cannot_remove_is_named(aws: Aws) -> None:
    """EC2's code for temporary credentials that have ended is RequestExpired."""

    def expire(machine: Machine) -> None:
        for operation in (
            "CreateImage",
            "DeleteKeyPair",
            "DeleteSecurityGroup",
            "DescribeInstances",
            "DescribeKeyPairs",
            "DescribeSecurityGroups",
            "TerminateInstances",
        ):
            aws.refuse(operation, "RequestExpired", "Request has expired.")
        aws.cloud.ec2("CreateImage", InstanceId=machine.instance_id, Name="one")

    with pytest.raises(CloudError) as caught:
        bake(aws, expire)
    assert "credentials have expired" in caught.value.hint
    left = "\n".join(caught.value.details)
    commands = ("terminate-instances", "delete-security-group", "delete-key-pair")
    assert all(f"aws ec2 {command}" in left for command in commands), left
    assert left.count("RequestExpired") == 3
    assert sum(aws.slept) < 60


@pytest.mark.parametrize(
    ("stays", "market", "expected"),
    [
        (False, "on-demand", {"CapacityReservationPreference": "none"}),
        (False, "spot", None),
        (True, "on-demand", None),
    ],
)
def test_a_builder_leaves_open_capacity_reservations_alone(
    aws: Aws, stays: bool, market: str, expected: dict[str, str] | None
) -> None:
    group = next(name for name in aws.at_first if name.startswith("sg-"))
    run_machine(
        aws.cloud, aws.run, aws.order("k", group, stays=stays), [aws.placement(market=market)]
    )
    [request] = aws.params("RunInstances")
    assert request.get("CapacityReservationSpecification") == expected


def test_every_creating_call_sets_run_recipe_and_expiry_tags(aws: Aws) -> None:
    bake(aws, nothing)
    specifications = [
        specification
        for operation in ("ImportKeyPair", "CreateSecurityGroup", "RunInstances")
        for request in aws.params(operation)
        for specification in request["TagSpecifications"]
    ]
    assert {s["ResourceType"] for s in specifications} == {
        "key-pair",
        "security-group",
        "instance",
        "volume",
        "network-interface",
    }
    for specification in specifications:
        tags = values(specification["Tags"])
        assert tags["bake:run"] == aws.run.id
        assert tags["bake:recipe"] == "mxnet-cu101"
        assert tags["bake:expires"].endswith("Z")


def test_only_the_public_key_and_one_address_are_sent_to_aws(aws: Aws) -> None:
    bake(aws, nothing)
    [key] = aws.params("ImportKeyPair")
    assert key["PublicKeyMaterial"].startswith(b"ssh-ed25519 ")
    [ingress] = aws.params("AuthorizeSecurityGroupIngress")
    [permission] = ingress["IpPermissions"]
    assert (permission["IpProtocol"], permission["FromPort"], permission["ToPort"]) == (
        "tcp",
        22,
        22,
    )
    assert [one["CidrIp"] for one in permission["IpRanges"]] == [MINE]


@pytest.mark.parametrize(
    "operation",
    ["ImportKeyPair", "CreateSecurityGroup", "AuthorizeSecurityGroupIngress", "RunInstances"],
)
@pytest.mark.parametrize("error", [KeyboardInterrupt(), None])
def test_an_interrupted_call_that_took_effect_leaves_nothing(
    aws: Aws, operation: str, error: BaseException | None
) -> None:
    lost = error or ReadTimeoutError(endpoint_url="https://ec2")
    aws.cut(operation, lost)
    with pytest.raises(KeyboardInterrupt if error else CloudError):
        bake(aws, nothing)
    assert aws.remains() == set()
    assert aws.cloud.leftovers == []


@pytest.mark.parametrize(
    "operation", ["ImportKeyPair", "CreateSecurityGroup", "AuthorizeSecurityGroupIngress"]
)
def test_a_lost_response_is_retried_and_finds_its_own_resource(
    aws: Aws, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    aws.lose_answer(operation)
    bake(aws, nothing)
    assert aws.sent.count(operation) == 2
    assert aws.remains() == set()


@pytest.mark.parametrize("operation", ["CreateSecurityGroup", "AuthorizeSecurityGroupIngress"])
def test_a_refused_call_leaves_nothing_of_the_earlier_calls(aws: Aws, operation: str) -> None:
    aws.refuse(operation, "UnauthorizedOperation", "You are not authorized.")
    with pytest.raises(CloudError) as caught:
        bake(aws, nothing)
    assert caught.value.code == "UnauthorizedOperation"
    assert f"ec2:{operation}" in caught.value.hint
    assert aws.remains() == set()


@pytest.mark.parametrize("error", [CloudError("the stage failed"), KeyboardInterrupt()])
def test_work_that_fails_leaves_nothing(aws: Aws, error: BaseException) -> None:
    def work(_: Machine) -> None:
        raise error

    with pytest.raises(type(error)):
        bake(aws, work)
    assert aws.remains() == set()


def test_without_capacity_in_the_first_zone_the_second_is_tried(aws: Aws) -> None:
    aws.refuse(
        "RunInstances",
        "InsufficientInstanceCapacity",
        "We currently do not have sufficient g4dn.xlarge capacity in us-east-1a.",
        status=500,
        times=1,
    )
    seen: list[Machine] = []
    bake(aws, seen.append, aws.placement(zone="a"), aws.placement(zone="b"))
    assert seen[0].zone == REGION + "b"
    # boto3 would have retried the first zone, because the response has status 500.
    assert aws.sent.count("RunInstances") == 2
    assert aws.remains() == set()


@pytest.mark.parametrize("code", ["Server.InsufficientInstanceCapacity", "Server.InternalError"])
@pytest.mark.parametrize("state", ["terminated", "stopped"])
def test_a_machine_that_ends_while_pending_is_removed_and_another_zone_tried(
    aws: Aws, code: str, state: str
) -> None:
    """Troubleshooting in the User Guide, "Instance terminates immediately", and "StateReason"."""
    fail_in_zone_a(aws, state, code, "It failed.")
    refused: list[str] = []
    machine = launch_in_zones(aws, "ab", refused)
    assert machine.zone == REGION + "b"
    assert refused == [f"{REGION}a {code}"]
    assert {name for name in aws.remains() if name.startswith("i-")} == {machine.instance_id}


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("Client.InternalError", "Client error on launch"),
        ("Client.InvalidKMSKey.InvalidState", "The KMS key is disabled."),
    ],
)
def test_a_key_that_cannot_be_used_is_named_and_no_other_zone_is_tried(
    aws: Aws, code: str, reason: str
) -> None:
    fail_in_zone_a(aws, "terminated", code, reason)
    with pytest.raises(MachineError) as caught:
        launch_in_zones(aws, "ab", [])
    assert (caught.value.code, caught.value.reason) == (code, reason)
    assert "KMS key" in caught.value.hint
    assert "docs/accounts.md" in caught.value.hint
    assert aws.sent.count("RunInstances") == 1
    assert not [name for name in aws.remains() if name.startswith(("i-", "vol-"))]


def test_a_machine_lost_in_the_only_zone_is_a_lost_machine(aws: Aws) -> None:
    """A bake then starts another one; a launch reports it, without a word about checkpoints."""
    fail_in_zone_a(aws, "terminated", "Server.InternalError", "Internal error on launch")
    with pytest.raises(LostError) as caught:
        launch_in_zones(aws, "a", [])
    assert "checkpoint" not in caught.value.hint
    assert caught.value.details == (
        "g4dn.xlarge in us-east-1a (on-demand): Server.InternalError: Internal error on launch",
    )


def test_a_machine_that_a_user_shut_down_is_reported_in_plain_words(aws: Aws) -> None:
    code = "Client.UserInitiatedShutdown"
    fail_in_zone_a(aws, "terminated", code, f"{code}: User initiated shutdown")
    with pytest.raises(
        LostError, match=r"\(g4dn.xlarge in us-east-1a, on-demand\) was shut down by a"
    ):
        launch_in_zones(aws, "a", [])


def test_a_zone_without_capacity_for_an_accepted_machine_is_no_lost_machine(aws: Aws) -> None:
    fail_in_zone_a(aws, "terminated", "Server.InsufficientInstanceCapacity", "None left.")
    with pytest.raises(CapacityError):
        launch_in_zones(aws, "a", [])


def fail_in_zone_a(aws: Aws, state: str, code: str, reason: str) -> None:
    """Let every machine in the zone a go into this state while it is pending."""

    def end(answer: dict[str, Any]) -> None:
        for reservation in answer["Reservations"]:
            for instance in reservation["Instances"]:
                here = instance["Placement"]["AvailabilityZone"].endswith("a")
                if here and instance["State"]["Name"] != "terminated":
                    instance["State"]["Name"] = state
                if here:
                    instance["StateReason"] = {"Code": code, "Message": reason}

    aws.alter("DescribeInstances", end)


def launch_in_zones(aws: Aws, zones: str, refused: list[str]) -> Machine:
    """Launch a machine in the first of the zones that has capacity; add the others to `refused`."""
    order = aws.order("k", next(name for name in aws.at_first if name.startswith("sg-")))
    aws.cloud.ec2("ImportKeyPair", KeyName="k", PublicKeyMaterial=public_key().encode())
    return run_machine(
        aws.cloud,
        aws.run,
        order,
        [aws.placement(zone=zone) for zone in zones],
        on_no_capacity=lambda place, error: refused.append(f"{place.zone} {error.code}"),
    )


def test_without_any_capacity_the_error_lists_every_attempt(aws: Aws) -> None:
    message = "We currently do not have sufficient capacity."
    aws.refuse("RunInstances", "InsufficientInstanceCapacity", message, status=500)
    placements = [
        aws.placement(kind, zone) for kind in ("g4dn.xlarge", "g5.xlarge") for zone in "ab"
    ]
    with pytest.raises(CapacityError) as caught:
        bake(aws, nothing, *placements)
    assert [detail.partition(":")[0] for detail in caught.value.details] == [
        "g4dn.xlarge in us-east-1a (on-demand)",
        "g4dn.xlarge in us-east-1b (on-demand)",
        "g5.xlarge in us-east-1a (on-demand)",
        "g5.xlarge in us-east-1b (on-demand)",
    ]
    assert all(message in detail for detail in caught.value.details)
    assert aws.sent.count("RunInstances") == 4
    assert aws.remains() == set()


def test_each_placement_has_its_own_token_and_a_repeated_request_the_same(aws: Aws) -> None:
    aws.refuse("RunInstances", "InsufficientInstanceCapacity", status=500, times=1)
    aws.refuse("RunInstances", "RequestLimitExceeded", status=503, times=1)
    bake(aws, nothing, aws.placement(zone="a"), aws.placement(zone="b"))
    first, second, again = [request["ClientToken"] for request in aws.params("RunInstances")]
    assert first != second == again


def test_a_throttled_launch_is_retried(aws: Aws) -> None:
    aws.refuse("RunInstances", "RequestLimitExceeded", status=503, times=12)
    bake(aws, nothing)
    assert aws.sent.count("RunInstances") == 13
    assert sum(aws.slept) > 60


def test_a_launch_is_retried_while_ec2_does_not_know_the_group(aws: Aws) -> None:
    aws.refuse("AuthorizeSecurityGroupIngress", "InvalidGroup.NotFound", times=2)
    aws.refuse("RunInstances", "InvalidGroup.NotFound", times=2)
    aws.refuse("DescribeInstances", "InvalidInstanceID.NotFound", times=2)
    bake(aws, nothing)
    assert aws.remains() == set()


def test_the_machine_of_an_interrupted_call_is_looked_for_until_listed(aws: Aws) -> None:
    aws.cut("RunInstances", ReadTimeoutError(endpoint_url="https://ec2"))
    aws.alter("DescribeInstances", lambda answer: answer.update(Reservations=[]), times=3)
    with pytest.raises(NoAnswerError):
        bake(aws, nothing)
    assert aws.remains() == set()
    assert aws.cloud.leftovers == []


def test_the_group_of_an_interrupted_call_is_looked_for_until_listed(aws: Aws) -> None:
    aws.cut("CreateSecurityGroup", ReadTimeoutError(endpoint_url="https://ec2"))
    aws.alter("DescribeSecurityGroups", lambda answer: answer.update(SecurityGroups=[]), times=3)
    with pytest.raises(NoAnswerError):
        bake(aws, nothing)
    assert aws.remains() == set()


def test_a_group_that_ec2_does_not_know_yet_is_deleted_later(aws: Aws) -> None:
    aws.refuse("AuthorizeSecurityGroupIngress", "UnauthorizedOperation")
    aws.refuse("DeleteSecurityGroup", "InvalidGroup.NotFound", times=3)
    with pytest.raises(CloudError):
        bake(aws, nothing)
    assert aws.remains() == set()
    assert aws.cloud.leftovers == []


def test_a_machine_that_ends_while_it_starts_shows_awss_reason(aws: Aws) -> None:
    def end(answer: dict[str, Any]) -> None:
        for reservation in answer["Reservations"]:
            for instance in reservation["Instances"]:
                instance["State"]["Name"] = "terminated"
                instance["StateReason"] = {
                    "Code": "Client.InvalidKMSKey.InvalidState",
                    "Message": "Client.InvalidKMSKey.InvalidState: The KMS key is disabled",
                }

    aws.alter("DescribeInstances", end)
    with pytest.raises(MachineError, match="the state terminated while starting") as caught:
        bake(aws, nothing)
    assert caught.value.code == "Client.InvalidKMSKey.InvalidState"
    assert "The KMS key is disabled" in caught.value.reason
    assert aws.remains() == set()


def test_a_machine_that_does_not_start_is_terminated_after_15_minutes(aws: Aws) -> None:
    states = ["pending"]

    def pend(answer: dict[str, Any]) -> None:
        for reservation in answer["Reservations"]:
            for instance in reservation["Instances"]:
                if instance["State"]["Name"] == "running":
                    instance["State"]["Name"] = states[0]

    aws.alter("DescribeInstances", pend)
    with pytest.raises(MachineError, match=r"is still starting after 15 min"):
        bake(aws, nothing)
    assert 14 * 60 < sum(aws.slept) < 16 * 60
    assert aws.remains() == set()


def test_a_group_still_in_use_is_waited_for(aws: Aws) -> None:
    aws.refuse("DeleteSecurityGroup", "DependencyViolation", "has a dependent object", times=3)
    bake(aws, nothing)
    assert aws.remains() == set()
    assert len(aws.params("DeleteSecurityGroup")) == 4


def test_a_machine_leaves_its_group_for_one_without_rules(aws: Aws) -> None:
    placement = aws.placement()
    group_id = create_security_group(
        aws.cloud, aws.run, aws.run.temporary(), vpc_id=placement.vpc_id, cidr="203.0.113.7/32"
    )
    machine = run_machine(aws.cloud, aws.run, aws.order("k", group_id), [placement])
    leave_security_group(aws.cloud, machine.network_interface_id, group_id)
    [request] = aws.params("ModifyNetworkInterfaceAttribute")
    assert request["NetworkInterfaceId"] == machine.network_interface_id
    groups = aws.cloud.ec2("DescribeSecurityGroups", GroupIds=request["Groups"])["SecurityGroups"]
    assert [(g["GroupName"], g["VpcId"]) for g in groups] == [(ISOLATED, placement.vpc_id)]
    assert not groups[0]["IpPermissions"] + groups[0]["IpPermissionsEgress"]
    with pytest.raises(CloudError) as caught:
        leave_security_group(aws.cloud, machine.network_interface_id, group_id)
    assert caught.value.code == "InvalidGroup.NotFound"
    remove_machine(aws.cloud, aws.run, machine.instance_id, wait=False)
    assert aws.cloud.leftovers == []
    assert aws.sent[-1] == "TerminateInstances", "its end was waited for"


def test_a_leftover_is_reported_and_the_rest_is_removed(aws: Aws) -> None:
    aws.refuse("TerminateInstances", "UnauthorizedOperation", "You may not.")
    aws.refuse("DeleteSecurityGroup", "DependencyViolation", "has a dependent object")

    def work(_: Machine) -> None:
        raise CloudError("the stage failed")

    with pytest.raises(CloudError, match="the stage failed") as caught:
        bake(aws, work)
    machine, group = aws.cloud.leftovers
    [instance_id] = [name for name in aws.remains() if name.startswith("i-")]
    [group_id] = [name for name in aws.remains() if name.startswith("sg-")]
    assert machine.command == (
        f"aws ec2 terminate-instances --region us-east-1 --instance-ids {instance_id}"
    )
    assert machine.reason == "UnauthorizedOperation: You may not."
    assert group.command == (
        f"aws ec2 delete-security-group --region us-east-1 --group-id {group_id}"
    )
    assert list(caught.value.details) == [str(machine), str(group)]
    assert not any(name.startswith("bake-") for name in aws.remains()), "the key pair is gone"


def test_the_leftovers_of_an_interrupted_run_are_noted_on_the_interrupt(aws: Aws) -> None:
    aws.refuse("DeleteKeyPair", "InternalError", status=400)

    def work(_: Machine) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        bake(aws, work)
    assert f"--key-name bake-{aws.run.id}" in caught.value.__notes__[0]


def test_a_machine_that_has_long_ended_by_itself_is_no_leftover(aws: Aws) -> None:
    bake(aws, lambda machine: aws.forget_instances())
    assert aws.cloud.leftovers == []


def test_a_launched_machine_stays_and_is_stopped_by_a_power_off(aws: Aws) -> None:
    placement = aws.placement()
    tags = aws.run.lasting("notebook")
    group_id = create_security_group(
        aws.cloud, aws.run, tags, vpc_id=placement.vpc_id, cidr=MINE, port=2222
    )
    order = aws.order("mine", group_id, tags=tags, stays=True)
    aws.cloud.ec2("ImportKeyPair", KeyName="mine", PublicKeyMaterial=public_key().encode())
    machine = run_machine(aws.cloud, aws.run, order, [placement])
    assert machine.name == "notebook"
    assert machine.expires_at is None
    assert machine.instance_id in aws.remains()
    [request] = aws.params("RunInstances")
    assert request["InstanceInitiatedShutdownBehavior"] == "stop"
    assert request["MetadataOptions"]["HttpPutResponseHopLimit"] == 2


def test_a_launched_spot_machine_is_terminated_by_a_power_off(aws: Aws) -> None:
    placement = aws.placement(market="spot")
    group_id = create_security_group(
        aws.cloud, aws.run, aws.run.lasting("n"), vpc_id=placement.vpc_id, cidr=MINE
    )
    run_machine(aws.cloud, aws.run, aws.order("mine", group_id, stays=True), [placement])
    [request] = aws.params("RunInstances")
    assert request["InstanceInitiatedShutdownBehavior"] == "terminate"


def test_a_launched_machine_that_does_not_start_is_terminated(aws: Aws) -> None:
    aws.cut("RunInstances", KeyboardInterrupt())
    placement = aws.placement()
    [group_id] = [name for name in aws.at_first if name.startswith("sg-")]
    with pytest.raises(KeyboardInterrupt):
        run_machine(aws.cloud, aws.run, aws.order("mine", group_id, stays=True), [placement])
    assert aws.remains() == set()
