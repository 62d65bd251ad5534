"""Plans as people read them, on 80 columns, and as documents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bake.aws.base_image import BaseImage
from bake.aws.placement import Placement
from bake.aws.tags import new_run
from bake.cli.views.plans import show_plans
from bake.console.console import Console
from bake.pipeline.job import Job
from bake.pipeline.preflight import PreflightResult
from bake.pipeline.preview import Preview
from bake.plan.changes import State, changes_of_the_image, reasons
from bake.plan.forecast import Past, forecast
from bake.plan.script import Reboots
from tests.support.documents import document_of
from tests.support.plans import BASE, changed, plan_of, tags_of
from tests.support.terminal import shown_in_terminal

NO_CONTEXT: Any = None  # a view does not use it
UBUNTU = BaseImage(
    image_id="ami-0dba2cb6798deb6d8",
    name="ubuntu/images/hvm-ssd/ubuntu-bionic-18.04-amd64-server-20230607",
    architecture="x86_64",
    root_device_name="/dev/sda1",
    size_gb=8,
    created_at=datetime(2023, 6, 7, tzinfo=UTC),
    deprecated=True,
    boot_mode=None,
    ena=True,
)
ZONES = tuple(
    Placement("g4dn.xlarge", f"us-west-2{zone}", f"subnet-{zone}", "vpc-1", "on-demand")
    for zone in "ab"
)


def show(
    console: Console, *, usd: float | None = 0.526, reboots: Mapping[str, Reboots] | None = None
) -> None:
    """A plan with another cuda script and more packages than the last image's."""
    before = plan_of(BASE, base=UBUNTU.image_id)
    parts = changed(BASE, "cuda", body=b"another")
    inputs = {"FRAMEWORK_VERSION": "1.8.0", "PIP": "mxnet==1.8\nnumpy<2"}
    plan = plan_of(changed(parts, "mxnet", inputs=inputs), base=UBUNTU.image_id, disk_gb=96)
    stages = [
        replace(stage, script=replace(stage.script, reboots=(reboots or {}).get(stage.name, "no")))
        for stage in plan.stages
    ]
    plan = replace(plan, stages=tuple(stages))
    digests = {stage.name: stage.digest for stage in before.stages}
    states: dict[str, State] = {
        stage.name: "from checkpoint" if stage.digest == digests[stage.name] else "to run"
        for stage in plan.stages
    }
    times = {"cuda": 300.0, "mxnet": 131.0, "seal": 8.0}
    times |= {"Builder": 71.0, "Reboot": 40.0, "Proof": 45.0}
    prices = dict.fromkeys(ZONES, usd)
    told = Preview(
        job=Job(
            NO_CONTEXT, new_run("mxnet-cu101"), PreflightResult(UBUNTU, ZONES), plan, "name", Path()
        ),
        start="snap-0a1b2c3d4e5f60718",
        reasons=reasons(plan, states, tags_of(before)),
        changes=changes_of_the_image(plan, tags_of(before)),
        usd_per_hour=prices,
        forecast=forecast(
            plan,
            [name for name, state in states.items() if state == "to run"],
            [Past(plan.recipe.name, digests, times)],
            prices.values(),
            usd_per_gb_month=0.08 if usd else 0.0,
            stopped_for_image=True,
        ),
    )
    show_plans(console, [told])


def test_a_plan_says_what_runs_why_how_long_and_for_how_much() -> None:
    lines = shown_in_terminal(lambda: show(Console())).splitlines()
    assert all(len(line) <= 80 for line in lines), lines
    text = "\n".join(lines)
    rows = {line.split()[0]: line for line in lines if line}
    assert rows["base"].split() == ["base", "from", "checkpoint", "-", "-"]
    assert "scripts/stages/cuda.sh changed" in rows["cuda"]
    assert rows["cuda"].endswith("4 to 8 min")
    assert "FRAMEWORK_VERSION 1.7.0 → 1.8.0" in rows["mxnet"]
    assert "- mxnet==1.7" in text
    assert "+ mxnet==1.8" in text
    assert "cuda, mxnet run again" in rows["seal"]
    assert "disk 64 GB → 96 GB" in text
    assert "Starts   from snap-0a1b2c3d4e5f60718" in lines
    assert "Machine  g4dn.xlarge in us-west-2a (on-demand), 96 GB, $0.526 an hour" in lines
    assert "Takes    about 13 min (10 to 23 min)" in lines
    assert "Reboots  before the proof" in lines
    assert "Costs    $0.06 to $0.09" in lines
    assert "         from earlier bakes; typical times for the image" in lines
    assert "         (typical times are estimates; your own bakes replace them)" in lines


@pytest.mark.parametrize(
    ("usd", "machine", "costs"),
    [(None, "price unknown", "price unknown"), (0.0, "free", "nothing ($0)")],
)
def test_a_plan_says_where_a_price_is_unknown_or_nothing(
    usd: float | None, machine: str, costs: str, capsys: pytest.CaptureFixture[str]
) -> None:
    show(Console(), usd=usd)
    text = capsys.readouterr().out
    assert f"96 GB, {machine}\n" in text
    assert f"Costs    {costs}\n" in text


def test_a_plan_says_after_which_of_the_stages_that_run_the_machine_is_rebooted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    # drivers is in the checkpoint
    show(Console(), reboots={"drivers": "yes", "cuda": "yes", "mxnet": "when-required"})
    said = "Reboots  after cuda, after mxnet if required, before the proof\n"
    assert said in capsys.readouterr().out
    found = document_of(lambda console: show(console, reboots={"cuda": "yes"}), capsys)
    stages = found["plans"][0]["stages"]
    assert [stage["name"] for stage in stages if stage["reboots"] == "yes"] == ["cuda"]


def test_a_plan_as_a_document(capsys: pytest.CaptureFixture[str]) -> None:
    [document] = document_of(show, capsys)["plans"]
    assert document["starts_from_checkpoint_id"] == "snap-0a1b2c3d4e5f60718"
    assert document["changes"] == ["disk 64 GB → 96 GB"]
    assert [place["usd_per_hour"] for place in document["placements"]] == [0.526, 0.526]
    stages = {stage["name"]: stage for stage in document["stages"]}
    assert stages["base"]["state"] == "from_checkpoint"
    assert stages["base"]["duration"] is None
    assert stages["cuda"]["duration"] == {"low_s": 210, "likely_s": 300, "high_s": 450}
    assert stages["seal"]["why"] == ["cuda, mxnet run again, and this needs them"]
    cost = document["forecast"]["cost"]
    assert 0 < cost["low_usd"] < cost["high_usd"]
