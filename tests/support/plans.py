"""Plans: small ones, made of parts, and those of the repository's recipes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from bake.plan import changes, description
from bake.plan.plan import Plan, Stage, make_plan, stage_digest
from bake.plan.script import Script
from bake.recipe import recipes
from bake.recipe.payload import UPSTREAM
from bake.recipe.project import built_in
from bake.recipe.recipe import Recipe
from bake.recipe.resolved import resolve
from tests.support.environment import REPOSITORY

ROOT = REPOSITORY
RECIPES = {recipe.name: recipe for recipe in recipes.all_recipes(built_in())}
RECIPE = RECIPES["mxnet-cu101"]


def real_plan(recipe: Recipe = RECIPE, base: str = "ami-0dba2cb6798deb6d8") -> Plan:
    return make_plan(
        resolve(recipe),
        payload=UPSTREAM,
        base_image_id=base,
        project=built_in(),
    )


Parts = dict[str, tuple[bytes, tuple[str, ...], dict[str, str]]]

BASE: Parts = {
    "base": (b"base", (), {"OS_ID": "ubuntu-18.04"}),
    "drivers": (b"drivers", ("base",), {"DRIVER_BRANCH": "470", "MIRROR": "https://example.org"}),
    "cuda": (b"cuda", ("drivers",), {"CUDA_VERSION": "10.1", "MIRROR": "https://example.org"}),
    "conda": (b"conda", ("base",), {"PYTHON_VERSION": "3.7"}),
    "mxnet": (b"mxnet", ("conda",), {"FRAMEWORK_VERSION": "1.7.0", "PIP": "mxnet==1.7\nnumpy<2"}),
    "seal": (b"seal", ("base", "conda", "cuda", "drivers", "mxnet"), {}),
}


def plan_of(parts: Parts, *, base: str = "ami-1", lib: bytes = b"lib", disk_gb: int = 64) -> Plan:
    """Make a plan with digests as make_plan computes them."""
    stages: dict[str, Stage] = {}
    for name, (body, needs, inputs) in parts.items():
        script = Script(name, "", needs, tuple(inputs), body)
        below = [stages[need].digest for need in needs]
        digest = stage_digest(script, lib=lib, inputs=inputs, needs=below, base=base)
        stages[name] = Stage(script, inputs, needs, digest)
    builder = RECIPE.builder.model_copy(update={"disk_gb": disk_gb})
    recipe = RECIPE.model_copy(update={"builder": builder})
    return Plan(resolve(recipe), UPSTREAM, base, tuple(stages.values()), lib, "digest")


def checkpoints_after(plan: Plan, *stages: str) -> Plan:
    """Return the plan with checkpoints only after these stages."""
    settings = plan.recipe.checkpoints.model_copy(update={"after": stages})
    recipe = plan.recipe.model_copy(update={"checkpoints": settings})
    return replace(plan, resolved=replace(plan.resolved, recipe=recipe))


def tags_of(plan: Plan, name: str = "") -> dict[str, str]:
    """Return the tags of an image that matter for these tests."""
    digests = {changes.STAGE_KEY + stage.name: stage.digest for stage in plan.stages}
    return {"Name": "x", **digests, **description.describe(plan, base_image_name=name)}


def changed(parts: Parts, name: str, **values: Any) -> Parts:
    body, needs, given_inputs = parts[name]
    return parts | {
        name: (
            values.get("body", body),
            values.get("needs", needs),
            values.get("inputs", given_inputs),
        )
    }


names = st.from_regex(r"[a-z][a-z0-9-]{0,30}", fullmatch=True)
inputs = st.dictionaries(
    st.from_regex(r"[A-Z][A-Z0-9_]{0,20}", fullmatch=True),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=400),
    max_size=8,
)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    parts: Parts = {}
    for name in draw(st.lists(names, min_size=1, max_size=12, unique=True)):
        needs = draw(st.lists(st.sampled_from(sorted(parts)), unique=True)) if parts else []
        parts[name] = (draw(st.binary(max_size=50)), tuple(sorted(needs)), draw(inputs))
    return plan_of(parts, base=draw(st.text("ami-0123456789abcdef", min_size=1, max_size=21)))
