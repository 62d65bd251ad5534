"""Who may import whom: the table in docs/architecture.md, read and held against the source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.environment import REPOSITORY

PACKAGE = REPOSITORY / "bake"
SOURCES = [*sorted(PACKAGE.rglob("*.py")), REPOSITORY / "tasks.py"]
# What only one part knows: the library, and the places that may import it. The local cloud is a
# server that speaks EC2's language, so it may ask botocore how that is spelled.
LIBRARIES = {
    "boto3": {"aws"},
    "botocore": {"aws", "local"},
    "fabric": {"remote"},
    "paramiko": {"remote"},
    "moto": {"local"},
}
ABOVE = ("tasks", "commands", "schedule", "pipeline", "launch")


def place(path: Path) -> str:
    """The table's name for a file: the part of `bake` that it belongs to."""
    parts = path.relative_to(PACKAGE).parts if path.is_relative_to(PACKAGE) else (path.name,)
    return parts[0].removesuffix(".py")


def read_table() -> dict[str, set[str]]:
    """What each place may import, itself left out."""
    text = (REPOSITORY / "docs" / "architecture.md").read_text()
    rows = [
        ([name.strip("/") for name in re.findall(r"`(?:bake/)?([\w/]+)(?:\.py)?`", first)], last)
        for first, last in re.findall(r"^\| (`.+?) \|.+\| ?(.*?) ?\|$", text, re.MULTILINE)
    ]
    everything = {name for names, _ in rows for name in names}
    foundation = {name for names, last in rows if last == "nothing of ours" for name in names}
    table = {}
    for names, last in rows:
        for name in names:
            match last:
                case "everything":
                    allowed = everything
                case "all below":
                    allowed = everything - set(ABOVE)
                case "nothing of ours":
                    allowed = {"errors", "interrupts"}  # which import nothing at all
                case _ if last.startswith("anything but "):
                    above = {"tasks", "commands", *last[len("anything but ") :].split(", ")}
                    allowed = everything - above
                case _:
                    allowed = foundation | set(filter(None, last.split(", ")))
            table[name] = allowed | {name}
    return table


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of what a file imports; what is only for types is no dependency."""
    tree = ast.parse(path.read_text())
    for_types = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test).endswith("TYPE_CHECKING")
        for statement in block.body
        for node in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute here"
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


TABLE = read_table()
PARTS = {place(path) for path in SOURCES} - {"__init__"}


def test_the_table_is_read() -> None:
    assert {"tasks", "pipeline", "launch", "plan", "aws", "remote", "errors"} <= TABLE.keys()
    assert "remote" not in TABLE["aws"]
    assert "aws" not in TABLE["remote"]
    assert "errors" in TABLE["aws"]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_imports_point_the_way_that_the_table_says(path: Path) -> None:
    if path == PACKAGE / "__init__.py":
        assert list(imports(path)) == []
        return
    allowed = TABLE.get(place(path), set())
    for line, name in imports(path):
        package, _, rest = name.partition(".")
        part = rest.split(".")[0]
        if package == "bake" and part in PARTS:
            assert part in allowed, f"{path}:{line}: imports bake.{part}"
        assert place(path) in LIBRARIES.get(package, {place(path)}), f"{path}:{line}: {name}"


def test_each_part_stands_in_the_table() -> None:
    assert not PARTS - TABLE.keys()


def test_each_part_in_the_table_exists() -> None:
    assert not TABLE.keys() - PARTS


def test_only_the_command_line_knows_of_the_local_cloud() -> None:
    for path in SOURCES:
        if place(path) not in ("local", "commands"):
            assert "bake.local" not in path.read_text(), path
