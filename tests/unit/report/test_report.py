"""The content of a bake's page, for records of all kinds."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bake.console.console import Console
from bake.errors import RequestError
from bake.pipeline import finish
from bake.record import (
    Change,
    Installed,
    Inventory,
    MachineRecord,
    difference,
)
from bake.record import builds as kept
from bake.record.report import report, timeline
from tests.support.bakes import BEGAN, INVENTORY, MACHINE, at, failure, record, step
from tests.support.commands import invoke
from tests.support.pages import made, text_after, text_of


def test_a_page_that_cannot_be_made_does_not_fail_the_bake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "record.json").write_text("cut off")
    job: Any = SimpleNamespace(folder=tmp_path, console=Console())
    finish.write_report(job)
    assert "The report of this bake could not be written: " in (said := capsys.readouterr().err)
    assert "is not a record of a bake" in " ".join(said.split())


def test_the_page_shows_the_request_and_the_result(tmp_path: Path) -> None:
    text = text_of(tmp_path, record(here="--region us-west-2"))
    assert "verified on a GPU" in text
    assert "stand-in" not in text
    assert "driver 470 proprietary 470.256.02 same" in text
    assert "Python 3.7 miniconda 3.7.16 same" in text
    assert "framework mxnet 1.7.0 mxnet-cu101 1.7.0 same" in text
    assert "pip: wandb wandb – missing" in text
    assert "Proof: 2 passed, 1 skipped. Leftover check: clean, 1 passed, 1 skipped" in text
    assert "invoke launch-from-ami --ami ami-0123456789abcdef0 --region us-west-2" in text
    assert "ubuntu-bionic-18.04-amd64-server-20230607" in text
    assert "d" * 64 in text
    assert "cuda-toolkit-10-1 10.1.243-1 cuda" in text
    assert "bash 4.4.18-2ubuntu1.3 base image" in text
    assert "python 3.7.16 conda" in text
    assert "mxnet-cu101 1.7.0 mxnet" in text


@pytest.mark.parametrize(
    ("verified", "words"), [("cpu", "verified on the CPU alone"), ("no", "not verified")]
)
def test_a_proof_without_a_gpu_is_never_shown_as_one_on_a_gpu(
    tmp_path: Path, verified: str, words: str
) -> None:
    text = text_of(tmp_path, record(verified=verified, payload="stand-in", here="--local"))
    assert words in text
    assert "verified on a GPU" not in text
    assert "A rehearsal with stand-ins" in text
    assert "--ami ami-0123456789abcdef0 --local" in text


def machine(**changes: Any) -> MachineRecord:
    return MACHINE.model_copy(update=changes)


@pytest.mark.parametrize(
    ("machines", "cost"),
    [
        # 860 s until it was stopped for the image; a spot machine is paid for until the end.
        ((machine(),), "$0.13"),
        ((machine(market="spot", usd_per_hour=0.1578),), "$0.06"),
        ((machine(ended_at=at(317)), machine(market="spot", usd_per_hour=0.2)), "$0.12"),
        ((machine(usd_per_hour=None),), "not known"),
        ((machine(), machine(usd_per_hour=None)), "not known"),
        ((machine(usd_per_hour=0.0),), "nothing"),
        ((machine(usd_per_hour=0.001),), "less than $0.01"),
        ((), "not known"),
    ],
)
def test_the_cost_is_price_times_time_if_both_are_known(
    tmp_path: Path, machines: tuple[MachineRecord, ...], cost: str
) -> None:
    text = text_of(tmp_path, record(machines=machines))
    assert f"Cost {cost} Machine" in text


def test_a_machine_that_ran_for_seconds_costs_a_minute(tmp_path: Path) -> None:
    """EC2 bills at least one minute: at USD 60 per hour, USD 1."""
    short = machine(usd_per_hour=60.0, ended_at=at(20))
    assert "Cost $1.00 Run" in text_of(tmp_path, failure(machines=(short,)))


def test_the_page_says_that_a_kept_machine_still_costs_money(tmp_path: Path) -> None:
    text = text_of(tmp_path, failure(machines=(machine(),)))
    assert "still running, and still costing money" in text
    assert "still running" not in text_of(tmp_path / "other", failure())


def test_the_page_of_a_failure_shows_the_error_of_aws_and_the_end_of_the_log(
    tmp_path: Path,
) -> None:
    tmp_path.joinpath("drivers.log").write_text(
        "\n".join(f"line {number}" for number in range(100))
        + "\n10%\r55%\r100% loaded\n\x1b[31mE: red\x1b[0m\n"
    )
    text = text_of(tmp_path, failure(code="InsufficientInstanceCapacity", reason="No room"))
    assert "Reason: InsufficientInstanceCapacity: No room" in text
    shown = text_after("The last lines of drivers", text)
    assert "line 99 100% loaded E: red" in shown
    assert "55%" not in shown
    assert re.search(r"\b4\d lines before them", shown)
    assert "line 20 " not in shown
    assert "mxnet did not run" in text


def test_only_logs_beside_the_record_are_shown(tmp_path: Path) -> None:
    (tmp_path / "secret.log").write_text("of somebody else")
    hostile = step("stage", "../secret", 1, 2, outcome="failed", wave=1)
    folder = tmp_path / "run"
    run = failure(steps=(hostile,), machines=(machine(),))
    assert "of somebody else" not in text_of(folder, run)


@pytest.mark.parametrize("run", [record(), failure()], ids=["image", "failure"])
def test_the_page_has_links_to_the_logs_and_the_record(tmp_path: Path, run: Any) -> None:
    for name in ("drivers.log", "conda.log", "a b.log", "javascript:x.log"):
        (tmp_path / name).write_text("x" * 2000)
    (tmp_path / "folder.log").mkdir()
    (tmp_path / "away.log").symlink_to(tmp_path / "missing")
    page = made(tmp_path, run).read_text()
    record_name = run.write(tmp_path).name
    listed = page.partition("Logs and record")[2]
    assert re.findall(r'href="([^"]*)"', listed) == [
        "./conda.log",
        "./drivers.log",
        f"./{record_name}",
    ]
    assert "2.0 kB" in listed
    assert '<a href="./drivers.log">log</a>' in page.partition("The steps as a table")[2]


def test_the_page_of_a_failure_shows_how_to_go_on(tmp_path: Path) -> None:
    text = text_of(tmp_path, failure(here="--region us-west-2"))
    command, _, rest = text_after("Bake the recipe again", text).partition("It resumes from")
    assert command.split() == ["invoke", "bake", "mxnet-cu101", "--region", "us-west-2"]
    assert rest.startswith(" snap-1 ")
    rehearsed = text_of(tmp_path, failure(here="--local", payload="stand-in", steps=()))
    assert "mxnet-cu101 --local --stand-in" in rehearsed
    assert "resumes" not in rehearsed
    assert "Bake the recipe again" not in text_of(tmp_path, failure())  # of an older version


@pytest.mark.parametrize("run", [record(), failure()], ids=["image", "failure"])
def test_a_record_without_a_timeline_has_a_page(tmp_path: Path, run: Any) -> None:
    path = run.write(tmp_path)
    document = json.loads(path.read_text())
    for later in ("steps", "machines", "asked"):
        del document[later]
    document.get("inventory", {}).pop("stages", None)
    path.write_text(json.dumps(document))
    text = text_of(tmp_path)
    assert "This record does not contain when the steps began" in text
    assert "Cost not known" in text
    if path.name == "record.json":
        assert "d2l 1 min 00 s" in text


# ---- changes


def test_a_difference_lists_parts_and_packages_by_kind() -> None:
    old = Inventory(driver="470.1", dpkg={"a": "1", "gone": "1"}, pip={"n": "1"})
    new = Inventory(driver="470.2", dpkg={"a": "2"}, pip={"n": "1", "new": "3"}, conda={"c": "1"})
    assert difference(old, new) == (
        Change("system", "driver", "470.1", "470.2"),
        Change("apt", "a", "1", "2"),
        Change("apt", "gone", "1", ""),
        Change("conda", "c", "", "1"),
        Change("pip", "new", "", "3"),
    )
    assert difference(new, new) == ()


def test_an_image_is_compared_with_the_last_one_of_its_recipe(tmp_path: Path) -> None:
    def earlier(run: str, days: int, **changes: Any) -> None:
        then = at(-86400 * days)
        record(run=run, started_at=then, image_id=f"ami-{run}", **changes).write(tmp_path / run)

    text = text_of(tmp_path / "now", record(run="now"))
    assert "has no record of an earlier image of mxnet-cu101" in text
    same = INVENTORY.model_copy(update={"pip": {**INVENTORY.pip, "numpy": "1.17"}})
    earlier("older", 3, inventory=Inventory())
    earlier("last", 2, inventory=same)
    earlier("another", 1, recipe="mxnet-cu112", inventory=Inventory())
    earlier("rehearsed", 1, payload="stand-in", inventory=Inventory())
    earlier("later", -1, inventory=Inventory())
    failure(started_at=at(-60)).write(tmp_path / "failed")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "record.json").write_text('{"of": "another program"}')
    text = text_of(tmp_path / "now")
    assert "Compared with ami-last of 2026-11-19 04:00 UTC : 1 difference." in text
    assert "numpy pip 1.17 1.18.5" in text
    earlier("last", 2)
    assert "The same system, packages and versions as ami-last" in text_of(tmp_path / "now")


# ---- the choice of the bake


def test_a_bake_is_found_by_its_run_its_recipe_or_its_record(tmp_path: Path) -> None:
    builds = tmp_path / "builds"
    record(run="r1").write(builds / "r1")
    failure(recipe="pytorch-cu126", started_at=at(60)).write(builds / "r2")
    assert kept.find(builds).name == "r2"
    assert kept.find(builds, "mxnet-cu101").name == "r1"
    assert kept.find(builds, "r1").name == "r1"
    assert kept.find(builds, str(builds / "r1" / "record.json")).name == "r1"
    assert kept.find(builds, str(builds / "r2")).name == "r2"
    with pytest.raises(RequestError, match="No record of a bake of xxxx"):
        kept.find(builds, "x" * 5000)
    with pytest.raises(RequestError, match="No record of a bake of nothing") as refused:
        kept.find(builds, "nothing")
    assert refused.value.hint == "Recipes with records: mxnet-cu101, pytorch-cu126"
    with pytest.raises(RequestError, match="No record of a bake"):
        kept.find(tmp_path / "empty")


def test_an_unreadable_record_is_a_request_error(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"contains no record.json"):
        report.make(tmp_path)
    (tmp_path / "record.json").write_text("[" * 100_000)
    with pytest.raises(RequestError, match="is not a record of a bake"):
        report.make(tmp_path)


def test_the_command_prints_the_path_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BAKE_BUILDS", str(tmp_path))
    missing = invoke("report")
    assert missing.returncode == 2
    assert "invoke bake RECIPE` writes one" in missing.stderr
    record().write(tmp_path / "r1")
    said = json.loads(invoke("report", "mxnet-cu101", "--json").stdout)
    assert said == {"error": None, "path": str(tmp_path / "r1" / "report.html")}
    assert Path(said["path"]).stat().st_size > 1_000_000


# ---- the chart


def test_the_chart_has_a_bar_for_each_step() -> None:
    made = timeline.charts(record())["timeline"]
    bars = {
        name: (base, length, trace["name"])
        for trace in made.spec["data"]
        for name, base, length in zip(trace["y"], trace["base"], trace["x"], strict=True)
    }
    assert bars["cuda"] == (409, 368, "stage")
    assert bars["Image"] == (877, 543, "image")
    assert bars["base "] == (0, 0, "from a checkpoint")
    assert len(bars) == 13
    axis = made.spec["layout"]["xaxis"]
    assert axis["range"] == [0, 1420]
    assert axis["ticktext"] == ["0:00", "10:00", "20:00"]
    assert "The longest was Image with 9 min 03 s." in made.alt
    assert "At the same time ran drivers and conda; cuda and mxnet and d2l." in made.alt


def test_steps_with_the_same_name_and_of_several_machines_have_rows_of_their_own() -> None:
    made = timeline.charts(failure())["timeline"]
    rows = [name for trace in made.spec["data"] for name in trace["y"]]
    assert len(rows) == len(set(rows)) == 7
    assert "drivers, machine 2" in rows
    assert ("failed", "var(--bad)") in made.legend
    again = (step("checkpoint", "Checkpoint", 1, 2), step("checkpoint", "Checkpoint", 3, 4))
    assert [row.name for row in timeline.rows(failure(steps=again))][:2] == [
        "Checkpoint",
        "Checkpoint 2",
    ]


def test_a_bake_of_zero_seconds_and_one_of_days_have_charts() -> None:
    for end in (0, 0.001, 59, 3600, 86400 * 3):
        steps = (step("start", "Builder", 0, end),)
        axis = timeline.charts(record(steps=steps, started_at=BEGAN))["timeline"].spec["layout"]
        assert 1 <= len(axis["xaxis"]["tickvals"]) <= 5


def test_the_packages_of_a_stage_are_found_under_any_spelling(tmp_path: Path) -> None:
    stages = {"base": Installed(apt={"libc6": "2.27"})}
    inventory = Inventory(dpkg={"libc6:amd64": "2.27"}, stages=stages)
    assert "libc6:amd64 2.27 base" in text_of(tmp_path, record(inventory=inventory))
