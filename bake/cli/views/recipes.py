"""Recipes as a table and as JSON documents."""

from __future__ import annotations

from collections.abc import Sequence

from bake import catalog
from bake.cli.documents.document import FailedRecipe
from bake.cli.documents.recipes import RecipeEntry, RecipesDocument
from bake.console.console import Console
from bake.recipe.project import Project
from bake.recipe.recipe import Recipe
from bake.recipe.recipe_files import own_names, replacing_names
from bake.recipe.recipes import BrokenRecipe


def show_recipes(
    console: Console, recipes: Sequence[Recipe], broken: Sequence[BrokenRecipe], project: Project
) -> None:
    """List the recipes. In the JSON document, a broken one has only its name and its error."""
    own, replacing = own_names(project), replacing_names(project)
    marks = {name: ["yours"] for name in own}
    marks |= {name: ["yours, in place of the built-in one"] for name in replacing}
    console.table(
        ["recipe", "GPU", "description"],
        [
            [each.name, ", ".join(_gpus(each)), "\n".join(_about(each) + marks.get(each.name, []))]
            for each in recipes
        ],
        empty=f"No recipes in {project.manifests}.",
        fold=("description",),
    )
    console.result(
        RecipesDocument(
            recipes=tuple(RecipeEntry.of_recipe(each, own, replacing) for each in recipes),
            broken=tuple(FailedRecipe.of_recipe(each.name, each.error) for each in broken),
        )
    )


def _gpus(recipe: Recipe) -> list[str]:
    """Return the GPU models of the recipe's instance types."""
    known = catalog.load().instance_types
    types = [known[name] for name in recipe.builder.instance_types if name in known]
    return list(dict.fromkeys(each.gpu for each in types))


def _about(recipe: Recipe) -> list[str]:
    """Return what the recipe is for, and the parts that descriptions leave out."""
    driver, cuda, python, framework = recipe.driver, recipe.cuda, recipe.python, recipe.framework
    contents = [f"{framework.name} {framework.version}"] if framework else []
    contents += [f"CUDA {cuda.version}"] if cuda else []
    parts = [f"driver {driver.branch}"] if driver else []
    parts += [f"Python {python.version} ({python.manager})"] if python else []
    about = recipe.description or f"{' for '.join(contents) or 'own stages'} on {recipe.base}"
    default = [f"default for CUDA {cuda.version}"] if recipe.default and cuda else []
    return [about, *([", ".join(parts)] if parts else []), *default]
