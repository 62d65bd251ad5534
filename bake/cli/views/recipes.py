"""Recipes as a table and as JSON documents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bake.cli.documents.document import FailedRecipe
from bake.cli.documents.recipes import RecipeEntry, RecipesDocument
from bake.console.console import Console
from bake.recipe.recipe import BrokenRecipe, Recipe


def show_recipes(
    console: Console, recipes: Sequence[Recipe], broken: Sequence[BrokenRecipe], folder: Path
) -> None:
    """List the recipes. In the JSON document, a broken one has only its name and its error."""
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
        fold=("recipe", "OS", "Python", "framework"),
    )
    console.result(
        RecipesDocument(
            recipes=tuple(RecipeEntry.of_recipe(each) for each in recipes),
            broken=tuple(FailedRecipe.of_recipe(each.name, each.error) for each in broken),
        )
    )
