"""Whatever stands in a recipe or a script's header arrives byte for byte, or is refused before."""

from __future__ import annotations

import re
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bake.aws.image_creation import image_name
from bake.aws.tags import LONGEST_KEY, LONGEST_VALUE, MOST_TAGS, new_run
from bake.errors import BakeError, RecipeError
from bake.plan import description
from bake.plan.inputs import inputs_file
from bake.plan.script import read_script
from bake.recipe import recipes
from bake.recipe.project import Project, built_in
from bake.recipe.recipe import Recipe
from tests.support.hostile import documents, short_texts, texts, toml, values
from tests.support.recipes import DOCUMENTS, packages, plan_of, urls

MIRROR = {"pypi": "https://mirror.example.org/pypi"}
MORE = {
    "tags": {"team": "research"},
    "mirrors": MIRROR,
    "packages": {"apt": ["htop"], "conda": ["scipy=1.10"], "pip": ["attrs>=20"]},
    "checkpoints": {"keep": 1, "max_age_days": 2, "after": ["base"]},
    "region": "us-west-2",
}
# EC2's own: CreateImage, `Name` and `Description`.
IMAGE_NAME = re.compile(r"[A-Za-z0-9()\[\] ./\-'@_]{3,128}")
TAME = settings(
    max_examples=60, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@st.composite
def changed(draw: st.DrawFn) -> dict[str, Any]:
    """A good recipe in which one or a few values are others, gone, or of another kind."""
    document = deepcopy(draw(st.sampled_from(list(DOCUMENTS.values())))) | deepcopy(MORE)
    for _ in range(draw(st.integers(1, 3))):
        table: Any = document
        while True:
            keys_there = list(table) if isinstance(table, dict) else range(len(table))
            place = draw(st.sampled_from(list(keys_there)))
            if not isinstance(table[place], dict | list) or not table[place] or draw(st.booleans()):
                break
            table = table[place]
        if isinstance(table, dict) and draw(st.integers(0, 3)) == 0:
            table[draw(short_texts)] = draw(values)
        else:
            table[place] = draw(st.one_of(values, texts, urls, packages))
    return document


def written(folder: Path, document: dict[str, Any]) -> Path:
    path = folder / "some.toml"
    lines = [f"{toml(key)} = {toml(value)}" for key, value in document.items()]
    path.write_text("\n".join(lines), errors="surrogatepass")
    return path


# Recipes -----------------------------------------------------------------------------------------


@TAME
@given(text=st.one_of(documents, texts, st.lists(texts, max_size=5).map("\n".join)))
def test_any_text_is_a_recipe_or_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "manifests" / "some.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, errors="surrogatepass")
    with pytest.raises(RecipeError):
        recipes.load(path, built_in())
    with pytest.raises(RecipeError):
        recipes.all_recipes(Project(tmp_path))


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 5000,
        "a = " + "{a = " * 5000,
        "a = " + "9" * 5000,
        "a = 1e" + "9" * 5000,
        ".".join(["a"] * 5000) + " = 1",
        "[" + ".".join(["a"] * 5000) + "]",
        f"[cuda]\nversion = 0x{'f' * 5000}\n[builder]\ndisk_gb = 0x{'f' * 5000}",
        "\x00",
        "\ufeffname = 'x'",
        "a = 0000-00-00",
        '"\\ud800" = 1',
    ],
)
def test_what_has_no_end_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "some.toml").write_text(text)
    with pytest.raises(RecipeError):
        recipes.load(tmp_path / "some.toml", built_in())


@settings(TAME, max_examples=120)
@given(document=changed())
def test_a_recipe_that_is_accepted_can_be_planned_tagged_named_and_told(
    document: dict[str, Any], tmp_path: Path
) -> None:
    try:
        read = recipes.load(written(tmp_path, document), built_in())
        plan = plan_of(read)
    except BakeError:
        return
    for stage in plan.stages:
        inputs_file(stage.name, stage.inputs)  # a StageError would come when the machine runs
    assert IMAGE_NAME.fullmatch(image_name(read.name, datetime.now(UTC), plan.digest))
    assert len(read.description) <= 255
    assert read.description.isascii()
    assert "\n" not in read.description
    tags = new_run(read.name, tags=read.tags).finished(
        name="n", digest=plan.digest, stages={}, verified="no", payload="upstream"
    )
    tags |= description.describe(plan, room=MOST_TAGS - len(tags))
    assert len(tags) <= MOST_TAGS
    for key, value in tags.items():
        assert 1 <= len(key) <= LONGEST_KEY
        assert len(value) <= LONGEST_VALUE
        assert not key.lower().startswith("aws:")
        assert "\x00" not in key + value
    described = description.read(tags)
    assert described is None or described.base_image_id == plan.base_image_id


def test_so_many_packages_that_no_variable_holds_them_are_refused_by_the_plan() -> None:
    document = deepcopy(DOCUMENTS["mxnet-cu101"])
    document["packages"] = {"pip": [f"some-package-{n}==1.{n}" for n in range(6000)]}
    with pytest.raises(RecipeError) as caught:
        plan_of(Recipe.model_validate(document))
    assert any("PIP_PACKAGES" in str(finding) for finding in caught.value.findings)


@pytest.mark.parametrize("text", ["Zürich", "日本語", "an em dash — here"])
def test_what_ec2_would_refuse_after_the_whole_bake_is_refused_first(
    text: str, tmp_path: Path
) -> None:
    document = DOCUMENTS["mxnet-cu101"] | {"description": text}
    with pytest.raises(RecipeError) as caught:
        recipes.load(written(tmp_path, document), built_in())
    assert ["ASCII" in str(finding) for finding in caught.value.findings] == [True]


# Headers -----------------------------------------------------------------------------------------

PARTS = ("# ", "Needs:", "Inputs: ", "Secrets:", "Reboots: yes", "\n", "#  ", "#!/bin/bash\n", "*")


@settings(TAME, max_examples=150)
@given(parts=st.lists(st.sampled_from(PARTS) | short_texts, max_size=12))
def test_any_header_is_read_or_refused(parts: list[str], tmp_path: Path) -> None:
    path = tmp_path / "some.sh"
    path.write_text("".join(parts), errors="surrogatepass")
    try:
        script = read_script(path)
    except RecipeError:
        return
    assert script.description
    assert all(re.fullmatch(r"[A-Z][A-Z0-9_]*", name) for name in script.inputs)
    script.used()
