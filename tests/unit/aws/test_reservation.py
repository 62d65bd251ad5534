"""Capacity reservations: which of them a launch can use."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from bake.aws.placement_search import find_placements
from bake.aws.reservation import Reservation, find_reservation
from bake.errors import CloudError, RequestError
from tests.support.aws_in_process import REGION, Aws, aws_in_process

ID = "cr-0123456789abcdef0"


@pytest.fixture
def aws() -> Iterator[Aws]:
    with aws_in_process() as aws:
        yield aws


def reserved(aws: Aws, **more: Any) -> str:
    """Create a reservation for two machines in one zone; `more` are further members for it."""
    made = aws.cloud.ec2(
        "CreateCapacityReservation",
        InstanceType="g4dn.xlarge",
        InstancePlatform="Linux/UNIX",
        AvailabilityZone=f"{REGION}b",
        InstanceCount=2,
    )["CapacityReservation"]
    aws.alter(
        "DescribeCapacityReservations",
        lambda answer: answer["CapacityReservations"][0].update(more),
    )
    return str(made["CapacityReservationId"])


def test_a_reservation_with_capacity_is_returned(aws: Aws) -> None:
    name = reserved(aws)
    assert find_reservation(aws.cloud, name) == Reservation(name, "g4dn.xlarge", f"{REGION}b")


def test_a_capacity_block_is_recognized(aws: Aws) -> None:
    assert find_reservation(aws.cloud, reserved(aws, ReservationType="capacity-block")).block


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ({"State": "expired"}, "is expired, not active"),
        (
            {"State": "scheduled", "StartDate": datetime(2026, 12, 1, 11, 30, tzinfo=UTC)},
            "It starts at 2026-12-01T11:30:00Z",
        ),
        ({"AvailableInstanceCount": 0}, "is full: 2 of 2 are in use"),
        ({"InstancePlatform": "Windows"}, "is for Windows"),
        ({"Tenancy": "dedicated"}, "dedicated hardware"),
        ({"Interruptible": True}, "is interruptible"),
    ],
)
def test_an_unusable_reservation_is_a_request_error(
    aws: Aws, what: dict[str, Any], says: str
) -> None:
    name = reserved(aws, **what)
    with pytest.raises(RequestError) as refused:
        find_reservation(aws.cloud, name)
    assert says in f"{refused.value.message}. {refused.value.hint}"


def test_a_cancelled_reservation_is_a_request_error(aws: Aws) -> None:
    name = reserved(aws)
    aws.cloud.ec2("CancelCapacityReservation", CapacityReservationId=name)
    with pytest.raises(RequestError, match="is cancelled, not active"):
        find_reservation(aws.cloud, name)


@pytest.mark.parametrize("code", ["NotFound", "Malformed"])
def test_an_unknown_reservation_is_a_request_error(aws: Aws, code: str) -> None:
    aws.refuse("DescribeCapacityReservations", f"InvalidCapacityReservationId.{code}")
    with pytest.raises(RequestError, match=f"reservation {ID} not found in {REGION}"):
        find_reservation(aws.cloud, ID)


def test_another_error_of_aws_is_raised(aws: Aws) -> None:
    aws.refuse("DescribeCapacityReservations", "UnauthorizedOperation")
    with pytest.raises(CloudError) as refused:
        find_reservation(aws.cloud, ID)
    assert "ec2:DescribeCapacityReservations" in refused.value.hint


class Image:
    architecture = "x86_64"
    boot_mode = None
    ena = True


def test_a_reservation_allows_its_zone_whatever_the_quota_is(aws: Aws) -> None:
    """A reservation already counts towards the quota, a Capacity Block does not count at all."""
    aws.quotas["L-DB2E81BA"] = 0
    types, reservation = ["g4dn.xlarge"], Reservation(ID, "g4dn.xlarge", f"{REGION}b")
    without = find_placements(aws.cloud, types, market="on-demand", image=Image())
    assert without.placements == ()
    found = find_placements(
        aws.cloud, types, market="on-demand", image=Image(), reservation=reservation
    )
    [place] = found.placements
    assert (place.zone, place.reservation) == (f"{REGION}b", reservation)
    assert str(place) == f"g4dn.xlarge in {REGION}b ({ID})"
    assert found.findings == ()


def test_a_subnet_in_another_zone_than_the_reservation_is_a_finding(aws: Aws) -> None:
    found = find_placements(
        aws.cloud,
        ["g4dn.xlarge"],
        market="on-demand",
        image=Image(),
        subnet_id=aws.placement(zone="a").subnet_id,
        reservation=Reservation(ID, "g4dn.xlarge", f"{REGION}b"),
    )
    assert found.placements == ()
    [finding] = found.findings
    assert f"offered in {REGION}b, but the subnets are in {REGION}a" in finding.message


def test_a_capacity_block_needs_a_type_that_supports_it(aws: Aws) -> None:
    def only_blocks(answer: dict[str, Any]) -> None:
        for each in answer["InstanceTypes"]:
            each["SupportedUsageClasses"] = ["capacity-block"]

    aws.alter("DescribeInstanceTypes", only_blocks)
    for block, count in ((True, 1), (False, 0)):
        reservation = Reservation(ID, "g4dn.xlarge", f"{REGION}b", block=block)
        found = find_placements(
            aws.cloud, ["g4dn.xlarge"], market="on-demand", image=Image(), reservation=reservation
        )
        assert len(found.placements) == count
