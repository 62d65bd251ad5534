"""docs/json.md and docs/json.schema.json, made from the types of the documents.

Run as a program, in the folder of tasks.py, it writes both files: `make json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic.json_schema import models_json_schema

from bake.cli.command import Command
from bake.cli.documents.document import Document, Failure
from bake.errors import BakeError

PAGE, SCHEMA = Path("docs/json.md"), Path("docs/json.schema.json")
# A part with more fields than this is described only once.
_SHORT = 6
_SIMPLE = {
    "string": "text",
    "integer": "integer",
    "number": "number",
    "boolean": "true or false",
    "null": "null",
    "object": "object",
}


def page(commands: Mapping[str, Command]) -> str:
    """Return docs/json.md. `commands` are all commands by their names."""
    schema = schemas(commands)
    documents: dict[str, list[str]] = {}
    for name, definition in _documents(commands).items():
        documents.setdefault(definition, []).append(name)
    introduction = Path(__file__).with_name("introduction.md").read_text(encoding="utf-8")
    blocks = [introduction, "## The error", _table(_rows(schema, "Failure", {})), _types()]
    described: dict[str, str] = {}
    for definition, names in documents.items():
        heading = ", ".join(f"invoke {name}" if name == names[0] else name for name in names)
        about = schema["$defs"][definition]["description"]
        blocks += [f"## {heading}", about, _table(_rows(schema, definition, described, names[0]))]
    return "\n\n".join(block.strip() for block in blocks) + "\n"


def _types() -> str:
    """Return a table of the types of errors, by the exit status of a command that ends with one."""
    by_status: dict[int, list[str]] = {}
    waiting: list[type[BakeError]] = [BakeError]
    while waiting:
        kind = waiting.pop()
        by_status.setdefault(kind.exit_code, []).append(f"`{kind.__name__}`")
        waiting += [each for each in kind.__subclasses__() if each.__module__ == kind.__module__]
    lines = [
        f"| {status} | {', '.join(sorted(by_status[status]))} |" for status in sorted(by_status)
    ]
    return "\n".join(["| exit status | `.error.type` |", "|---|---|", *lines])


def schemas(commands: Mapping[str, Command]) -> dict[str, Any]:
    """Return the JSON Schema of all documents. Its `commands` has the schema of each command."""
    types = {commands[name].document_type() for name in _documents(commands)}
    ordered = sorted(types, key=lambda each: each.__name__)
    parts: list[type[Document | Failure]] = [Failure, *ordered]
    _, found = models_json_schema([(each, "serialization") for each in parts])
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The JSON documents of bake's commands",
        "commands": {
            name: {"anyOf": [{"$ref": f"#/$defs/{definition}"}, {"$ref": "#/$defs/Failure"}]}
            for name, definition in _documents(commands).items()
        },
        "$defs": {name: _without_titles(each) for name, each in found["$defs"].items()},
    }


def schema_file(commands: Mapping[str, Command]) -> str:
    """Return docs/json.schema.json: a line for each command and for each type."""
    blocks = []
    for key, value in schemas(commands).items():
        text = json.dumps(value)
        if isinstance(value, dict):
            lines = [f"  {json.dumps(name)}: {json.dumps(each)}" for name, each in value.items()]
            text = "\n".join(["{", ",\n".join(lines), " }"])
        blocks.append(f" {json.dumps(key)}: {text}")
    return "\n".join(["{", ",\n".join(blocks), "}", ""])


def _documents(commands: Mapping[str, Command]) -> dict[str, str]:
    """Map each command with a document to the name of the document's type."""
    return {name: each.document_type().__name__ for name, each in commands.items() if each.document}


def _without_titles(definition: dict[str, Any]) -> dict[str, Any]:
    """Return a definition without pydantic's titles, which only repeat the names of the fields."""
    properties = {
        name: {key: value for key, value in each.items() if key != "title"}
        for name, each in definition["properties"].items()
    }
    return {**definition, "properties": properties}


def _table(rows: Iterator[tuple[str, str, str]]) -> str:
    lines = ["| field | type | meaning |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| `{field}` | {kind} | {text} |" for field, kind, text in rows)])


def _rows(
    schema: Mapping[str, Any],
    definition: str,
    described: dict[str, str],
    command: str = "",
    path: str = "",
) -> Iterator[tuple[str, str, str]]:
    """Return the rows of a type: its fields, and below each one the fields of its parts.

    `described` maps the types that the page has described to the places where it did.
    """
    for name, field in schema["$defs"][definition]["properties"].items():
        here = f"{path}.{name}"
        part, suffix = _part(field)
        if name == "error" and definition != "Failure":
            part = None  # it is described once, at the beginning
        text = field.get("description", "")
        if part in described:
            text += f"; the fields are those of {described[part]}"
        yield here, _kind(field), text
        if part and part not in described:
            if len(schema["$defs"][part]["properties"]) > _SHORT and command:
                described[part] = f"`{here}{suffix}` of `invoke {command}`"
            yield from _rows(schema, part, described, command, here + suffix)


def _part(field: Mapping[str, Any]) -> tuple[str | None, str]:
    """Return the name of the type of a field, if it has fields itself, and `[]` for a list."""
    if "$ref" in field:
        return field["$ref"].rpartition("/")[2], ""
    for each in field.get("anyOf", ()):
        if (found := _part(each))[0]:
            return found
    if isinstance(field.get("items"), dict):
        part, suffix = _part(field["items"])
        return part, f"[]{suffix}"
    return None, ""


def _kind(field: Mapping[str, Any]) -> str:
    """Return the type of a field in words."""
    if "anyOf" in field:
        return " or ".join(_kind(each) for each in field["anyOf"])
    if "$ref" in field:
        return "object"
    if "enum" in field:
        return " or ".join(f"`{value}`" for value in field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    if field.get("type") == "array":
        items = _kind(field.get("items", {}))
        return f"list of {'objects' if items == 'object' else items}"
    if isinstance(field.get("additionalProperties"), dict) and field["additionalProperties"]:
        return f"object with {_kind(field['additionalProperties'])} by name"
    if field.get("format") == "date-time":
        return "time"
    return _SIMPLE.get(field.get("type", ""), "any value")


def write(commands: Mapping[str, Command]) -> None:
    """Write both files."""
    PAGE.write_text(page(commands), encoding="utf-8")
    SCHEMA.write_text(schema_file(commands), encoding="utf-8")


if __name__ == "__main__":
    namespace = import_module("tasks").namespace
    write({name: namespace[name] for name in namespace.task_names})
