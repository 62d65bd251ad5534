"""The types of the JSON documents keep the rules of docs/json.md, which is made from them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from jsonschema import Draft202012Validator

import tasks
from bake.cli.documents import page
from bake.cli.documents.images import ImageEntry
from tests.support.commands import invoke
from tests.support.environment import REPOSITORY
from tests.support.finished_images import IMAGE

COMMANDS = {name: tasks.namespace[name] for name in tasks.namespace.task_names}
SCHEMA = page.schemas(COMMANDS)
# The ends of the names of numbers.
UNITS = re.compile(
    r"_(?:s|gb|mib|mhz|w|percent|usd|count|vcpus|port|left|error)$|^(?:vcpus|port|index)$"
    r"|usd_per_(?:hour|month)(?:_at_most|_by_zone)?$|^usd_since_launch$|^images_per_usd$"
)
# In `unit`, which is beside them.
IN_UNIT = {"value", "low", "high", "runs"}


def fields() -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Return each field of each type: the type's name, its own, and its schema."""
    for definition, schema in SCHEMA["$defs"].items():
        for name, field in schema["properties"].items():
            yield definition, name, field


def parts(schema: Any) -> Iterator[Mapping[str, Any]]:
    """Return a schema, and all schemas in it."""
    if isinstance(schema, dict):
        yield schema
        for each in schema.values():
            yield from parts(each)
    elif isinstance(schema, list):
        for each in schema:
            yield from parts(each)


@pytest.mark.parametrize(
    ("path", "text"),
    [(page.PAGE, page.page(COMMANDS)), (page.SCHEMA, page.schema_file(COMMANDS))],
    ids=["page", "schema"],
)
def test_the_files_are_those_that_the_types_make(path: Any, text: str) -> None:
    assert (REPOSITORY / path).read_text() == text, "run make json"


def test_every_command_with_json_has_a_schema_in_its_section() -> None:
    with_json = {name for name, each in COMMANDS.items() if "json" in each.takes}
    assert SCHEMA["commands"].keys() == with_json
    headings = re.findall(r"^## invoke (.+)$", (REPOSITORY / page.PAGE).read_text(), re.MULTILINE)
    assert {name for line in headings for name in line.split(", ")} == with_json


def test_names_and_values_are_in_snake_case() -> None:
    words = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
    for definition, name, field in fields():
        assert words.fullmatch(name), f"{definition}.{name}"
        for part in parts(field):
            for value in part.get("enum", ()):
                assert words.fullmatch(value), f"{definition}.{name}: {value}"


def test_numbers_have_their_unit_in_their_name() -> None:
    for definition, name, field in fields():
        kinds = {part.get("type") for part in parts(field)}
        if {"number", "integer"} & kinds:
            assert UNITS.search(name) or name in IN_UNIT, f"{definition}.{name}"


def test_each_field_is_explained_and_always_present() -> None:
    for definition, name, field in fields():
        assert field.get("description"), f"{definition}.{name}"
    for definition, schema in SCHEMA["$defs"].items():
        assert sorted(schema["required"]) == sorted(schema["properties"]), definition


def test_times_end_with_at_and_ids_with_id() -> None:
    for definition, name, field in fields():
        is_time = any(part.get("format") == "date-time" for part in parts(field))
        assert is_time == name.endswith("_at"), f"{definition}.{name}"
        assert name != "run", f"{definition}.{name}: it is a run_id"


def test_an_error_is_an_object_or_null_in_every_document() -> None:
    for name in SCHEMA["commands"]:
        kind = COMMANDS[name].document_type().__name__
        error = SCHEMA["$defs"][kind]["properties"]["error"]
        assert error["anyOf"] == [{"$ref": "#/$defs/ErrorPart"}, {"type": "null"}]


def test_what_a_command_writes_is_valid_by_the_published_schema() -> None:
    published = json.loads((REPOSITORY / page.SCHEMA).read_text())
    for words in (["recipes"], ["lock"], ["plan", "--nosuch"]):
        validator = Draft202012Validator({**published["commands"][words[0]], **published})
        document = json.loads(invoke(*words, "--json").stdout)
        assert not list(validator.iter_errors(document))
        assert list(validator.iter_errors({**document, "more": 1}))


# Requests that cannot be parsed ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["bake", "--nosuch"], "Unknown option: --nosuch.", "invoke bake --help"),
        (["bake", "--jobs", "two"], "Invalid value for --jobs: two.", "whole number"),
        (["bake", "--cuda"], "The option --cuda needs a value", "invoke bake --help"),
        (["nosuch"], "Unknown command: nosuch.", "invoke --list"),
        (["connect", "lab1"], "Unknown option: --json.", "invoke connect --help"),
        (["machines", "lab1"], "invoke machines does not take the argument lab1.", "--help"),
        (["recipes", "doctor"], "--json works with one command at a time.", "Repeat it"),
        (["report", "a", "b"], "This command takes one bake, not several: a b", "Name one bake"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
@pytest.mark.parametrize("first", [True, False])
def test_a_request_that_cannot_be_parsed_has_a_document(
    words: list[str], message: str, hint: str, first: bool
) -> None:
    ended = invoke(words[0], "--json", *words[1:]) if first else invoke(*words, "--json")
    assert ended.returncode == 2
    error = json.loads(ended.stdout)["error"]
    assert error["type"] == "RequestError"
    assert error["message"].startswith(message)
    assert hint in error["hint"]
    assert message in ended.stderr


# What AWS may say --------------------------------------------------------------------------------


def test_tags_that_were_changed_by_hand_are_no_error() -> None:
    odd = {"bake:verified": "perhaps", "bake:payload": "?", "bake:used-by": "me"}
    image = ImageEntry.of_image(replace(IMAGE, tags={**IMAGE.tags, **odd}), None)
    assert (image.proved, image.payload) == ("no", None)
    stand_in = ImageEntry.of_image(replace(IMAGE, tags={"bake:payload": "stand-in"}), None)
    assert stand_in.payload == "stand_in"
    assert (stand_in.recipe, stand_in.run_id) == (None, None)
