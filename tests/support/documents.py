"""The JSON document of a command, checked against the type that the command names."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import TypeAdapter

import tasks
from bake.cli.documents.document import Document, Failure
from bake.console.console import Console


def documents() -> dict[str, type[Document]]:
    """Return the type of the document of each command with --json, by the command's name."""
    commands = {name: tasks.namespace[name] for name in tasks.namespace.task_names}
    return {name: each.document_type() for name, each in commands.items() if each.document}


def checked(command: str, text: str) -> dict[str, Any]:
    """Return the JSON document that the command has printed; fail if it is not of its type."""
    document: dict[str, Any] = json.loads(text)
    known: Any = documents().get(command)
    kind: Any = TypeAdapter(Failure if known is None else known | Failure)
    assert kind.dump_python(kind.validate_json(text), mode="json") == document
    return document


def document_of(show: Callable[[Console], None], capsys: pytest.CaptureFixture[str]) -> Any:
    """Return the document of a view."""
    console = Console(json=True)
    show(console)
    console.write_document()
    return json.loads(capsys.readouterr().out)
