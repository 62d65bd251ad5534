"""The benchmark compares the same scripts, and takes ratios within each round."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bake.plan.script import read_script
from bake.recipe.compatibility import refuse_incompatible
from bake.recipe.project import Project
from bake.recipe.recipes import load
from bake.recipe.resolved import resolve
from benchmarks import report, scenarios, tools, work
from benchmarks.scenarios import BAKE, PACKER, SCENARIOS, Bench, Measurement, Scenario
from tests.support.environment import REPOSITORY

LINE = next(each for each in SCENARIOS if each.name == "line")


class Nowhere:
    """An empty cloud, for tests that replace the measured work."""

    def sweep(self) -> None:
        pass


class Listed(Bench):
    def measure(self, tool, recipes):
        work.write(self.folder, recipes)
        for path in sorted((self.folder / "manifests").iterdir()):
            found = load(path, Project(self.folder))
            refuse_incompatible(resolve(found))
            needed = [read_script(self.folder / f"scripts/stages/{s}.sh") for s in found.stages]
            SEEN.append((tool, found.name, {each.name: each.needs for each in needed}))
        return Measurement(1, 1, 1)


SEEN: list[tuple[str, str, dict[str, tuple[str, ...]]]] = []


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_every_recipe_of_a_scenario_can_be_baked(scenario: Scenario, tmp_path: Path) -> None:
    SEEN.clear()
    measured = scenario.run(Listed(Nowhere(), tmp_path, 5, 20, 4, 12), "one")
    assert {BAKE, PACKER} <= measured.keys()
    names = {name for _, name, _ in SEEN}
    assert len(names) == (12 if scenario.name == "many" else 1)
    if scenario.name == "graph":
        needs = SEEN[0][2]
        assert needs["toolkit"] == ("driver-like",)
        assert needs["library"] == ("python",)
        assert set(needs["book"]) == {"toolkit", "library"}


def test_another_edition_is_another_script_and_nothing_else() -> None:
    one, two = (work.Stage("a", edition=edition).script().splitlines() for edition in "12")
    different = [pair for pair in zip(one, two, strict=True) if pair[0] != pair[1]]
    assert len(different) == 1
    assert different[0][0].startswith("# ")


def test_the_seal_that_is_measured_is_the_products_own(tmp_path: Path) -> None:
    work.write(tmp_path, [work.Recipe("line", (work.Stage("a"),))])
    for name in ("stages/seal.sh", "lib.sh"):
        assert (tmp_path / "scripts" / name).samefile(REPOSITORY / "scripts" / name)


def test_a_ratio_is_of_one_round_and_what_is_reported_is_the_median() -> None:
    def each(ours: float, packer: float, machines: int = 1) -> scenarios.Round:
        return {
            BAKE: Measurement(ours, ours / 2, machines),
            PACKER: Measurement(packer, packer / 2, 1),
        }

    rounds = [each(10, 20), each(30, 40), each(12, 20)]  # 0.5, 0.75, 0.6
    (ours, packer) = report.rows(LINE, rounds)
    assert ours[2] == "12.0 s (10.0–30.0)"
    assert ours[5] == "0.60 (0.50–0.75)"
    assert ours[7] == "≤ 1.05: met"
    assert packer[5] == ""
    assert report.faults(LINE, [each(22, 20)]) == ["wall 1.10, not 1.05"]
    nothing = next(each for each in SCENARIOS if each.no_machine)
    assert report.faults(nothing, [each(1, 20)]) == ["a machine was started"]
    assert report.faults(nothing, [each(1, 20, machines=0)]) == []
    document = report.document({LINE: rounds}, {"rounds": 3})
    assert json.loads(json.dumps(document))["scenarios"][0]["wall_ratio"]["median"] == 0.6


def test_a_tool_that_fails_is_no_measurement(tmp_path: Path) -> None:
    with pytest.raises(tools.Broken, match=r"(?s)status 3.*\bsaid\b"):
        tools._timed("sh", ["sh", "-c", "echo said; exit 3"], {}, tmp_path)
