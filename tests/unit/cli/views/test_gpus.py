"""GPU machines and quotas as people read them, on 80 columns, and as documents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from bake.aws.quota import IncreaseRequest, Quota, QuotaRequest
from bake.cli.views.gpus import show_gpus, show_increase, show_quotas
from bake.console.console import Console
from bake.errors import CloudError, RequestError
from bake.machine.gpus import (
    Offer,
    Survey,
    find_type,
    find_type_of_region,
    quota_code_to_raise,
    quota_codes,
)
from tests.support.aws_in_process import aws_in_process
from tests.support.documents import document_of
from tests.support.offers import CATALOG, TYPES, offer
from tests.support.terminal import shown_in_terminal

NOW = datetime(2026, 11, 21, 6, 30, tzinfo=UTC)
G, P, G_SPOT = "L-DB2E81BA", "L-417A185B", "L-3819A6DF"
STANDARD, STANDARD_SPOT = "L-1216C47A", "L-34B43A08"
QUOTAS: dict[str, Quota | CloudError] = {
    G: Quota(G, "Running On-Demand G and VT instances", 64, 4),
    P: Quota(P, "Running On-Demand P instances", 0, 0),
    G_SPOT: Quota(G_SPOT, "All G and VT Spot Instance Requests", 8, 0),
}
EVERY = [
    offer(name, 113.9328 if number % 2 else 0.526, 100.1234, left=10**number)
    for number, name in enumerate(
        ["g4dn.xlarge", "g7e.48xlarge", "p6-b200.48xlarge", "g5.xlarge", "p5en.48xlarge"]
    )
]
COMMAND = "invoke quota"


def lines_of(show: Callable[[], None], columns: int = 80) -> list[str]:
    lines = shown_in_terminal(show, columns).splitlines()
    assert all(len(line) <= columns for line in lines), lines
    return lines


def shown(
    *offers: Offer,
    refusals: Sequence[CloudError] = (),
    priced: bool = True,
    columns: int = 80,
) -> list[str]:
    found = Survey(tuple(offers), QUOTAS, tuple(refusals))
    known = found if priced else replace(found, priced=frozenset())
    return lines_of(lambda: show_gpus(Console(), known, COMMAND), columns)


def test_a_machine_is_one_line() -> None:
    lines = shown(offer("g4dn.xlarge", 0.526, 0.1578, left=2))
    assert lines[:2] == [
        "type         n  GPU  GB  cap  CUDA       left    $/h    spot  $/h GPU",
        "g4dn.xlarge  1  T4   16  7.5  10.0-13.3  2/2   0.526  0.1578   0.1578",
    ]
    assert "on-demand/spot" in " ".join(lines[2:])


def test_the_widest_of_all_fit_and_are_whole() -> None:
    lines = shown(*EVERY)
    text = "\n".join(lines)
    for each in EVERY:
        [line] = [line for line in lines[1:] if line.startswith(each.machine.name)]
        assert (f"{each.cuda[0]}-{each.cuda[-1]}" if each.cuda else "none") in line.split()
        assert {"113.93", "0.526"} & set(line.split())
    assert "99+/99+" in text
    assert "RTX PRO" in text


def test_all_of_the_catalog_fits() -> None:
    """Whatever there is, with the longest figures."""
    lines = shown(*(offer(name, 113.9328, 100.1234, left=1000) for name in TYPES))
    assert len([line for line in lines[1:] if line.split()[0] in TYPES]) == len(TYPES)


def test_what_is_not_offered_or_not_sold_so_is_said() -> None:
    nowhere, old = offer("p5e.48xlarge"), offer("p2.xlarge")
    lines = shown(replace(nowhere, zones=()), replace(old, zones=()), offer("g5.xlarge", 1.006))
    assert lines[1].split()[-5:-1] == ["not", "here", "-", "-"]
    assert lines[2].split()[-4:-1] == ["retired", "-", "-"]
    assert lines[3].split()[-3:-1] == ["1.006", "-"]


def test_what_is_not_known_is_a_question_mark_with_its_reason() -> None:
    denied = CloudError("AWS refused pricing:GetProducts", code="AccessDeniedException")
    hidden = replace(offer("g5.xlarge", left=None), zones=None)
    lines = shown(hidden, refusals=[denied], priced=False)
    assert lines[1].split()[6:9] == ["?", "?", "?"]
    assert lines[-1] == "! ? means unknown: AWS refused pricing:GetProducts (AccessDeniedException)"


def test_a_quota_without_room_says_how_to_ask_for_more() -> None:
    lines = shown(offer("g4dn.xlarge"), offer("p4d.24xlarge"))
    assert "  invoke quota --type p4d.24xlarge --raise 96" in lines
    assert not [line for line in lines if "--type g4dn" in line]
    lines = shown(offer("g4dn.4xlarge"))
    assert "  invoke quota --type g4dn.4xlarge --spot --raise 16" in lines


def test_a_quota_that_nobody_knows_is_said() -> None:
    assert "p6-b200" in shown(offer("p6-b200.48xlarge"))[-1]


def test_a_wide_terminal_has_more() -> None:
    head, line, *_ = shown(offer("g7e.48xlarge", 16.0, 4.0), columns=150)
    assert head.split()[-6:] == ["spot", "in", "vCPU", "RAM", "GB", "zones"]
    assert "RTX PRO 6000" in line
    assert line.split()[-5:] == ["0.50", "us-east-1a", "192", "2048", "a"]


def test_the_document_has_everything(capsys: pytest.CaptureFixture[str]) -> None:
    found = Survey((offer("g4dn.xlarge", 0.526, 0.2, 2),), QUOTAS)
    document = document_of(lambda console: show_gpus(console, found, COMMAND), capsys)
    [machine] = document["offers"]
    assert document["unknown"] == []
    assert (machine["gpu"], machine["gpu_count"], machine["gpu_memory_gb"]) == ("T4", 1, 16)
    assert machine["cuda_versions"][0] == "10.0"
    assert (machine["on_demand_usd_per_hour"], machine["spot_usd_per_hour"]) == (0.526, 0.2)
    assert machine["on_demand_quota"] == {
        "code": G,
        "name": "Running On-Demand G and VT instances",
        "vcpus": 64,
        "used_vcpus": 4,
        "machines_left": 2,
    }


def test_none_are_said() -> None:
    assert shown() == [
        "No such GPU machine. Leave out a filter, or show retired families too: --all"
    ]


# ---- quotas


def request(status: str = "PENDING", vcpus: int = 96, **more: str) -> QuotaRequest:
    return QuotaRequest("id", P, vcpus, status, NOW - timedelta(days=3), **more)


def test_quotas_are_listed_with_what_was_asked_for() -> None:
    asked: dict[str, list[QuotaRequest] | CloudError] = {
        G: [],
        P: [request("CASE_OPENED", case_id="1234567890")],
        G_SPOT: [request("NOT_APPROVED"), request()],
    }
    show = partial(show_quotas, Console(), CATALOG, QUOTAS, asked, NOW, None, COMMAND)
    assert lines_of(show) == [
        "quota                                 vCPUs  in use  request",
        "Running On-Demand G and VT instances     64       4  -",
        "Running On-Demand P instances             0       0  96: case open, 3 d ago",
        "All G and VT Spot Instance Requests       8       0  96: not approved, 3 d ago",
        "To request an increase of a quota to N vCPUs in all:",
        "  invoke quota --type g4dn.xlarge [--spot] --raise N",
    ]


def test_a_quota_is_said_in_machines_too() -> None:
    machine = TYPES["g4dn.4xlarge"]
    lines = lines_of(
        lambda: show_quotas(Console(), CATALOG, {G: QUOTAS[G]}, {G: []}, NOW, machine, COMMAND)
    )
    assert "Running On-Demand G and VT instances: 64 vCPUs (4 × g4dn.4xlarge)" in lines
    assert lines[-1].endswith("--type g4dn.4xlarge [--spot] --raise N")


def test_a_quota_that_is_hidden_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    denied = CloudError("AWS refused servicequotas:GetServiceQuota", code="AccessDenied")
    lines = lines_of(
        lambda: show_quotas(Console(), CATALOG, {G: denied}, {G: denied}, NOW, None, COMMAND)
    )
    assert lines[1].split()[:4] == [G, "?", "?", "?"]
    assert [line for line in lines if "GetServiceQuota" in line] == [lines[-1]]
    hidden = {G: denied}
    found = document_of(
        lambda console: show_quotas(console, CATALOG, hidden, hidden, NOW, None, COMMAND), capsys
    )
    [document] = found["quotas"]
    [reason] = found["unknown"]
    assert reason["code"] == "AccessDenied"
    assert (document["code"], document["vcpus"], document["requests"]) == (G, None, None)
    assert "g4dn" in document["families"]


@pytest.mark.parametrize("made", [True, False])
def test_what_was_asked_for_is_said_in_machines(
    capsys: pytest.CaptureFixture[str], made: bool
) -> None:
    quota = QUOTAS[P]
    assert isinstance(quota, Quota)
    increase, machine = IncreaseRequest(request(), made), TYPES["p4d.24xlarge"]
    lines = lines_of(lambda: show_increase(Console(), CATALOG, increase, quota, machine))
    what = "Requested an increase of" if made else "An increase is already pending for"
    assert lines[0].startswith(what)
    assert "from 0 to 96 vCPUs (1 × p4d.24xlarge)" in lines[1]
    assert "pending" in lines[2]
    document = document_of(
        lambda console: show_increase(console, CATALOG, increase, quota, machine), capsys
    )
    assert document["is_new_request"] is made
    assert document["quotas"][0]["requests"][0]["vcpus"] == 96


def test_a_type_and_a_family_are_meant_by_their_names() -> None:
    assert find_type(CATALOG, "g4dn.metal") == TYPES["g4dn.metal"]
    assert find_type(CATALOG, "g7e") == TYPES["g7e.2xlarge"]
    assert find_type(CATALOG, "m7i.large") is None


def test_a_type_that_only_ec2_knows_is_found_by_its_name_or_its_family() -> None:
    with aws_in_process() as aws:
        machine = find_type_of_region(aws.cloud, CATALOG, "m7i.2xlarge")
        assert (machine.name, machine.vcpus) == ("m7i.2xlarge", 8)
        assert find_type_of_region(aws.cloud, CATALOG, "m7i").name == "m7i.large"
        assert quota_codes(machine, spot=False) == {STANDARD: "on-demand", STANDARD_SPOT: "spot"}
        for word, near in (("g4dn.xlarg", "g4dn.xlarge"), ("g4d", "g4dn")):
            with pytest.raises(RequestError, match="us-east-1 offers no") as caught:
                find_type_of_region(aws.cloud, CATALOG, word)
            assert near in caught.value.hint


def test_the_families_of_a_quota_without_gpus_are_named_by_their_letters() -> None:
    quotas = {STANDARD: Quota(STANDARD, "Running On-Demand Standard instances", 5, 0)}
    machine = replace(TYPES["g5.xlarge"], name="m7i.large", vcpus=2)
    lines = lines_of(
        lambda: show_quotas(
            Console(), CATALOG, quotas, {STANDARD: []}, NOW, machine, "invoke quota"
        ),
        columns=120,
    )
    assert any("a c d h i im is m r t z" in line for line in lines)
    assert "Running On-Demand Standard instances: 5 vCPUs (2 × m7i.large)" in lines


def test_a_type_has_the_quotas_of_its_markets() -> None:
    assert quota_codes(TYPES["g5.xlarge"], spot=False) == {G: "on-demand", G_SPOT: "spot"}
    assert quota_codes(TYPES["g5.xlarge"], spot=True) == {G_SPOT: "spot"}
    assert set(quota_codes(None, spot=True).values()) == {"spot"}
    assert len(quota_codes(None, spot=False)) == 5


def test_a_value_that_would_start_none_is_refused_in_vcpus() -> None:
    machine = TYPES["p4d.24xlarge"]
    assert quota_code_to_raise(machine, 96, COMMAND, spot=False) == P
    with pytest.raises(RequestError, match=r"one p4d\.24xlarge has 96") as caught:
        quota_code_to_raise(machine, 8, "invoke quota --type p4d.24xlarge", spot=False)
    assert caught.value.hint == "invoke quota --type p4d.24xlarge --raise 96"
    with pytest.raises(RequestError, match="is unknown"):
        quota_code_to_raise(TYPES["p6-b200.48xlarge"], 192, COMMAND, spot=True)
