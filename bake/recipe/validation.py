"""Findings for people, made from the errors that pydantic reports about a document.

The hint is the field's description, except for the kinds of value in `bake.recipe.fields`, whose
errors have hints of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import get_args, get_origin

import pydantic
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from bake.catalog import nearest
from bake.errors import Finding


def findings(error: pydantic.ValidationError, model: type[BaseModel]) -> Iterator[Finding]:
    """Turn each error that pydantic found in a document of this model into a finding."""
    for fault in error.errors(include_url=False):
        location = tuple(part for part in fault["loc"] if part != "[key]")
        place, field = _place(location), _field(location, model)
        described = f"Write {field.description}" if field and field.description else ""
        match fault["type"]:
            case "bake":
                context = fault["ctx"]
                place = ".".join(filter(None, (place, context["below"])))
                yield Finding(place, context["message"], context["hint"])
            case "extra_forbidden":
                table = _table(location[:-1], model) or model
                hint = nearest(str(location[-1]), table.model_fields)
                yield Finding(place, "unknown key", hint)
            case "missing":
                yield Finding(place, "is missing", described)
            case "model_type" | "dict_type":
                yield Finding(place, "is not a table", f"Write [{place}], and its keys below")
            case _:
                message = fault["msg"].removeprefix("Input ").removeprefix("Value ")
                yield Finding(place, message[:1].lower() + message[1:], described)


def _place(location: Iterable[int | str]) -> str:
    """Write a location as in TOML: `builder.instance_types[0]`, `tags."a b"`."""
    place = ""
    for part in location:
        if isinstance(part, int):
            place += f"[{part}]"
        else:
            place += f".{part}" if re.fullmatch(r"[\w-]+", part) else f'."{part}"'
    return place.removeprefix(".")


def _table(location: Iterable[int | str], model: type[BaseModel]) -> type[BaseModel] | None:
    table = model
    parts = iter(location)
    for part in parts:
        field = table.model_fields.get(str(part))
        kind = field.annotation if field else None
        if get_origin(kind) is dict and next(parts, None) is not None:  # a table of tables
            kind = get_args(kind)[1]
        if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
            return None
        table = kind
    return table


def _field(location: tuple[int | str, ...], model: type[BaseModel]) -> FieldInfo | None:
    """Return the field that a location belongs to: for an item of a list, the list's field."""
    for length in range(len(location), 0, -1):
        table = _table(location[: length - 1], model)
        if table and (field := table.model_fields.get(str(location[length - 1]))):
            return field
    return None
