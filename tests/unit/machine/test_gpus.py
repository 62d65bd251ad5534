"""The list of GPU machines: facts of the catalog, and offers, quotas and prices of AWS."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from bake.aws import price
from bake.aws.quota import Quota, quota_code
from bake.errors import IncompatibleError, RequestError
from bake.machine import gpus
from bake.machine.gpus import (
    ORDERS,
    Filter,
    Survey,
    cuda_versions,
    exhausted_quotas,
    read_filter,
    survey,
)
from bake.recipe import recipes
from bake.recipe.project import built_in
from bake.recipe.resolved import resolve
from tests.support.aws_in_process import Aws, aws_in_process
from tests.support.offers import CATALOG, TYPES, offer


def names(**options: Any) -> list[str]:
    return [each.name for each in gpus.select_types(CATALOG, read_filter(CATALOG, **options))]


# ---- the catalog


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [
        ("g4dn.xlarge", "10.0", "13.3"),
        ("p3dn.24xlarge", "10.0", "12.9"),  # CUDA 13 has no code for Volta
        ("p2.xlarge", "10.0", "11.8"),  # no driver after 470 drives it
        ("p5.48xlarge", "11.8", "13.3"),
        ("g7e.2xlarge", "12.8", "13.3"),  # the open modules alone drive it
    ],
)
def test_a_machine_works_with_a_range_of_cuda(name: str, first: str, last: str) -> None:
    found = cuda_versions(CATALOG, TYPES[name])
    assert (found[0], found[-1]) == (first, last)
    known = list(CATALOG.cuda)
    assert list(found) == known[known.index(first) : known.index(last) + 1], "without a gap"


@pytest.mark.parametrize("name", ["g6f.large", "g5g.xlarge", "p6-b200.48xlarge"])
def test_no_cuda_is_listed_for_machines_on_which_no_image_works(name: str) -> None:
    assert cuda_versions(CATALOG, TYPES[name]) == ()


def test_the_machines_of_the_included_recipes_support_their_cuda() -> None:
    for each in recipes.all_recipes(built_in()):
        for name in each.builder.instance_types if each.cuda else ():
            assert each.cuda.version in cuda_versions(CATALOG, TYPES[name]), (each.name, name)


@pytest.mark.parametrize(
    ("name", "gb"),
    [
        ("g4dn.xlarge", 16),
        ("g5.xlarge", 24),
        ("g6e.xlarge", 48),
        ("p4d.24xlarge", 40),
        ("p5e.48xlarge", 141),
        ("p6-b200.48xlarge", 192),
    ],
)
def test_the_memory_of_a_gpu_is_shown_as_its_maker_states_it(name: str, gb: int) -> None:
    assert gpus.memory_gb(TYPES[name]) == gb


def test_each_filter_keeps_only_the_machines_that_match() -> None:
    assert {TYPES[name].gpu for name in names(gpu="t4, a10g")} == {"T4", "A10G"}
    assert {TYPES[name].family for name in names(gpu="rtx-pro-6000")} == {"g7e"}
    assert "g4dn.metal" in names(gpu="t4", count=8)
    assert {TYPES[name].gpus for name in names(count=4)} == {4}
    assert {TYPES[name].family for name in names(cuda="10.1")} == {"g4dn", "p3dn"}
    assert "g5.xlarge" in names(min_memory="24")
    assert "g4dn.xlarge" not in names(min_memory="16.5")
    assert names(only=["g5.xlarge", "g4dn.xlarge"], gpu="t4") == ["g4dn.xlarge"]


def test_retired_families_are_shown_only_on_request() -> None:
    assert not [name for name in names() if TYPES[name].retired]
    assert set(names(retired=True)) == set(TYPES)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"gpu": "l40"}, "L40S"),
        ({"cuda": "10.3"}, "10.2"),
        ({"min_memory": "lots"}, "Invalid --min-memory lots: it is a number"),
        ({"max_price": "-1"}, "Invalid --max-price -1: it is a number"),
        ({"max_price": "1e400"}, "Invalid --max-price 1e400: it is a number"),
        ({"count": -1}, "--count"),
        ({"order": "size"}, "memory"),
    ],
)
def test_an_invalid_filter_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError) as caught:
        read_filter(CATALOG, **options)
    assert says in f"{caught.value} {caught.value.hint}"


def test_a_recipe_or_an_image_keeps_the_machines_on_which_it_works() -> None:
    mxnet = recipes.find("mxnet-cu101", built_in())
    found = gpus.types_for_recipe(resolve(mxnet))
    assert {TYPES[name].family for name in found} == {"g4dn", "p3dn"}
    image: Any = SimpleNamespace(tags={}, architecture="arm64")
    assert {TYPES[name].family for name in gpus.types_for_image(CATALOG, image)} == {"g5g"}
    both = gpus.narrow_filter(Filter(only=frozenset(found)), ["g4dn.xlarge", "g5.xlarge"])
    assert both.only == {"g4dn.xlarge"}


def test_a_recipe_that_works_on_no_machine_is_refused_with_the_reason() -> None:
    mxnet = recipes.find("mxnet-cu101", built_in())
    nowhere = mxnet.model_copy(
        update={"framework": mxnet.framework.model_copy(update={"version": "9.9"})}
    )
    with pytest.raises(IncompatibleError, match="cannot"):
        gpus.types_for_recipe(resolve(nowhere))


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("price", ["g4dn.xlarge", "p4d.24xlarge", "g5.xlarge"]),
        ("spot", ["g5.xlarge", "g4dn.xlarge", "p4d.24xlarge"]),
        ("memory", ["p4d.24xlarge", "g5.xlarge", "g4dn.xlarge"]),
        ("gpu", ["g4dn.xlarge", "p4d.24xlarge", "g5.xlarge"]),
        ("left", ["g5.xlarge", "g4dn.xlarge", "p4d.24xlarge"]),
        ("type", ["g4dn.xlarge", "g5.xlarge", "p4d.24xlarge"]),
    ],
)
def test_machines_with_an_unknown_value_come_last(order: str, expected: list[str]) -> None:
    offers = [
        offer("g5.xlarge", None, 0.1, 4),
        offer("p4d.24xlarge", 32.0, None, None),
        offer("g4dn.xlarge", 0.5, 0.2, 1),
    ]
    assert [each.machine.name for each in sorted(offers, key=ORDERS[order])] == expected


def test_a_quota_without_room_is_named_with_the_smallest_machine() -> None:
    types = ["g5.2xlarge", "g6f.large", "g4dn.xlarge", "p4d.24xlarge"]
    offers = [offer(name) for name in types]
    found = Survey(
        tuple(offers),
        {
            "L-DB2E81BA": Quota("L-DB2E81BA", "G", 8, 8),
            "L-3819A6DF": Quota("L-3819A6DF", "G spot", 4, 0),
            "L-417A185B": Quota("L-417A185B", "P", 0, 0),
        },
    )
    assert [(q.code, market, m.name) for q, market, m in exhausted_quotas(found)] == [
        ("L-DB2E81BA", "on-demand", "g4dn.xlarge"),
        ("L-417A185B", "on-demand", "p4d.24xlarge"),
    ]


# ---- what AWS says


@pytest.fixture
def aws() -> Iterator[Aws]:
    with aws_in_process() as aws:
        aws.quotas |= {code: 0 for name in TYPES for m in gpus.MARKETS
                       if (code := quota_code(name, m)) and code not in aws.quotas}  # fmt: skip
        known = price._cache_of(aws.cloud)
        region = aws.cloud.region
        known.prices |= {(region, name): 0.5 for name in TYPES}
        yield aws


def looked(aws: Aws, **options: Any) -> Survey:
    return survey(aws.cloud, CATALOG, read_filter(CATALOG, **options))


def test_all_machines_are_listed_with_few_requests(aws: Aws) -> None:
    aws.sent.clear()
    found = looked(aws)
    assert sorted(set(aws.sent)) == [
        "DescribeInstanceTypeOfferings",
        "DescribeInstances",
        "DescribeSpotPriceHistory",
        "GetServiceQuota",
    ]
    assert len([name for name in aws.sent if name == "GetServiceQuota"]) == 5
    assert len(aws.sent) < 20, "moto's pages are small"
    by_name = {each.machine.name: each for each in found.offers}
    g4dn = by_name["g4dn.xlarge"]
    assert g4dn.zones
    assert "us-east-1a" in g4dn.zones
    assert g4dn.left == {"on-demand": 16, "spot": 16}
    assert (g4dn.on_demand, set(g4dn.spot)) == (0.5, set(g4dn.zones))
    assert by_name["p4d.24xlarge"].left == {"on-demand": 1, "spot": 0}
    assert by_name["p5e.48xlarge"].zones == ()
    assert found.refusals == ()


def test_machines_that_the_region_does_not_offer_can_be_left_out(aws: Aws) -> None:
    everywhere, here = looked(aws, gpu="h200"), looked(aws, gpu="h200", offered=True)
    assert {each.machine.family for each in everywhere.offers} == {"p5e", "p5en"}
    assert {each.machine.family for each in here.offers} == {"p5en"}


def test_a_price_limit_counts_in_either_market(aws: Aws) -> None:
    price._cache_of(aws.cloud).prices[aws.cloud.region, "g4dn.xlarge"] = 5.0
    price._cache_of(aws.cloud).spot = {
        (aws.cloud.region, name): {} for name in TYPES if name != "g4dn.xlarge"
    } | {(aws.cloud.region, "g4dn.xlarge"): {"us-east-1a": 0.2}}
    found = looked(aws, gpu="t4", count=1, max_price="0.3")
    assert [each.machine.name for each in found.offers] == ["g4dn.xlarge"]


@pytest.mark.parametrize("operation", ["DescribeInstanceTypeOfferings", "DescribeSpotPriceHistory"])
def test_a_denied_request_leaves_its_column_empty_and_is_reported(aws: Aws, operation: str) -> None:
    aws.refuse(operation, "UnauthorizedOperation")
    found = looked(aws, gpu="t4", count=1)
    assert found.offers
    assert [error.code for error in found.refusals] == ["UnauthorizedOperation"]
    if operation == "DescribeSpotPriceHistory":
        assert found.priced == {"on-demand"}
        assert all(each.spot == {} for each in found.offers)
    else:
        assert all(each.zones is None for each in found.offers)


def test_a_quota_that_cannot_be_read_is_unknown(aws: Aws) -> None:
    del aws.quotas["L-DB2E81BA"]
    found = looked(aws, gpu="t4", count=1)
    assert {each.left["on-demand"] for each in found.offers} == {None}
    assert [error.code for error in found.refusals] == ["AccessDeniedException"]


def test_a_missing_quota_of_types_that_the_region_does_not_offer_is_not_reported(aws: Aws) -> None:
    """A region has quotas only for the machines that it offers."""
    del aws.quotas["L-C4BD4855"]
    [p5e, p5en] = looked(aws, gpu="h200", order="type").offers
    assert (p5e.zones, p5e.left["spot"]) == ((), None)
    assert looked(aws, gpu="h200", only=["p5e.48xlarge"]).refusals == ()
    assert len(looked(aws, gpu="h200", only=["p5en.48xlarge"]).refusals) == 1
    assert p5en.zones


def test_an_empty_list_of_machines_makes_no_request(aws: Aws) -> None:
    aws.sent.clear()
    assert looked(aws, gpu="k80").offers == ()
    assert aws.sent == []
