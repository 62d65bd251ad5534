from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bake import catalog as catalogs
from bake.catalog import Catalog
from bake.errors import IncompatibleError, RecipeError
from bake.plan.plan import Plan, make_plan, stage_digest
from bake.plan.script import Script
from bake.plan.variables import OPTIONAL_FIELDS, variables
from bake.recipe import recipes
from bake.recipe.payload import UPSTREAM, Payload
from bake.recipe.project import Project, built_in
from bake.recipe.recipe import Recipe
from bake.recipe.resolved import resolve
from tests.support.environment import REPOSITORY
from tests.support.recipes import NO_SECTIONS, changed

ROOT = REPOSITORY
SCRIPTS = ROOT / "scripts"
RECIPES = {recipe.name: recipe for recipe in recipes.all_recipes(built_in())}

# conda | venv stand beside drivers → cuda, and meet in seal.
ABOVE = {
    "base": {"base", "drivers", "cuda", "conda", "mxnet", "d2l", "seal"},
    "drivers": {"drivers", "cuda", "seal"},
    "cuda": {"cuda", "seal"},
    "conda": {"conda", "mxnet", "d2l", "seal"},
    "mxnet": {"mxnet", "d2l", "seal"},
    "d2l": {"d2l", "seal"},
    "seal": {"seal"},
}


@pytest.fixture
def catalog() -> Catalog:
    return catalogs.load()


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """Write stages with the needs of the real ones, and bodies of one line."""
    scripts = tmp_path / "scripts"
    (scripts / "stages").mkdir(parents=True)
    (scripts / "lib.sh").write_text("# lib\n")
    needs = {
        "base": "",
        "drivers": "base",
        "cuda": "drivers",
        "conda": "base",
        "mxnet": "conda|venv",
        "d2l": "mxnet|pytorch",
        "seal": "*",
    }
    inputs = {
        "base": "APT_PACKAGES",
        "drivers": "DRIVER_BRANCH",
        "cuda": "CUDA_VERSION",
        "conda": "CONDA_PACKAGES ENVIRONMENT",
        "mxnet": "PYPI_MIRROR FRAMEWORK",
        "d2l": "PIP_PACKAGES D2L_NUMPY",
        "seal": "",
    }
    for name in needs:
        write(scripts, name, needs[name], inputs[name])
    return scripts


def write(scripts: Path, name: str, needs: str = "", inputs: str = "", body: str = "true") -> None:
    header = f"#!/bin/sh\n# Stage {name}.\n# Needs: {needs}\n# Inputs: {inputs}\n"
    (scripts / "stages" / f"{name}.sh").write_text(f"{header}\n{body}\n")


def plan(
    scripts: Path,
    recipe: Recipe = RECIPES["mxnet-cu101"],
    *,
    payload: Payload = UPSTREAM,
    base: str = "ami-1",
) -> Plan:
    return make_plan(
        resolve(recipe), payload=payload, base_image_id=base, project=Project(scripts.parent)
    )


def different(one: Plan, other: Plan) -> set[str]:
    """Return the names of the stages whose digests differ."""
    digests = {stage.script.name: stage.digest for stage in one.stages}
    return {
        stage.script.name for stage in other.stages if digests[stage.script.name] != stage.digest
    }


# ---- our own recipes and scripts


@pytest.mark.parametrize("name", RECIPES)
def test_every_included_recipe_has_a_plan_with_the_included_scripts(name: str) -> None:
    made = plan(SCRIPTS, RECIPES[name])
    assert [stage.script.name for stage in made.stages] == list(RECIPES[name].stages)
    assert made.stages[-1].needs == tuple(sorted(RECIPES[name].stages[:-1]))
    for stage in made.stages:
        assert set(stage.inputs) == set(stage.script.inputs)
        assert len(stage.digest) == 64


def test_the_same_request_has_the_same_plan(scripts: Path) -> None:
    assert plan(scripts) == plan(scripts)


# ---- digests


def test_a_changed_script_changes_its_stage_and_the_stages_that_need_it(scripts: Path) -> None:
    for name, above in ABOVE.items():
        before = plan(scripts)
        path = scripts / "stages" / f"{name}.sh"
        path.write_text(path.read_text() + "# another byte\n")
        assert different(before, plan(scripts)) == above


@pytest.mark.parametrize(
    ("change", "stage"),
    [
        ({"packages__apt": ["htop"]}, "base"),
        ({"driver__branch": "450"}, "drivers"),
        ({"packages__conda": ["scipy"]}, "conda"),
        ({"mirrors": {"pypi": "https://mirror.example.org/simple"}}, "mxnet"),
        ({"packages__pip": ["scipy"]}, "d2l"),
    ],
)
def test_a_changed_input_changes_its_stage_and_the_stages_that_need_it(
    scripts: Path, change: dict[str, Any], stage: str
) -> None:
    before = plan(scripts)
    after = plan(scripts, changed(RECIPES["mxnet-cu101"], **change))
    assert different(before, after) == ABOVE[stage]
    assert before.digest != after.digest


def test_another_base_image_changes_every_stage(scripts: Path) -> None:
    assert different(plan(scripts), plan(scripts, base="ami-2")) == ABOVE["base"]


def test_another_lib_changes_every_stage(scripts: Path) -> None:
    before = plan(scripts)
    (scripts / "lib.sh").write_text("# another\n")
    assert different(before, plan(scripts)) == ABOVE["base"]


def test_a_name_or_a_disk_changes_the_image_and_no_stage(scripts: Path) -> None:
    before = plan(scripts)
    for change in ({"name": "other"}, {"builder__disk_gb": 100}):
        after = plan(scripts, changed(RECIPES["mxnet-cu101"], **change))
        assert different(before, after) == set()
        assert before.digest != after.digest


def test_another_region_or_builder_changes_no_digest(scripts: Path) -> None:
    before = plan(scripts)
    for change in (
        {"region": "eu-west-1"},
        {"builder__market": "spot"},
        {"builder__instance_types": ["g4dn.metal"]},
        {"tags": {"team": "x"}},
    ):
        after = plan(scripts, changed(RECIPES["mxnet-cu101"], **change))
        assert before.digest == after.digest


INPUTS = st.dictionaries(st.text(min_size=1), st.text(), min_size=1, max_size=8)


def digest(inputs: Mapping[str, str], **more: Any) -> str:
    script = Script("x", "x", (), tuple(inputs), b"body")
    given_ = {"lib": b"lib", "needs": [], "base": "ami-1"} | more
    return stage_digest(script, inputs=inputs, **given_)


@given(INPUTS, st.randoms())
def test_the_order_of_inputs_does_not_matter(inputs: dict[str, str], random: Any) -> None:
    shuffled = list(inputs.items())
    random.shuffle(shuffled)
    assert digest(inputs) == digest(dict(shuffled))


@given(INPUTS, st.data())
def test_any_change_of_any_input_changes_the_digest(
    inputs: dict[str, str], data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(inputs)))
    value = data.draw(st.text().filter(lambda text: text != inputs[name]))
    assert digest(inputs) != digest(inputs | {name: value})


@given(st.lists(st.text(), max_size=4), st.randoms())
def test_the_order_of_needs_does_not_matter_and_each_counts(needs: list[str], random: Any) -> None:
    shuffled = list(needs)
    random.shuffle(shuffled)
    assert digest({}, needs=needs) == digest({}, needs=shuffled)
    assert digest({}, needs=needs) != digest({}, needs=[*needs, "another"])


def test_a_value_cannot_be_mistaken_for_several_inputs() -> None:
    assert digest({"A": "1", "B": "2"}) != digest({"A": '1","B":"2'})
    assert digest({"AB": "C"}) != digest({"A": "BC"})
    assert digest({"A": "\udcff".encode("utf-8", "surrogatepass").hex()}) != digest({"A": ""})


# ---- needs and inputs


def test_stages_come_in_an_order_in_which_they_can_run(scripts: Path) -> None:
    mixed = changed(
        RECIPES["mxnet-cu101"],
        stages=["cuda", "mxnet", "d2l", "conda", "drivers", "base", "seal"],
    )
    order = [stage.script.name for stage in plan(scripts, mixed).stages]
    assert order == ["base", "conda", "mxnet", "d2l", "drivers", "cuda", "seal"]


def test_the_order_of_stages_changes_no_digest(scripts: Path) -> None:
    mixed = changed(
        RECIPES["mxnet-cu101"],
        stages=["conda", "base", "drivers", "cuda", "mxnet", "d2l", "seal"],
    )
    assert different(plan(scripts), plan(scripts, mixed)) == set()
    assert plan(scripts).digest == plan(scripts, mixed).digest


def refused(scripts: Path, recipe: Recipe = RECIPES["mxnet-cu101"]) -> str:
    with pytest.raises(RecipeError) as caught:
        plan(scripts, recipe)
    assert caught.value.exit_code == 2
    return "\n".join((caught.value.message, *caught.value.details))


def test_the_error_about_an_unknown_stage_suggests_the_nearest_name(scripts: Path) -> None:
    stages = ["base", "drivrs", "seal"]
    found = refused(scripts, changed(RECIPES["mxnet-cu101"], stages=stages))
    assert "stages[1]: unknown stage: drivrs. Did you mean drivers? Or write scripts/" in found


def test_a_stage_that_needs_a_stage_outside_the_recipe_is_refused(scripts: Path) -> None:
    stages = ["base", "mxnet", "seal"]
    found = refused(scripts, changed(RECIPES["mxnet-cu101"], stages=stages))
    assert "mxnet needs conda or venv, which is not in the recipe" in found
    assert "which are base, mxnet, seal, or correct Needs:" in found


def test_a_circle_of_needs_is_refused(scripts: Path) -> None:
    write(scripts, "drivers", "cuda", "DRIVER_BRANCH")
    assert "in a circle: drivers, cuda" in refused(scripts)


def test_two_stages_that_need_every_other_are_a_circle(scripts: Path) -> None:
    write(scripts, "d2l", "*", "D2L_NUMPY")
    assert "in a circle" in refused(scripts)


def test_an_input_without_a_value_is_refused(scripts: Path) -> None:
    write(scripts, "cuda", "drivers", "CUDA_VERSON")
    assert "no value for the input CUDA_VERSON. Did you mean CUDA_VERSION" in refused(scripts)


def test_an_input_that_is_read_and_not_declared_is_refused(scripts: Path) -> None:
    write(scripts, "cuda", "drivers", "CUDA_VERSION", 'echo "$CUDA_VERSION ${CUDA_PINS}"')
    assert "cuda.sh: reads CUDA_PINS and does not declare it" in refused(scripts)


def test_a_variable_that_the_script_sets_is_not_an_input(scripts: Path) -> None:
    write(scripts, "cuda", "drivers", "CUDA_VERSION", 'MINE=1; echo "$MINE"')
    assert plan(scripts)


def test_invalid_headers_of_several_scripts_are_reported_at_once(scripts: Path) -> None:
    write(scripts, "cuda", "DRIVERS")
    write(scripts, "conda", "base", "lower")
    found = refused(scripts)
    assert "DRIVERS is not a stage" in found
    assert "lower is not a variable" in found


def test_a_reboot_changes_the_digest_of_the_stage(scripts: Path) -> None:
    before = plan(scripts)
    script = scripts / "stages" / "mxnet.sh"
    script.write_text(script.read_text().replace("# Needs:", "# Reboots: yes\n# Needs:"))
    after = plan(scripts)
    assert different(before, after) == {"mxnet", "d2l", "seal"}
    assert [stage.name for stage in after.stages if stage.script.reboots == "yes"] == ["mxnet"]


def test_the_stage_that_seals_cannot_reboot(scripts: Path) -> None:
    script = scripts / "stages" / "seal.sh"
    script.write_text(script.read_text().replace("# Needs:", "# Reboots: yes\n# Needs:"))
    assert "seal is the last one, and cannot reboot" in refused(scripts)


def test_an_incompatible_recipe_is_refused_before_any_script_is_read(tmp_path: Path) -> None:
    wrong = changed(RECIPES["mxnet-cu101"], builder__instance_types=["p4d.24xlarge"])
    with pytest.raises(IncompatibleError) as caught:
        plan(tmp_path, wrong)
    assert caught.value.exit_code == 2
    assert any("does not support the A100" in line for line in caught.value.details)


# ---- secrets


def test_a_stage_takes_the_secrets_that_it_declares_and_digests_do_not_depend_on_their_source(
    scripts: Path,
) -> None:
    path = scripts / "stages" / "base.sh"
    path.write_text(path.read_text().replace("# Inputs", "# Secrets: TOKEN\n# Inputs"))
    recipe = RECIPES["mxnet-cu101"]
    first = plan(scripts, changed(recipe, secrets={"TOKEN": {"env": "A"}}))
    assert first.stages[0].script.secrets == ("TOKEN",)
    assert "TOKEN" not in first.stages[0].inputs
    second = plan(scripts, changed(recipe, secrets={"TOKEN": {"ssm": "/b"}}))
    assert second.digest == first.digest


def test_secrets_that_do_not_match_the_stages_are_all_reported_at_once(scripts: Path) -> None:
    write(scripts, "conda", "base", "ENVIRONMENT", 'echo "$READ"')
    path = scripts / "stages" / "base.sh"
    path.write_text(path.read_text().replace("# Inputs", "# Secrets: LACKS\n# Inputs"))
    secrets = {name: {"env": "A"} for name in ("READ", "UNUSED", "LOGIN_USER")}
    with pytest.raises(RecipeError) as caught:
        plan(scripts, changed(RECIPES["mxnet-cu101"], secrets=secrets))
    said = "\n".join(caught.value.details)
    assert "base.sh: the recipe has no secret LACKS" in said
    assert 'LACKS = { env = "LACKS" } under [secrets]' in said
    assert "conda.sh: reads READ and does not declare it. Add it to Secrets:" in said
    assert "secrets.UNUSED: no stage uses it" in said
    assert "secrets.LOGIN_USER: an input of the stages has this name" in said
    assert len(caught.value.details) == 5  # READ is taken by none, either


# ---- fields that no stage takes

# The sections stay, but no stage installs them.
WITHOUT_STAGES = {"stages": ["base", "seal"]}


@pytest.mark.parametrize(
    ("place", "change", "stages"),
    [
        ("packages.pip", {"packages__pip": ["cowsay"]}, "d2l"),
        ("packages.conda", {"packages__conda": ["ffmpeg"]}, "conda"),
        ("python.environment", {"python__environment": "mine"}, "conda or d2l"),
        ("driver.hold_kernel", {"driver__hold_kernel": True}, "drivers"),
        ("d2l.notebooks", {"d2l__notebooks": True}, "d2l"),
    ],
)
def test_a_field_that_no_stage_takes_is_refused_with_its_place_and_the_stage_to_add(
    place: str, change: dict[str, Any], stages: str
) -> None:
    recipe = changed(RECIPES["mxnet-cu101"], **change)
    plan(SCRIPTS, recipe)
    with pytest.raises(RecipeError) as caught:
        plan(SCRIPTS, changed(recipe, **WITHOUT_STAGES))
    hints = {found.place: found.hint for found in caught.value.findings}
    assert hints[place].startswith(f"Add {stages}")
    assert hints.keys() - SECTIONS - {"python.environment"} <= {place}


SECTIONS = {"driver", "cuda", "python", "framework", "d2l"}


def test_a_section_that_no_stage_uses_is_refused_with_the_stages_to_add() -> None:
    with pytest.raises(RecipeError) as caught:
        plan(SCRIPTS, changed(RECIPES["mxnet-cu112"], **WITHOUT_STAGES))
    hints = {found.place: found.hint for found in caught.value.findings}
    # CUDA decides which wheel of the framework is installed, so the framework uses it.
    assert hints.keys() == SECTIONS - {"cuda"}
    assert hints["driver"].endswith("drivers to stages, or leave out [driver]")
    bare = changed(RECIPES["mxnet-cu112"], **WITHOUT_STAGES, **NO_SECTIONS)
    assert [stage.name for stage in plan(SCRIPTS, bare).stages] == ["base", "seal"]
    said = refused(SCRIPTS, changed(bare, cuda={"version": "11.2"}))
    assert "cuda: no stage of the recipe uses this section" in said


@pytest.mark.parametrize("section", ["driver", "cuda", "python", "framework", "d2l"])
def test_a_stage_that_needs_a_missing_section_is_refused_with_that_reason(section: str) -> None:
    without = {"d2l", "framework", section}  # d2l needs a framework, which needs CUDA and Python
    recipe = RECIPES["mxnet-cu101"].model_copy(update=dict.fromkeys(without))
    said = refused(SCRIPTS, recipe)
    stage = {"driver": "drivers", "python": "conda", "framework": "mxnet"}.get(section, section)
    assert f"{stage}.sh: needs [{section}], which the recipe does not have, for " in said
    assert f"Add [{section}], or leave out the stage {stage}" in said


def test_the_inputs_of_ones_own_stages_come_from_the_recipe(scripts: Path) -> None:
    write(scripts, "greeting", "base", "GREETING COLOUR=blue STAGE")
    stages = ["base", "greeting", "seal"]
    bare = changed(RECIPES["mxnet-cu101"], **NO_SECTIONS, stages=stages)
    greeted = changed(bare, inputs={"GREETING": "hello, world", "NUMBER": 3})
    assert "inputs.NUMBER: no stage declares it" in refused(scripts, greeted)
    greeted = changed(bare, inputs={"GREETING": "hello, world"})
    given = plan(scripts, greeted).stages[1].inputs
    assert given == {"GREETING": "hello, world", "COLOUR": "blue", "STAGE": "greeting"}
    other = changed(bare, inputs={"GREETING": "hello, world", "COLOUR": "red"})
    assert different(plan(scripts, greeted), plan(scripts, other)) == {"greeting", "seal"}
    said = refused(scripts, bare)
    assert "greeting.sh: no value for the input GREETING" in said
    assert 'Write GREETING = "…" under [inputs] of the recipe, or a default: GREETING=…' in said


def test_a_stage_that_calls_lib_without_it_is_refused(scripts: Path) -> None:
    (scripts / "lib.sh").write_text("say() {\n    echo\n}\n")
    write(scripts, "mxnet", "conda", "FRAMEWORK", 'say "hello"')
    said = refused(scripts)
    assert "mxnet.sh: calls say, a function of lib.sh, and does not source lib.sh" in said
    assert 'Add the line: source "${BAKE_LIB:?}"' in said
    write(scripts, "mxnet", "conda", "FRAMEWORK", 'source "${BAKE_LIB:?}"\nsay "hello"')
    assert plan(scripts)
    write(scripts, "mxnet", "conda", "FRAMEWORK", "say() { echo; }\nsay hello")
    assert plan(scripts)


@pytest.mark.parametrize(
    ("name", "hint"), [("CUDA_VERSION", "Use [cuda]"), ("LOGIN_USER", "Use another name")]
)
def test_an_input_that_bake_gives_cannot_be_replaced(scripts: Path, name: str, hint: str) -> None:
    recipe = changed(RECIPES["mxnet-cu101"], inputs={name: "x"})
    assert f"inputs.{name}: bake gives stages this input itself. {hint}" in refused(scripts, recipe)


def test_apt_packages_need_a_stage_that_takes_them(tmp_path: Path) -> None:
    scripts = tmp_path / "scripts"
    (scripts / "stages").mkdir(parents=True)
    (scripts / "lib.sh").touch()
    write(scripts, "seal", "*")
    recipe = changed(RECIPES["mxnet-cu101"], packages__apt=["htop"], stages=["seal"], **NO_SECTIONS)
    with pytest.raises(RecipeError) as caught:
        plan(scripts, recipe)
    assert caught.value.details == (
        "packages.apt: no stage of the recipe uses it. "
        "Leave it out, or add APT_PACKAGES to Inputs: of a stage",
    )
    write(scripts, "own", inputs="APT_PACKAGES")
    assert plan(scripts, changed(recipe, stages=["own", "seal"])).stages[0].inputs == {
        "APT_PACKAGES": "htop"
    }


def test_an_empty_list_of_packages_needs_no_stage() -> None:
    packages: dict[str, Any] = {"apt": [], "conda": [], "pip": []}
    recipe = RECIPES["mxnet-cu101"]
    plan(SCRIPTS, changed(recipe, **WITHOUT_STAGES, **NO_SECTIONS, packages=packages))


@pytest.mark.parametrize("place", OPTIONAL_FIELDS)
def test_the_inputs_of_an_optional_field_are_the_ones_that_its_value_changes(place: str) -> None:
    recipe = changed(RECIPES["mxnet-cu101"], d2l__notebooks=False)
    values = {"d2l.notebooks": True, "driver.hold_kernel": False, "python.environment": "mine"}
    change = {place.replace(".", "__"): values.get(place, ["some"])}
    before, after = (variables(resolve(r), UPSTREAM) for r in (recipe, changed(recipe, **change)))
    different = {name for name in before if before[name] != after[name]}
    assert different >= set(OPTIONAL_FIELDS[place])
    # NOTEBOOKS_SHA256 and NOTEBOOKS_COMMIT are of no use without the URL.
    assert different - set(OPTIONAL_FIELDS[place]) <= {"NOTEBOOKS_SHA256", "NOTEBOOKS_COMMIT"}


# ---- files


@pytest.fixture
def project(scripts: Path) -> Path:
    """Give the stage d2l a folder of files. Its project is the folder that contains `scripts`."""
    script = scripts / "stages" / "d2l.sh"
    script.write_text(script.read_text().replace("# Inputs", "# Files: greeter\n# Inputs"))
    files = scripts.parent / "files" / "greeter"
    files.mkdir(parents=True)
    (files / "config.toml").write_text("colour = 1")
    return files


@pytest.mark.parametrize("change", ["bytes", "mode", "path"])
def test_the_digest_of_a_stage_covers_its_files(scripts: Path, project: Path, change: str) -> None:
    before, file = plan(scripts), project / "config.toml"
    if change == "bytes":
        file.write_text("colour = 2")
    elif change == "mode":
        file.chmod(0o755)
    else:
        file.rename(project / "other.toml")
    after = plan(scripts)
    assert different(before, after) == ABOVE["d2l"]
    assert before.digest != after.digest


def test_a_stage_without_files_has_the_digest_that_it_had_before_there_were_files() -> None:
    script = Script("x", "x", (), (), b"body")
    digest = stage_digest(script, lib=b"lib", inputs={"A": "1"}, needs=(), base="ami-1")
    assert digest == "f46f3941e1d107dbb07bd7bb9cf45a9016c13a7f2b8c0567688fd7d72155634d"


def test_files_that_are_missing_are_findings(scripts: Path, project: Path) -> None:
    (project / "config.toml").unlink()
    with pytest.raises(RecipeError) as caught:
        plan(scripts)
    assert "files/greeter: is a folder without files" in "\n".join(caught.value.details)


def test_a_stage_that_reads_files_without_declaring_them_is_refused(scripts: Path) -> None:
    write(scripts, "base", body="cp $BAKE_FILES/x /etc")
    with pytest.raises(RecipeError) as caught:
        plan(scripts)
    assert "base.sh: reads BAKE_FILES and declares no files" in "\n".join(caught.value.details)
