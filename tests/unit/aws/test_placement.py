"""Placements: when the next one is tried, and their order by price."""

from __future__ import annotations

import pytest

from bake.aws.client.errors import hint_for
from bake.aws.placement import (
    NEXT,
    Market,
    Placement,
    cheapest_first,
    first_with_capacity,
)
from bake.aws.reservation import Reservation
from bake.errors import CapacityError, CloudError


def at(instance_type: str, zone: str, market: Market = "on-demand") -> Placement:
    return Placement(instance_type, zone, f"subnet-{zone}", "vpc-1", market)


class Ec2:
    """An EC2 that answers each placement with an error code or an instance id."""

    def __init__(self, **codes: str) -> None:
        self.codes = codes
        self.tried: list[str] = []

    def start(self, placement: Placement) -> str:
        name = f"{placement.instance_type}_{placement.zone}"
        self.tried.append(name)
        if code := self.codes.get(name):
            raise CloudError("refused", code=code, reason=f"{code} in {placement.zone}")
        return f"i-{name}"


def test_the_first_placement_with_capacity_is_used() -> None:
    ec2 = Ec2()
    assert first_with_capacity([at("g5", "a"), at("g5", "b")], ec2.start) == "i-g5_a"
    assert ec2.tried == ["g5_a"]


@pytest.mark.parametrize("code", sorted(code for code in NEXT if NEXT[code] == "zone"))
def test_another_zone_is_tried_after_an_error_of_the_zone(code: str) -> None:
    refused: list[Placement] = []
    ec2 = Ec2(g5_a=code)
    started = first_with_capacity(
        [at("g5", "a"), at("g5", "b")],
        ec2.start,
        on_no_capacity=lambda placement, error: refused.append(placement),
    )
    assert started == "i-g5_b"
    assert refused == [at("g5", "a")]


@pytest.mark.parametrize("code", sorted(code for code in NEXT if NEXT[code] == "type"))
def test_an_error_of_the_type_skips_its_other_zones(code: str) -> None:
    ec2 = Ec2(g5_a=code)
    placements = [at("g5", "a"), at("g5", "b"), at("g4dn", "a")]
    assert first_with_capacity(placements, ec2.start) == "i-g4dn_a"
    assert ec2.tried == ["g5_a", "g4dn_a"]


def test_a_full_quota_of_one_market_does_not_affect_the_other() -> None:
    answers = iter(["VcpuLimitExceeded", ""])

    def start(placement: Placement) -> str:
        if code := next(answers):
            raise CloudError("refused", code=code)
        return placement.market

    assert first_with_capacity([at("g5", "a", "spot"), at("g5", "a")], start) == "on-demand"


@pytest.mark.parametrize("code", sorted(NEXT))
def test_each_error_after_which_another_placement_is_tried_has_a_hint(code: str) -> None:
    assert hint_for(code)


@pytest.mark.parametrize(
    "code",
    [
        "UnauthorizedOperation",
        "AccountDisabled",
        "Blocked",
        "Client.InvalidKMSKey.InvalidState",
        "InvalidKeyPair.NotFound",
        "InvalidParameterCombination",
        "OptInRequired",
        "PendingVerification",
        "VolumeLimitExceeded",
    ],
)
def test_an_error_that_no_placement_would_avoid_is_raised(code: str) -> None:
    ec2 = Ec2(g5_a=code)
    with pytest.raises(CloudError) as caught:
        first_with_capacity([at("g5", "a"), at("g5", "b")], ec2.start)
    assert not isinstance(caught.value, CapacityError)
    assert ec2.tried == ["g5_a"]


def test_without_capacity_the_error_lists_the_attempts() -> None:
    ec2 = Ec2(g5_a="InsufficientInstanceCapacity", g5_b="Unsupported")
    with pytest.raises(CapacityError, match="AWS refused all 2 placements") as caught:
        first_with_capacity([at("g5", "a"), at("g5", "b")], ec2.start)
    assert caught.value.details == (
        "g5 in a (on-demand): InsufficientInstanceCapacity: InsufficientInstanceCapacity in a",
        "g5 in b (on-demand): Unsupported: Unsupported in b",
    )


def test_the_error_has_the_hint_of_each_attempt_once() -> None:
    def start(placement: Placement) -> str:
        code = "VcpuLimitExceeded" if placement.instance_type == "g5" else "Unsupported"
        raise CloudError("refused", code=code, hint=f"Hint for {code}")

    with pytest.raises(CapacityError) as caught:
        first_with_capacity([at("g5", "a"), at("g4dn", "a"), at("g4dn", "b")], start)
    assert caught.value.hint == "Hint for VcpuLimitExceeded. Hint for Unsupported"
    with pytest.raises(CapacityError, match=r"AWS refused g4dn in a \(on-demand\)"):
        first_with_capacity([at("g4dn", "a")], start)


def test_a_placement_as_text() -> None:
    assert str(at("g5", "us-east-1a", "spot")) == "g5 in us-east-1a (spot)"
    reserved = Placement(
        "g5",
        "us-east-1a",
        "subnet-1",
        "vpc-1",
        "on-demand",
        Reservation("cr-1", "g5", "us-east-1a"),
    )
    assert str(reserved) == "g5 in us-east-1a (cr-1)"


def test_the_cheapest_per_gpu_comes_first_and_unknown_prices_last() -> None:
    one, four = at("g4dn.xlarge", "a"), at("g4dn.12xlarge", "a")
    spot, dear = at("g4dn.xlarge", "a", "spot"), at("g5.xlarge", "a", "spot")
    unknown, unheard = at("g6.xlarge", "a"), at("x9.xlarge", "a")
    usd = {one: 0.526, four: 3.912, spot: 0.16, dear: 0.53, unknown: None, unheard: 0.01}
    gpus = {"g4dn.xlarge": 1, "g4dn.12xlarge": 4, "g5.xlarge": 1, "g6.xlarge": 1}
    ranked = cheapest_first([unheard, unknown, one, four, spot, dear], usd, gpus)
    assert ranked == [spot, one, dear, four, unheard, unknown]


def test_placements_of_the_same_price_keep_their_order() -> None:
    """In the local cloud everything is free, so the requested order of the markets decides."""
    places = [at("g5", "b", "spot"), at("g5", "a", "spot"), at("g5", "a")]
    assert cheapest_first(places, dict.fromkeys(places, 0.0), {"g5": 1}) == places
