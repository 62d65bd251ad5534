"""A recipe whose base image is the image of another recipe: its sections, stages and proof."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bake.aws.instance_type import TypeDescription, add_types
from bake.errors import Finding, IncompatibleError, RecipeError
from bake.plan.plan import Plan, make_plan
from bake.recipe.based import resolve_in
from bake.recipe.compatibility import accepted_unknowns, check, refuse_incompatible
from bake.recipe.payload import UPSTREAM
from bake.recipe.project import Project, project_in
from bake.recipe.recipes import find
from bake.recipe.resolved import Resolved, with_catalog
from bake.verify import accepted, expect

BASED = """name = "{name}"
base = {{ recipe = "{base}" }}
stages = ["{stage}", "seal"]
[builder]
instance_types = ["g4dn.xlarge"]
"""
STAGE = """#!/usr/bin/env bash
# A tool of the team.
# Needs: {needs}
# Inputs: ENVIRONMENT_PREFIX
source "${{BAKE_LIB:?}}"
say "${{ENVIRONMENT_PREFIX}}"
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "manifests").mkdir()
    (tmp_path / "scripts/stages").mkdir(parents=True)
    (tmp_path / "scripts/stages/tool.sh").write_text(STAGE.format(needs="conda|venv drivers"))
    write(tmp_path, "team", "pytorch-cu126")
    return project_in(tmp_path)


def write(folder: Path, name: str, base: str, stage: str = "tool", more: str = "") -> None:
    text = BASED.format(name=name, base=base, stage=stage) + more
    (folder / "manifests" / f"{name}.toml").write_text(text)


def resolved(project: Project, name: str = "team") -> Resolved:
    return resolve_in(project, find(name, project))


def plan(project: Project, name: str = "team") -> Plan:
    made = resolved(project, name)
    return make_plan(made, payload=UPSTREAM, base_image_id="ami-1", project=project)


def refusal(project: Project, name: str = "team") -> list[Finding]:
    with pytest.raises(RecipeError) as caught:
        plan(project, name)
    return list(caught.value.findings)


def test_the_sections_of_the_base_are_taken_over(project: Project) -> None:
    made, base = resolved(project), find("pytorch-cu126", project)
    assert made.os_image.key == base.base.os
    assert made.inherited == {"driver", "cuda", "python", "framework", "d2l"}
    assert (made.recipe.driver, made.recipe.python) == (base.driver, base.python)
    assert made.base_stages == base.stages[:-1]
    assert made.all_stages == (*base.stages[:-1], "tool", "seal")


def test_the_stages_in_the_base_image_are_needed_no_more(project: Project) -> None:
    made = plan(project)
    tool, seal = made.stages
    assert tool.needs == ()
    assert seal.needs == ("tool",)
    assert tool.inputs["ENVIRONMENT_PREFIX"].startswith("/opt/")
    again = make_plan(made.resolved, payload=UPSTREAM, base_image_id="ami-2", project=project)
    assert again.digest != made.digest, "another base image makes another image"


def test_the_proof_covers_what_the_base_promises(project: Project) -> None:
    write(project.folder, "more", "team", "pip", '[packages]\npip = ["scipy"]\n')
    write(project.folder, "last", "more", "tool")
    own, base = expect(resolved(project, "last"), "g4dn.xlarge"), resolved(project, "pytorch-cu126")
    of_base = expect(base, "g4dn.xlarge")
    assert replace(own, pip=()) == of_base
    assert own.pip == ("scipy",)
    assert accepted(resolved(project)) == accepted(base)


def test_a_section_of_its_own_needs_a_stage_of_its_own(project: Project) -> None:
    write(project.folder, "team", "pytorch-cu126", more='[driver]\nbranch = "580"\n')
    [finding] = refusal(project)
    assert (finding.place, finding.message) == (
        "driver",
        "no stage of the recipe uses this section",
    )


def test_a_stage_that_the_base_does_not_have_is_missing(project: Project) -> None:
    path = project.folder / "scripts/stages/tool.sh"
    path.write_text(STAGE.format(needs="docker"))
    [finding] = refusal(project)
    assert "the stage tool needs docker, which is not in the recipe" in finding.message


def test_a_base_that_is_missing_is_a_finding(project: Project) -> None:
    write(project.folder, "team", "pytorch-cu12")
    [finding] = refusal(project)
    assert finding.place == "base.recipe"
    assert "pytorch-cu12 not found" in finding.message
    assert "pytorch-cu126" in finding.hint


def test_recipes_that_are_based_on_each_other_are_refused(project: Project) -> None:
    write(project.folder, "one", "two")
    write(project.folder, "two", "one")
    write(project.folder, "self", "self")
    [finding] = refusal(project, "one")
    assert (finding.place, finding.message) == (
        "base.recipe",
        "a circle of base images: one → two → one",
    )
    [finding] = refusal(project, "self")
    assert finding.message == "a circle of base images: self → self"


def on(project: Project, described: TypeDescription) -> Resolved:
    """Return the recipe on a builder that only EC2 describes, as before a bake."""
    recipe = find("pytorch-cu126", project)
    builder = recipe.builder.model_copy(update={"instance_types": (described.name,)})
    made = resolve_in(project, recipe.model_copy(update={"builder": builder, "gpu": "required"}))
    assert made.machines == ()
    return with_catalog(made, add_types(made.catalog, [described]))


def test_a_gpu_that_is_not_known_is_refused_unless_unchecked(project: Project) -> None:
    new = TypeDescription("g9.large", 2, 8192, ("x86_64",), gpu="L900", gpu_maker="NVIDIA", gpus=1)
    made = on(project, new)
    [finding] = check(made)
    assert finding.message == "bake does not know the GPU of g9.large, the L900"
    assert finding.hint.endswith("--unchecked")
    with pytest.raises(IncompatibleError):
        refuse_incompatible(made)
    refuse_incompatible(replace(made, unchecked=True))
    [warning] = accepted_unknowns(replace(made, unchecked=True))
    assert (warning.message, warning.hint) == (finding.message, "")
    assert expect(made, "g9.large").gpu_model is None


def test_what_cannot_work_is_refused_also_when_unchecked(project: Project) -> None:
    arm = TypeDescription("g9.large", 2, 8192, ("arm64",), gpu="L900", gpu_maker="NVIDIA", gpus=1)
    cpu = TypeDescription("m7i.large", 2, 8192, ("x86_64",))
    for described, says in ((arm, "is arm64"), (cpu, "has no NVIDIA GPU")):
        with pytest.raises(IncompatibleError, match="cannot work") as caught:
            refuse_incompatible(replace(on(project, described), unchecked=True))
        assert says in caught.value.details[0]


def test_a_recipe_without_a_gpu_is_baked_on_any_type(project: Project) -> None:
    cpu = TypeDescription("m7i.large", 2, 8192, ("x86_64",))
    made = on(project, cpu)
    for_cpu = made.recipe.model_copy(update={"gpu": "if-present"})
    assert check(replace(made, recipe=for_cpu)) == []
    assert expect(made, "m7i.large").gpu_count is None
