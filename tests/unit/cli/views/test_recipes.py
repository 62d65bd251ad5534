"""The list of recipes: what each one is for, its GPUs, and which ones are defaults."""

from __future__ import annotations

import pytest

from bake.cli.views.recipes import show_recipes
from bake.console.console import Console
from bake.recipe.project import built_in
from bake.recipe.recipes import read_all
from tests.support.terminal import in_terminal

RECIPES, _ = read_all(built_in())


def shown(capsys: pytest.CaptureFixture[str], **changes: object) -> list[str]:
    recipe = next(each for each in RECIPES if each.name == "mxnet-cu118-debian12")
    show_recipes(Console(), [recipe.model_copy(update=changes)], [], built_in())
    return capsys.readouterr().out.splitlines()


def test_a_recipe_is_shown_with_its_gpus_description_and_parts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    heading, line = shown(capsys)
    assert heading.split() == ["recipe", "GPU", "description"]
    assert line == (
        "mxnet-cu118-debian12  A10G, T4, L4  MXNet 1.9 for CUDA 11.8 on Debian 12, with the d2l "
        "package; driver 535, Python 3.11 (venv); default for CUDA 11.8"
    )


def test_a_recipe_that_is_no_default_is_not_marked(capsys: pytest.CaptureFixture[str]) -> None:
    assert "default" not in shown(capsys, default=False)[1]


def test_a_recipe_without_a_description_is_described_by_its_parts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert (
        "  mxnet 1.9.1 for CUDA 11.8 on debian-12; driver 535" in shown(capsys, description="")[1]
    )


@pytest.mark.parametrize("columns", [80, 40])
def test_the_list_fits_into_a_terminal_and_names_stay_whole(columns: int) -> None:
    code, terminal = in_terminal("recipes", columns=columns)
    assert code == 0
    assert terminal.broken() == []
    for recipe in RECIPES:
        assert any(line.startswith(recipe.name) for line in terminal.lines)
    assert len(terminal.lines) <= len(RECIPES) * (5 if columns == 80 else 8)
