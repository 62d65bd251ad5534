"""Machines as people read them, on 80 columns, and as documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from bake.aws.machine import Machine
from bake.aws.tags import EXPIRES, TTL, USED_BY
from bake.cli.views.machines import show_machines, totals
from bake.console.console import Console
from bake.errors import CloudError
from bake.machine.cost import Cost, Costs
from tests.support.costs import MACHINE, NOW, of
from tests.support.documents import document_of
from tests.support.terminal import shown_in_terminal

MINE = replace(MACHINE, name="mxnet-cu101-a1b2c3", tags={TTL: "12h"}, address="203.0.113.205")
SPOT = replace(MINE, instance_id="i-2", name="second-with-a-rather-long-name", market="spot")
OLD = replace(MINE, instance_id="i-3", name="old", state="stopped", address=None)
GONE = replace(
    MINE, instance_id="i-4", name="x" * 60, state="shutting-down", instance_type="p6-b200.48xlarge"
)
ALL = [
    (MINE, of(0.526)),
    (SPOT, of(0.1578, market="spot")),
    (OLD, of(0.526, state="stopped")),
    (GONE, of(113.9328, state="shutting-down")),
]


def shown(
    *those: tuple[Machine, Cost], refusals: Sequence[CloudError] = (), columns: int = 80
) -> list[str]:
    costs = Costs({machine.instance_id: cost for machine, cost in those}, tuple(refusals))
    machines = [machine for machine, _ in those]
    lines = shown_in_terminal(
        lambda: show_machines(Console(), machines, NOW, costs), columns
    ).splitlines()
    assert all(len(line) <= columns for line in lines), lines
    return lines


def test_a_machine_is_one_line() -> None:
    lines = shown(ALL[0], ALL[2])
    assert lines == [
        "machine             state    type         address        left    $/h  $ so far",
        "mxnet-cu101-a1b2c3  running  g4dn.xlarge  203.0.113.205  9 h   0.526      1.58",
        "old                 stopped  g4dn.xlarge  -              -     disks   5.76/mo",
        "Running: $0.526 an hour, $1.58 since they were started.",
        "Stopped: their disks cost $5.76 a month.",
    ]


def test_nothing_is_cut_where_there_is_no_room() -> None:
    lines = shown(*ALL)
    text = "\n".join(lines)
    for whole in ("203.0.113.205", "p6-b200.48xlarge", "0.1578", "~0.47", "5.76/mo", "stopped"):
        assert whole in text
    assert text.count("x") - text.count("xlarge") - text.count("mxnet") == 60
    columns = [line[: lines[0].index("state")].strip() for line in lines[1:-2]]
    assert "second-with-a-rather-long-name" in "".join(columns)
    assert lines[-2] == "Running: $0.6838 an hour, about $2.05 since they were started."


def test_a_wide_terminal_has_more_and_folds_nothing() -> None:
    head, line, *_ = shown(ALL[1], columns=140)
    assert head.split()[-2:] == ["zone", "id"]
    assert "g4dn.xlarge spot" in line
    assert line.split()[-2:] == [SPOT.zone, "i-2"]


def test_a_machine_without_an_end_says_so() -> None:
    forever = replace(MINE, tags={TTL: "never"})
    assert "never" in shown((forever, of()))[1].split()


def test_what_is_not_known_is_a_question_mark_with_its_reason() -> None:
    denied = CloudError("AWS refused pricing:GetProducts", code="AccessDeniedException")
    unknown = (MINE, of(None)), (OLD, of(None, None, state="stopped"))
    lines = shown(*unknown, refusals=[denied, denied])
    assert lines[1].split()[-2:] == ["?", "?"]
    assert lines[2].split()[-2:] == ["disks", "?"]
    assert lines[3:] == [
        "! ? means unknown: AWS refused pricing:GetProducts (AccessDeniedException)"
    ]


def test_what_is_paid_for_already_says_so() -> None:
    block = replace(MINE, prepaid=True)
    assert shown((block, of(98.32, prepaid=True)))[1].split()[-2:] == ["paid", "-"]


def test_a_sum_that_is_not_all_says_so() -> None:
    assert totals([of(0.5), of(None), of(state="stopped"), of(disks=None, state="stopped")]) == [
        "Running: at least $0.50 an hour, at least $1.50 since they were started.",
        "Stopped: their disks cost at least $5.76 a month.",
    ]
    assert totals([of(None)]) == []


def test_machines_of_a_bake_and_of_a_bench_are_marked(capsys: pytest.CaptureFixture[str]) -> None:
    builder = replace(MINE, name="bake-20261121-060000-a1b2c3", tags={EXPIRES: "2026-11-21"})
    bench = replace(MINE, instance_id="i-5", name="bench-g4dn", tags={USED_BY: "bench"})
    text = " ".join("\n".join(shown((builder, of()), (bench, of()), ALL[0])).split())
    assert (text.count("(builder)"), text.count("(bench)")) == (1, 1)
    these = [builder, bench, MINE]
    costs = Costs({m.instance_id: of() for m in these})
    found = document_of(lambda console: show_machines(console, these, NOW, costs), capsys)
    assert [each["used_by"] for each in found["machines"]] == ["bake", "bench", None]


def test_the_document_has_figures(capsys: pytest.CaptureFixture[str]) -> None:
    costs = Costs({machine.instance_id: cost for machine, cost in ALL})
    these = [machine for machine, _ in ALL]
    found = document_of(lambda console: show_machines(console, these, NOW, costs), capsys)
    mine, spot, old, gone = found["machines"]
    assert (mine["usd_per_hour"], mine["usd_since_launch"]) == (0.526, 1.578)
    assert mine["price_is_approximate"] is False
    assert mine["time_left_s"] == timedelta(hours=9).total_seconds()
    assert spot["price_is_approximate"] is True
    assert (old["usd_since_launch"], old["disks_usd_per_month"]) == (None, 5.76)
    assert gone["disks_usd_per_month"] == 0
    assert old["time_left_s"] is None


def test_no_machines_are_said() -> None:
    [line] = shown()
    assert "You have no machines here" in line
