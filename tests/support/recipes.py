"""Documents of the repository's recipes, and values for their fields."""

from __future__ import annotations

import tomllib
from typing import Any

from hypothesis import strategies as st

from bake.plan.plan import Plan, make_plan
from bake.recipe.payload import UPSTREAM
from bake.recipe.recipe import Recipe
from bake.recipe.resolved import resolve
from tests.support.environment import REPOSITORY
from tests.support.hostile import texts

SCRIPTS = REPOSITORY / "scripts"
DOCUMENTS = {
    path.stem: tomllib.loads(path.read_text()) for path in REPOSITORY.glob("manifests/*.toml")
}

urls = texts.map(lambda text: f"https://mirror.example.org/{text}")
packages = st.builds("{}{}".format, st.sampled_from(["attrs", "a ; ", "a @ https://"]), texts)


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
        scripts=SCRIPTS,
    )
