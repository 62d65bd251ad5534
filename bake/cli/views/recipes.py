"""Recipes as a table and as JSON documents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bake.console.console import Console
from bake.recipe.recipe import Recipe


def show_recipes(console: Console, recipes: Sequence[Recipe], folder: Path) -> None:
    console.table(
        ["recipe", "OS", "driver", "CUDA", "Python", "framework"],
        [
            [
                each.name,
                each.base,
                each.driver.branch,
                each.cuda.version,
                f"{each.python.version} {each.python.manager}",
                f"{each.framework.name} {each.framework.version}",
            ]
            for each in recipes
        ],
        empty=f"No recipes in {folder}.",
    )
    console.result([each.model_dump(mode="json") for each in recipes])
