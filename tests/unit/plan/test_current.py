"""Whether an image is what its recipe makes now."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from bake.plan.current import is_current
from bake.plan.plan import Plan, make_plan
from bake.recipe.override import override
from bake.recipe.payload import UPSTREAM, Payload, with_mirrors
from bake.recipe.project import Project
from bake.recipe.resolved import resolve
from tests.support.environment import REPOSITORY
from tests.support.plans import RECIPE, RECIPES, tags_of

STAND_IN = with_mirrors(
    replace(
        UPSTREAM,
        name="stand-in",
        key_fingerprints=dict.fromkeys(UPSTREAM.mirrors, "0" * 40),
    ),
    {name: f"https://127.0.0.1:4748/{name}" for name in UPSTREAM.mirrors},
)


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    return Path(shutil.copytree(REPOSITORY / "scripts", tmp_path / "scripts"))


def baked(scripts: Path, payload: Payload, base: str = "ami-1") -> Plan:
    return make_plan(
        resolve(RECIPE), payload=payload, base_image_id=base, project=Project(scripts.parent)
    )


def current(plan: Plan, scripts: Path, recipe: object = RECIPE) -> bool:
    return is_current(
        tags_of(plan),
        plan.digest,
        resolve(recipe),  # type: ignore[arg-type]
        stand_in=plan.payload.name == "stand-in",
        project=Project(scripts.parent),
    )


@pytest.mark.parametrize("payload", [UPSTREAM, STAND_IN], ids=["upstream", "stand-in"])
def test_an_image_is_current_on_any_base_image_until_the_recipe_or_a_script_changes(
    scripts: Path, payload: Payload
) -> None:
    image = baked(scripts, payload, base="ami-2")
    assert current(image, scripts)
    assert not current(image, scripts, RECIPES["mxnet-cu100"])
    builder = RECIPE.builder.model_copy(update={"disk_gb": RECIPE.builder.disk_gb + 1})
    assert not current(image, scripts, RECIPE.model_copy(update={"builder": builder}))
    assert current(image, scripts, override(RECIPE, instance_types=["g4dn.2xlarge"]))
    script = scripts / "stages" / "cuda.sh"
    before = script.read_text()
    script.write_text(f"{before}# another comment\n")
    reverted = baked(scripts, payload)
    assert current(reverted, scripts)
    assert not current(image, scripts)
    script.write_text(before)
    assert not current(reverted, scripts)
    assert current(image, scripts)


@pytest.mark.parametrize("payload", [UPSTREAM, STAND_IN], ids=["upstream", "stand-in"])
def test_a_package_more_makes_another_image(scripts: Path, payload: Payload) -> None:
    packages = RECIPE.packages.model_copy(update={"apt": ("tree",)})
    assert not current(
        baked(scripts, payload), scripts, RECIPE.model_copy(update={"packages": packages})
    )


def test_an_image_whose_tags_describe_no_plan_is_not_current(scripts: Path) -> None:
    digest = baked(scripts, UPSTREAM).digest
    assert not is_current(
        {}, digest, resolve(RECIPE), stand_in=False, project=Project(scripts.parent)
    )


@pytest.mark.parametrize("payload", [UPSTREAM, STAND_IN], ids=["upstream", "stand-in"])
def test_an_image_is_not_current_after_a_file_of_a_stage_has_changed(
    scripts: Path, payload: Payload
) -> None:
    script, files = scripts / "stages" / "cuda.sh", scripts.parent / "files"
    script.write_text(script.read_text().replace("# Needs:", "# Files: a\n# Needs:", 1))
    files.mkdir()
    (files / "a").write_text("1")
    image = baked(scripts, payload)
    assert current(image, scripts)
    (files / "a").write_text("2")
    assert not current(image, scripts)
