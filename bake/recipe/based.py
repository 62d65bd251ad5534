"""A recipe whose base image is the image of another recipe of its project."""

from __future__ import annotations

from bake.errors import Finding, RecipeError
from bake.recipe.project import Project
from bake.recipe.recipe import Recipe
from bake.recipe.recipes import find
from bake.recipe.resolved import Resolved, resolve


def resolve_in(project: Project, recipe: Recipe) -> Resolved:
    """Resolve a recipe of a project, with the recipe of its base image, if it names one.

    RecipeError if that recipe is missing or invalid, or if recipes are based on each other.
    """
    return _resolve(project, recipe, ())


def _resolve(project: Project, recipe: Recipe, above: tuple[str, ...]) -> Resolved:
    name = recipe.base.recipe
    if name is None:
        return resolve(recipe)
    chain = (*above, recipe.name)
    if name in chain:
        circle = " → ".join((*chain[chain.index(name) :], name))
        hint = "Name another recipe, or an operating system, as the base of one of them"
        raise _refused(recipe, Finding("base.recipe", f"a circle of base images: {circle}", hint))
    try:
        other = find(name, project)
    except RecipeError as error:
        if error.findings:
            raise
        raise _refused(recipe, Finding("base.recipe", error.message, error.hint)) from None
    return resolve(recipe, _resolve(project, other, chain))


def _refused(recipe: Recipe, finding: Finding) -> RecipeError:
    return RecipeError(f"The recipe {recipe.name} is not valid", findings=[finding])
