"""The repository's recipes, changed ones, what is wrong with them, and values for their fields."""

from __future__ import annotations

import itertools
import tomllib
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from bake.plan.plan import Plan, make_plan
from bake.recipe import recipes
from bake.recipe.compatibility import check
from bake.recipe.payload import UPSTREAM
from bake.recipe.project import built_in
from bake.recipe.recipe import SOFTWARE, Recipe
from bake.recipe.resolved import resolve
from tests.support.environment import REPOSITORY
from tests.support.hostile import texts

DOCUMENTS = {
    path.stem: tomllib.loads(path.read_text()) for path in REPOSITORY.glob("manifests/*.toml")
}
RECIPES = {recipe.name: recipe for recipe in recipes.all_recipes(built_in())}
# Those that have every section.
COMPLETE = {name: recipe for name, recipe in RECIPES.items() if recipe.d2l}

urls = texts.map(lambda text: f"https://mirror.example.org/{text}")
packages = st.builds("{}{}".format, st.sampled_from(["attrs", "a ; ", "a @ https://"]), texts)


# Changes that take all software out of a recipe, which then has only the stages that need none.
NO_SECTIONS: dict[str, Any] = dict.fromkeys(SOFTWARE)


def changed(recipe: Recipe, **changes: Any) -> Recipe:
    """Return the recipe with other values; `table__key` names a key of a table."""
    document = recipe.model_dump(exclude_unset=True)
    for place, value in changes.items():
        table, _, key = place.rpartition("__")
        (document.setdefault(table, {}) if table else document)[key] = value
    return Recipe.model_validate(document)


def plan_of(read: Recipe) -> Plan:
    return make_plan(
        resolve(read),
        payload=UPSTREAM,
        base_image_id="ami-0123456789abcdef0",
        project=built_in(),
    )


def changed_recipe(name: str, **changes: Any) -> Recipe:
    """Return a recipe of the repository with other values, as `changed` does."""
    return changed(RECIPES[name], **changes)


def findings_of(recipe: Recipe, *instance_types: str) -> dict[str, str]:
    """Return the findings about a recipe by their place, one a line.

    `instance_types` replace the builder's own.
    """
    resolved = resolve(recipe)
    if instance_types:
        machines = tuple(map(resolved.catalog.instance_type, instance_types))
        resolved = replace(resolved, machines=machines)
    found = sorted(check(resolved), key=lambda finding: finding.place)
    by_place = itertools.groupby(found, key=lambda finding: finding.place)
    return {place: "\n".join(map(str, group)) for place, group in by_place}
