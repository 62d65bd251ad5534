"""The checks of a plan: which ones the proof runs, with which inputs, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bake.errors import RecipeError
from bake.plan import description
from bake.plan.changes import changes_of_the_image
from bake.plan.current import is_current
from bake.plan.plan import Plan, make_plan
from bake.recipe.payload import UPSTREAM
from bake.recipe.project import Project
from bake.recipe.recipe import Recipe
from bake.recipe.resolved import resolve
from tests.support.plans import tags_of
from tests.support.recipes import changed_recipe

LIB = "# lib\n"
STAGE = "#!/bin/sh\n# The stage {name}.\n# Needs: {needs}\n# Inputs: {inputs}\ntrue\n"
CHECK = "#!/bin/sh\n# The check {name}.\n# Inputs: {inputs}\ntrue\n"
STAND_IN = replace(UPSTREAM, name="stand-in")


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    scripts = tmp_path / "scripts"
    for kind in ("stages", "checks"):
        (scripts / kind).mkdir(parents=True)
    (scripts / "lib.sh").write_text(LIB)
    for name, needs, inputs in (
        ("base", "", "OS_ID"),
        ("motd", "base", "GREETING=hello"),
        ("seal", "*", ""),
    ):
        text = STAGE.format(name=name, needs=needs, inputs=inputs)
        (scripts / "stages" / f"{name}.sh").write_text(text)
    return scripts


def add(scripts: Path, name: str, inputs: str = "") -> Path:
    path = scripts / "checks" / f"{name}.sh"
    path.write_text(CHECK.format(name=name, inputs=inputs))
    return path


def recipe(*checks: str, **inputs: str) -> Recipe:
    sections = dict.fromkeys(("driver", "cuda", "python", "framework", "d2l"))
    whole = changed_recipe("mxnet-cu101", stages=["base", "motd", "seal"], checks=list(checks))
    return whole.model_copy(update={**sections, "inputs": inputs})


def plan(scripts: Path, of: Recipe | None = None, *, stand_in: bool = False) -> Plan:
    return make_plan(
        resolve(of or recipe()),
        payload=STAND_IN if stand_in else UPSTREAM,
        base_image_id="ami-1",
        project=Project(scripts.parent),
    )


def refused(scripts: Path, of: Recipe) -> str:
    with pytest.raises(RecipeError) as caught:
        plan(scripts, of)
    return "\n".join(caught.value.details)


def test_the_checks_of_the_stages_run_and_then_the_named_ones(scripts: Path) -> None:
    for name in ("other", "unused", "motd", "network"):
        add(scripts, name)
    names = [check.name for check in plan(scripts, recipe("network", "motd", "other")).checks]
    assert names == ["motd", "network", "other"]


def test_a_check_has_its_inputs_and_defaults(scripts: Path) -> None:
    add(scripts, "motd", "GREETING=hello OS_ID")
    [check] = plan(scripts).checks
    assert check.inputs == {"GREETING": "hello", "OS_ID": "ubuntu-18.04"}
    [check] = plan(scripts, recipe(GREETING="welcome")).checks
    assert check.inputs["GREETING"] == "welcome"


def test_the_stage_has_the_default_of_its_input_or_the_recipes_value(scripts: Path) -> None:
    def greeting(made: Plan) -> str:
        return next(s for s in made.stages if s.name == "motd").inputs["GREETING"]

    assert greeting(plan(scripts)) == "hello"
    assert greeting(plan(scripts, recipe(GREETING="welcome"))) == "welcome"


def test_an_input_that_only_a_check_takes_is_used(scripts: Path) -> None:
    add(scripts, "motd", "COLOUR")
    [check] = plan(scripts, recipe(COLOUR="blue")).checks
    assert check.inputs == {"COLOUR": "blue"}


def test_an_unknown_check_is_refused_with_its_place(scripts: Path) -> None:
    add(scripts, "network")
    text = refused(scripts, recipe("network", "netwerk"))
    assert text.startswith("checks[1]: unknown check: netwerk")
    assert "network" in text


def test_an_input_without_a_value_is_refused(scripts: Path) -> None:
    add(scripts, "motd", "COLOUR")
    assert "checks/motd.sh: no value for the input COLOUR" in refused(scripts, recipe())


def test_a_bad_header_of_a_check_is_refused_even_if_only_its_stage_chooses_it(
    scripts: Path,
) -> None:
    (scripts / "checks/motd.sh").write_text("#!/bin/sh\n# Needs: base\ntrue\n")
    text = refused(scripts, recipe())
    assert "checks/motd.sh:2: a check has no Needs" in text
    assert "checks/motd.sh: header: no description" in text


def test_a_check_changes_the_image_but_no_stage(scripts: Path) -> None:
    without = plan(scripts)
    path = add(scripts, "motd", "GREETING=hello")
    first = plan(scripts)
    path.write_text(f"{path.read_text()}true\n")
    second = plan(scripts)
    other_input = plan(scripts, recipe(GREETING="hello"))
    assert other_input.digest == second.digest
    assert len({without.digest, first.digest, second.digest}) == 3
    assert without.stages == first.stages == second.stages


def test_the_plan_names_the_check_that_has_changed(scripts: Path) -> None:
    without = plan(scripts)
    path = add(scripts, "motd", "GREETING=hello")
    first = plan(scripts)
    assert changes_of_the_image(first, tags_of(without)) == ("the check motd is new",)
    assert changes_of_the_image(without, tags_of(first)) == ("the check motd is no longer made",)
    assert changes_of_the_image(first, tags_of(first)) == ()
    path.write_text(f"{path.read_text()}true\n")
    [change] = changes_of_the_image(plan(scripts), tags_of(first))
    assert change.startswith("scripts/checks/motd.sh changed (")


def test_the_plan_names_the_changed_input_of_a_check(scripts: Path) -> None:
    add(scripts, "motd", "COLOUR=red")
    last = tags_of(plan(scripts))
    changes = changes_of_the_image(plan(scripts, recipe(COLOUR="blue")), last)
    assert changes == ("the check motd: COLOUR red → blue",)


def test_an_image_of_a_plan_without_checks_has_no_word_about_them(scripts: Path) -> None:
    made = plan(scripts)
    described = description.description(made)
    assert description.read(description.describe(made)) == described
    assert "checks" not in described.model_dump(exclude_defaults=True)


@pytest.mark.parametrize("stand_in", [False, True])
def test_an_image_is_current_until_a_check_changes(scripts: Path, stand_in: bool) -> None:
    def current(image: Plan, of: Recipe | None = None) -> bool:
        return is_current(
            tags_of(image),
            image.digest,
            resolve(of or recipe()),
            stand_in=stand_in,
            project=Project(scripts.parent),
        )

    without = plan(scripts, stand_in=stand_in)
    path = add(scripts, "motd", "COLOUR=red")
    image = plan(scripts, stand_in=stand_in)
    assert current(image)
    assert not current(without)
    assert not current(image, recipe(COLOUR="blue"))
    path.write_text(f"{path.read_text()}true\n")
    assert not current(image)
