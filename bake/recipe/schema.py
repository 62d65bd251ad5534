"""The JSON Schema of a recipe, with which editors complete and check one.

It is made from the models, the catalog and docs/recipes.md. It has what JSON Schema's draft 7 knows
and no references, so every editor can read it. What the parts of a recipe mean together is not in
it: `bake plan` checks that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from bake.recipe.extends import EXTENDS
from bake.recipe.project import docs
from bake.recipe.recipe import Recipe

# What pydantic makes of names and docstrings, which are for people who read the code.
_LEFT_OUT = ("title", "description")
_NULL = {"type": "null"}  # TOML has no null


def schema_text() -> str:
    """Return the schema as the text of a file."""
    return json.dumps(schema(), indent=1) + "\n"


def schema() -> dict[str, Any]:
    """Return the schema of a recipe."""
    made = Recipe.model_json_schema()
    table = _without_references(made, made.pop("$defs"))
    needed = _take_required(table)
    needed["required"].remove("name")
    # What is needed, a recipe may take from another one.
    table |= {"required": ["name"], "anyOf": [{"required": [EXTENDS]}, needed]}
    _describe(table, meanings(), "")
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A recipe of bake",
        **table,
    }


def meanings() -> dict[str, str]:
    """Return the meaning of each key of a recipe, such as `cuda.version`, from docs/recipes.md."""
    found: dict[str, str] = {}
    page = (docs() / "recipes.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?) \| (.*?) \| .* \|$", page, re.MULTILINE)
    for keys, meaning in rows:
        table = ""
        for key in re.findall(r"`\[?([\w.]+)\]?`", keys):
            whole = f"{table}{key}" if key.startswith(".") else key
            table = whole.rpartition(".")[0]
            found.setdefault(whole, _plain(meaning))
    return found


def _plain(markdown: str) -> str:
    """Return a text without Markdown's backticks and links, and without references to the page."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", markdown)
    return re.sub(r"[:;] (?:see )?below", "", text).replace("`", "")


def _without_references(part: Any, definitions: Mapping[str, Any]) -> Any:
    """Return a part of the schema with each reference replaced by its definition."""
    if isinstance(part, list):
        return [_without_references(each, definitions) for each in part if each != _NULL]
    if not isinstance(part, dict):
        return part
    found = definitions[part["$ref"].rpartition("/")[2]] if "$ref" in part else {}
    kept = {
        key: _without_references(value, definitions)
        for key, value in {**found, **part}.items()
        if key not in (*_LEFT_OUT, "$ref", "properties")
    }
    if "properties" in {**found, **part}:  # keys that may be called as keywords are
        names = {**found, **part}["properties"].items()
        kept["properties"] = {key: _without_references(each, definitions) for key, each in names}
    return _simplified(kept)


def _simplified(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema without keywords that say nothing more than the others."""
    if len(schema.get("anyOf", ())) == 1:
        schema |= schema.pop("anyOf")[0]
    if "enum" in schema:
        schema.pop("pattern", None)
    if isinstance(schema.get("default"), dict | list | None):
        schema.pop("default", None)
    return schema


def _take_required(table: dict[str, Any]) -> dict[str, Any]:
    """Remove which keys are required, also in tables below, and return a schema of only that."""
    needed = {"required": table.pop("required", [])}
    below = {
        name: taken
        for name, each in table["properties"].items()
        if "properties" in each and (taken := _take_required(each))["required"]
    }
    return needed | ({"properties": below} if below else {})


def _describe(table: dict[str, Any], known: Mapping[str, str], place: str) -> None:
    """Write the meaning of each key into the schema of a table."""
    for name, field in table.get("properties", {}).items():
        here = f"{place}{name}"
        if here in known:
            field["description"] = known[here]
        _describe(field, known, f"{here}.")
