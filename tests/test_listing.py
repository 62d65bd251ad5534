"""Lists as people read them, on 80 columns, and as documents."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from bake.aws.checkpoint import Checkpoint
from bake.console import Console
from bake.listing import show_checkpoints

NOW = datetime(2026, 11, 21, 6, 30, tzinfo=UTC)
ONE = Checkpoint(
    snapshot_id="snap-0123456789abcdef0",
    state="completed",
    progress="100%",
    size_gb=64,
    started_at=NOW - timedelta(hours=5),
    expires_at=NOW + timedelta(days=29, hours=3),
    recipe="mxnet-cu101",
    run_id="20261121-013000-abcdef",
    stages={"cuda": "c", "base": "b", "drivers": "d"},
    seconds={"base": 12.0, "drivers": 70.3, "cuda": 300.0},
    sound=True,
)


def shown(capsys: pytest.CaptureFixture[str], *found: Checkpoint, price: float | None) -> list[str]:
    show_checkpoints(Console(), found, price, NOW)
    lines = capsys.readouterr().err.splitlines()
    assert all(len(line) <= 80 for line in lines), lines
    return [line.rstrip() for line in lines]


def test_a_checkpoint_is_shown_with_what_it_holds_and_costs_at_most(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = shown(capsys, ONE, price=0.05)
    assert lines[0].split() == ["checkpoint", "recipe", "holds", "age", "expires", "USD/month"]
    assert lines[1].split() == [
        "snap-0123456789abcdef0", "mxnet-cu101", "base", "drivers", "5", "h", "29", "d", "3.20",
    ]  # fmt: skip
    assert lines[2].split() == ["cuda"], "in the order in which they ran"
    assert "the most that it can be" in " ".join(lines[3:])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"sound": False}, "(tags changed by hand)"),
        ({"state": "pending", "progress": "42%"}, "(pending 42%)"),
        ({"state": "error"}, "(error)"),
        ({"expires_at": NOW}, "now"),
        ({"expires_at": None}, "never"),
        ({"expires_at": NOW + timedelta(minutes=3)}, "3 min"),
        ({"recipe": "mxnet-cu118-debian12-for-everybody"}, "mxnet-cu118- everybody"),
        ({"stages": {}, "seconds": {}}, "?"),
    ],
)
def test_what_is_unusual_is_said_on_80_columns_too(
    capsys: pytest.CaptureFixture[str], change: dict[str, object], says: str
) -> None:
    lines = shown(capsys, replace(ONE, **change), price=None)  # type: ignore[arg-type]
    assert set(says.split()) <= {word for line in lines for word in line.split()}
    assert lines[1].startswith(ONE.snapshot_id)
    assert lines[1].endswith("?"), "the price is not known"


def test_no_checkpoints_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    [line] = shown(capsys, price=0.05)
    assert "You have no checkpoints here" in line


def test_the_document_has_all_of_a_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    show_checkpoints(Console(json=True), [ONE], 0.05, NOW)
    out = capsys.readouterr()
    [document] = json.loads(out.out)
    assert out.err == ""
    assert document["snapshot_id"] == ONE.snapshot_id
    assert document["stages"] == {"cuda": "c", "base": "b", "drivers": "d"}
    assert document["usd_per_month_at_most"] == 3.2
    show_checkpoints(Console(json=True), [ONE], None, NOW)
    assert json.loads(capsys.readouterr().out)[0]["usd_per_month_at_most"] is None
