from __future__ import annotations

import tomllib
from typing import Any

import pytest
from jsonschema import Draft7Validator

from bake.recipe.schema import meanings, schema, schema_text
from tests.support.environment import REPOSITORY
from tests.support.recipes import DOCUMENTS

SCHEMA = schema()
TEMPLATE = REPOSITORY / "bake" / "cli" / "template" / "manifests" / "hello.toml"


def faults(document: dict[str, Any]) -> list[str]:
    return [
        ".".join(map(str, each.absolute_path)) or each.message
        for each in Draft7Validator(SCHEMA).iter_errors(document)
    ]


def test_the_file_in_the_repository_is_current() -> None:
    path = REPOSITORY / "docs" / "recipe.schema.json"
    assert path.read_text() == schema_text(), "run: make schema"


def test_it_is_a_schema_without_references_that_every_editor_can_read() -> None:
    Draft7Validator.check_schema(SCHEMA)
    assert "$ref" not in schema_text()
    assert "null" not in schema_text()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_each_recipe_is_valid_and_names_the_schema_in_its_first_line(name: str) -> None:
    assert faults(DOCUMENTS[name]) == []
    [first, *_] = (REPOSITORY / "manifests" / f"{name}.toml").read_text().splitlines()
    assert first == "#:schema ../docs/recipe.schema.json"


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("base", "ubuntu-17.04"),
        ("nosuch", "x"),
        ("cuda.version", "10.11"),
        ("builder.disk_gb", 4),
        ("stages", []),
        ("packages.apt", ["htop", "htop"]),
        ("tags", {str(number): "" for number in range(30)}),
    ],
)
def test_a_wrong_value_is_found_at_its_place(place: str, value: object) -> None:
    document = tomllib.loads((REPOSITORY / "manifests" / "pytorch-cu126.toml").read_text())
    table, _, key = place.rpartition(".")
    (document.setdefault(table, {}) if table else document)[key] = value
    [found] = faults(document)
    assert place in found


def test_a_recipe_that_extends_another_one_needs_only_its_name() -> None:
    assert faults({"name": "mine", "extends": "pytorch-cu126", "builder": {"disk_gb": 100}}) == []
    assert faults({"extends": "pytorch-cu126"}) == ["'name' is a required property"]
    del (document := dict(DOCUMENTS["pytorch-cu126"]))["builder"]
    assert len(faults(document)) == 1


def keys(table: dict[str, Any], place: str = "") -> list[str]:
    """Return the keys of a table of the schema that are not tables, with their places."""
    found = []
    for name, field in table["properties"].items():
        below = keys(field, f"{place}{name}.") if "properties" in field else []
        found += below or [f"{place}{name}"]
    return found


def test_each_key_has_the_meaning_that_the_page_about_recipes_gives_it() -> None:
    assert set(keys(SCHEMA)) - meanings().keys() == set()
    assert SCHEMA["properties"]["driver"]["properties"]["branch"]["description"] == (
        'NVIDIA\'s driver branch, such as "535"'
    )
