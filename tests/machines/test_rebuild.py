"""The scheduled rebuild on real machines, and the preview before it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest
from invoke.exceptions import Exit

from bake import catalog
from bake.aws.recipe_failures import RecipeFailures, clear_failures, read_failures
from bake.cli.command import raise_for
from bake.cli.views import github
from bake.console.console import Console
from bake.errors import VerificationError
from bake.local import control, standin
from bake.local.machines import os_images
from bake.pipeline import rebuild as rebuilding
from bake.pipeline.bake import Options
from bake.pipeline.preview import Preview, preview
from bake.pipeline.rebuild import RecipeReport
from tests.support.kitchen import Kitchen, Witness, machines_ever
from tests.support.leftovers import held

LIMIT = 2


@dataclass
class Plant:
    """A set of recipes that a schedule rebuilds."""

    kitchen: Kitchen
    names: tuple[str, ...] = ()

    def recipe(self, name: str, *stages: str, **changes: object) -> None:
        self.kitchen.recipe(name, *stages, **changes)
        self.names = tuple(dict.fromkeys((*self.names, name)))

    def rebuild(self, *, limit: int | None = LIMIT) -> dict[str, RecipeReport]:
        """Return the reports by recipe; there must be one for each recipe, and no other."""
        candidates, refused = rebuilding.find_candidates(self.kitchen.requests(*self.names))
        reports = rebuilding.rebuild(candidates, refused, Options(machines=3), limit=limit)
        assert sorted(report.recipe for report in reports) == sorted(self.names)
        return {report.recipe: report for report in reports}

    def matrix(self, *, limit: int | None = LIMIT) -> list[str]:
        candidates, refused = rebuilding.find_candidates(self.kitchen.requests(*self.names))
        document = json.loads(github.matrix(rebuilding.groups_to_bake(candidates, refused, limit)))
        return [job["recipes"] for job in document["include"]]

    def preview(self, name: str) -> Preview:
        return preview(*self.kitchen.requests(name)[0])


@pytest.fixture
def plant(kitchen: Kitchen) -> Iterator[Plant]:
    """A plant that leaves no parameter behind: no lease, and no record of failures."""
    assert parameters() == []
    plant = Plant(kitchen)
    yield plant
    for name in plant.names:
        clear_failures(plant.kitchen.cloud, name)
    assert parameters() == []


def parameters() -> list[str]:
    pages = boto3.client("ssm").get_paginator("get_parameters_by_path")
    found = pages.paginate(Path="/bake", Recursive=True)
    return [parameter["Name"] for page in found for parameter in page["Parameters"]]


def statuses(reports: dict[str, RecipeReport]) -> dict[str, str]:
    return {name: report.status for name, report in reports.items()}


def test_the_second_rebuild_in_a_row_starts_no_machine_and_then_only_what_has_changed_is_baked(
    plant: Plant, witness: Witness
) -> None:
    plant.kitchen.line("base", "x")
    plant.kitchen.stage("y", "base")
    plant.kitchen.stage("alone")
    plant.recipe("with-x", "base", "x")
    plant.recipe("alone", "alone")
    plant.recipe("with-y", "base", "y")
    assert plant.matrix() == ["with-x with-y", "alone"]
    assert machines_ever() == (before := machines_ever())

    first = plant.rebuild()
    assert set(statuses(first).values()) == {"baked"}
    assert {(each.proved, each.usd) for each in first.values()} == {("no", 0.0)}
    assert Counter(witness.began()) == dict.fromkeys(("base", "x", "y", "alone"), 1)
    assert len(machines_ever() - before) == 3

    before = machines_ever()
    assert plant.matrix() == []
    second = plant.rebuild()
    assert set(statuses(second).values()) == {"up to date"}
    assert {each.image_id for each in second.values()} == {each.image_id for each in first.values()}
    assert machines_ever() == before
    assert github.headline(list(second.values())) == "3 with nothing to do"

    plant.kitchen.stage("x", "base", body="echo changed")
    assert plant.matrix() == ["with-x"]
    third = plant.rebuild()
    assert statuses(third) == {
        "with-x": "baked",
        "with-y": "up to date",
        "alone": "up to date",
    }
    assert third["with-x"].why[0].startswith("scripts/stages/x.sh changed (")
    assert witness.began()[4:] == ["x"]
    assert len(machines_ever() - before) == 1

    # What they share is in a checkpoint, so that nothing holds the two together any more.
    for name in ("x", "y"):
        plant.kitchen.stage(name, "base", body="echo 'changed again'")
    assert plant.matrix() == ["with-x", "with-y"]


@pytest.fixture
def publish(local_cloud: Path) -> Iterator[Callable[[str], str]]:
    """A function that publishes a newer base image with this /etc/issue, and returns its id."""
    endpoint = control.status()
    assert endpoint is not None
    ubuntu = catalog.load().os_image("ubuntu-18.04")
    usual = standin.machine_files()

    def publish(issue: str) -> str:
        files = {**usual, "/etc/issue": issue.encode()}
        return os_images.provide(endpoint, ubuntu, stand_in=True, files=files)

    yield publish
    os_images.provide(endpoint, ubuntu, stand_in=True, files=usual)


def test_a_newer_base_image_is_a_reason_to_bake_everything_again(
    plant: Plant, witness: Witness, publish: Callable[[str], str]
) -> None:
    old = publish("Old\n")
    for name in ("a", "b"):
        plant.kitchen.stage(name)
        plant.recipe(f"with-{name}", name, checkpoints={"after": []})
    plant.rebuild()
    new = publish("New\n")
    reports = plant.rebuild()
    assert set(statuses(reports).values()) == {"baked"}
    for report in reports.values():
        assert re.match(rf"base image {old} \(.+\) → {new} \(.+\)$", report.why[0]), report.why
    assert Counter(witness.began()) == {"a": 2, "b": 2}


def test_of_three_one_fails_and_the_others_are_baked(plant: Plant, witness: Witness) -> None:
    for name in ("good", "bad", "fine"):
        plant.kitchen.stage(name)
        plant.recipe(name, name, checkpoints={"after": []})
    witness.refused.add("bad begins")
    reports = plant.rebuild()
    assert statuses(reports) == {"good": "baked", "bad": "failed", "fine": "baked"}
    with pytest.raises(Exit) as ended:
        raise_for(Console(), {name: each.error for name, each in reports.items()})
    assert ended.value.code == 1
    summary = github.summary(list(reports.values()))
    assert summary.startswith("## Rebuild: 2 baked, 1 failed\n")
    [row] = [line for line in summary.splitlines() if "**failed**" in line and line[0] == "|"]
    assert row.startswith("| <code>bad</code> |")
    assert "stage bad ended with status 1" in row
    assert "\n### bad\n" in summary
    assert plant.matrix() == ["bad"]

    # It works again, and nothing is remembered.
    assert read_failures(plant.kitchen.cloud, "bad").count == 1
    witness.refused.clear()
    assert statuses(plant.rebuild())["bad"] == "baked"
    assert read_failures(plant.kitchen.cloud, "bad") == RecipeFailures()


def test_what_keeps_failing_is_given_up_until_it_is_asked_for_or_changes(
    plant: Plant, witness: Witness
) -> None:
    plant.kitchen.stage("a")
    plant.recipe("one", "a", checkpoints={"after": []})
    witness.refused.add("a begins")
    for _ in range(LIMIT):
        assert plant.matrix() == ["one"]
        assert plant.rebuild()["one"].status == "failed"
    before = machines_ever()

    given_up = plant.rebuild()
    assert statuses(given_up) == {"one": "not tried"}
    said = given_up["one"].why
    assert said[0].startswith("2 failures in a row since ")
    assert "stage a ended with status 1" in said[1]
    assert "--retry" in said[2]
    raise_for(Console(), {name: each.error for name, each in given_up.items()})
    assert plant.matrix() == []
    assert machines_ever() == before

    plant.kitchen.stage("a", body="echo mended")
    assert plant.matrix() == ["one"]
    plant.kitchen.stage("a")
    assert plant.matrix() == []

    witness.refused.clear()
    assert plant.matrix(limit=None) == ["one"]
    assert plant.rebuild(limit=None)["one"].status == "baked"
    assert parameters() == []


def test_a_plan_names_the_script_or_the_input_that_has_changed_and_changes_nothing(
    plant: Plant,
) -> None:
    plant.kitchen.stage("base")
    plant.kitchen.stage("tools", "base", inputs="APT_PACKAGES")
    plant.recipe("one", "base", "tools", packages={"apt": ["tar"]})
    new = plant.preview("one")
    assert {reason.state for reason in new.reasons.values()} == {"to run"}
    [baked] = plant.kitchen.bake("one")
    assert baked.image
    there, machines = held(), machines_ever()

    same = plant.preview("one")
    assert same.job.image
    assert same.job.image.image_id == baked.image.image_id
    assert {reason.state for reason in same.reasons.values()} == {"done"}
    assert (same.why, same.digests_to_run) == ((), ())

    plant.kitchen.recipe("one", "base", "tools", packages={"apt": ["tar", "gzip"]})
    other_input = plant.preview("one")
    assert {name: reason.state for name, reason in other_input.reasons.items()} == {
        "base": "from checkpoint",
        "tools": "to run",
        "seal": "to run",
    }
    assert other_input.reasons["tools"].why == ("APT_PACKAGES tar → tar gzip",)
    assert other_input.reasons["seal"].why == ("tools runs again, and this needs it",)
    assert other_input.start

    plant.kitchen.recipe("one", "base", "tools", packages={"apt": ["tar"]})
    plant.kitchen.stage("base", body="echo changed")
    other_script = plant.preview("one")
    [why] = other_script.reasons["base"].why
    assert re.fullmatch(r"scripts/stages/base\.sh changed \(\w{8} → \w{8}\)", why)
    assert other_script.reasons["tools"].why == ("base runs again, and this needs it",)
    assert other_script.start == ""

    assert (held(), machines_ever(), parameters()) == (there, machines, [])

    # This stage takes its packages and installs none.
    plant.kitchen.recipe("one", "base", "tools", packages={"apt": ["tar", "cowsay"]})
    with pytest.raises(VerificationError) as caught:
        plant.kitchen.bake("one")
    assert any("packages.apt: cowsay is not installed" in line for line in caught.value.details)
