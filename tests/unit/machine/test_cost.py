"""The cost of machines: the arithmetic, and the requests to AWS for it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from bake.aws import price
from bake.aws.launch import run_machine
from bake.aws.machine import Machine, machines, stop
from bake.aws.price import _PriceCache
from bake.machine.cost import Disk, describe, find_costs
from tests.support.aws_in_process import Aws, aws_in_process
from tests.support.costs import DISKS, NOW, of


def test_a_machine_costs_for_the_time_since_its_launch() -> None:
    mine = of()
    assert mine.since_launch == pytest.approx(3 * 0.526)
    assert mine.disks_per_month == pytest.approx(72 * 0.08)
    assert describe(mine) == "$0.526 an hour, $1.58 since its launch"


def test_the_cost_of_a_spot_machine_is_marked_as_approximate() -> None:
    assert describe(of(0.1578, market="spot")) == (
        "about $0.1578 an hour, about $0.47 since its launch"
    )


def test_a_machine_in_a_capacity_block_costs_nothing_more() -> None:
    mine = of(98.32, prepaid=True)
    assert (mine.per_hour, mine.since_launch, mine.disks_gb) == (0, 0, 72)
    assert describe(mine) == "paid for in advance"
    assert "disks" in describe(of(98.32, prepaid=True, state="stopped"))


@pytest.mark.parametrize("seconds", [-30, 0, 59])
def test_ec2_bills_at_least_a_minute(seconds: int) -> None:
    """Also if the clock is a little behind EC2's, so that the time is negative."""
    assert of(6.0, launched_at=NOW - timedelta(seconds=seconds)).since_launch == 0.1


@pytest.mark.parametrize("state", ["stopping", "stopped"])
def test_a_stopped_machine_costs_what_its_disks_cost(state: str) -> None:
    mine = of(state=state)
    assert mine.since_launch is None
    assert describe(mine) == "$5.76 a month for its disks (72 GB)"


@pytest.mark.parametrize("state", ["shutting-down", "terminated"])
def test_the_disks_of_a_terminated_machine_cost_nothing(state: str) -> None:
    mine = of(state=state)
    assert (mine.disks_gb, mine.disks_per_month, mine.since_launch) == (0, 0, None)
    assert describe(mine) == "nothing: it is terminated"


def test_without_a_price_the_cost_is_unknown() -> None:
    assert describe(of(None)) == "price unknown"
    assert of(disks=None).disks_per_month is None
    assert of(disks=[*DISKS, Disk("io2", 4)]).disks_per_month is None
    assert describe(of(disks=None, state="stopped")) == "price unknown, for its disks"
    assert describe(of(0.0)) == "$0.00 an hour, $0.00 since its launch"


# ---- what AWS is asked


@pytest.fixture
def aws() -> Iterator[Aws]:
    with aws_in_process() as aws:
        yield aws


def launched(aws: Aws, market: str = "on-demand") -> Machine:
    order = aws.order("key", "sg-1")
    return run_machine(aws.cloud, aws.run, order, [aws.placement(market=market)])


@pytest.fixture
def prices(aws: Aws) -> _PriceCache:
    """Fill the cache of prices, since moto has no Price List."""
    known = price._cache_of(aws.cloud)
    known.prices[aws.cloud.region, "g4dn.xlarge"] = 0.526
    for kind in ("gp2", "gp3"):
        key = (("productFamily", "Storage"), ("volumeApiName", kind))
        known.prices[aws.cloud.region, *key] = 0.08
    return known


def test_the_prices_of_all_machines_are_requested_at_once(aws: Aws, prices: _PriceCache) -> None:
    ordered, on_spot = launched(aws), launched(aws, "spot")
    prices.spot[aws.cloud.region, "g4dn.xlarge"] = {ordered.zone: 0.2}
    aws.sent.clear()
    found = find_costs(aws.cloud, machines(aws.cloud))
    assert sorted(aws.sent) == ["DescribeInstances", "DescribeVolumes"]
    assert found.refusals == ()
    one, other = found.of[ordered.instance_id], found.of[on_spot.instance_id]
    assert (one.per_hour, one.about, other.per_hour, other.about) == (0.526, False, 0.2, True)
    sizes = {v["Size"] for v in aws.cloud.ec2("DescribeVolumes")["Volumes"]}
    assert {one.disks_gb, other.disks_gb} == sizes
    assert one.disks_per_month == pytest.approx((one.disks_gb or 0) * 0.08)


def test_the_disks_of_a_stopped_machine_are_requested_too(aws: Aws, prices: _PriceCache) -> None:
    mine = launched(aws)
    stop(aws.cloud, mine.instance_id)
    [found] = find_costs(aws.cloud, machines(aws.cloud)).of.values()
    assert not found.runs
    assert found.disks_per_month


def test_a_machine_in_a_capacity_block_is_known_by_its_lifecycle(aws: Aws) -> None:
    launched(aws)

    def in_a_block(answer: dict[str, Any]) -> None:
        answer["Reservations"][0]["Instances"][0]["InstanceLifecycle"] = "capacity-block"

    aws.alter("DescribeInstances", in_a_block)
    [mine] = machines(aws.cloud)
    assert (mine.market, mine.prepaid) == ("on-demand", True)


def test_a_denied_request_is_reported_and_the_other_costs_are_shown(
    aws: Aws, prices: _PriceCache
) -> None:
    launched(aws)
    aws.refuse("DescribeVolumes", "UnauthorizedOperation")
    found = find_costs(aws.cloud, machines(aws.cloud))
    [mine] = found.of.values()
    assert (mine.per_hour, mine.disks_gb) == (0.526, None)
    assert [error.code for error in found.refusals] == ["UnauthorizedOperation"]


def test_without_machines_nothing_is_requested(aws: Aws) -> None:
    aws.sent.clear()
    assert find_costs(aws.cloud, []).of == {}
    assert aws.sent == []
