"""The imports between packages follow docs/architecture.md: few floors and no circle."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.support.environment import REPOSITORY

PACKAGE = REPOSITORY / "bake"
SOURCES = [
    *(path for path in sorted(PACKAGE.rglob("*.py")) if "on_machine" not in path.parts),
    REPOSITORY / "tasks.py",
]
# Each library that only some packages may import. The local cloud is a server that speaks EC2's
# language, so it may ask botocore how a request is spelled.
LIBRARIES = {
    "boto3": {"aws"},
    "botocore": {"aws", "local"},
    "fabric": {"ssh"},
    "paramiko": {"ssh"},
    "moto": {"local"},
}
MOST_NAMES, MOST_FLOORS = 16, 9
# A command imports what it needs when it runs, so that `invoke --list` answers at once.
LATE = "cli"


def package_of(path: Path) -> str:
    """Return the name in the table of the package or file of `bake/` to which a file belongs."""
    if not path.is_relative_to(PACKAGE):
        return path.stem
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in SOURCES}
PACKAGES = {package_of(path) for path in SOURCES} - {"__init__"}


@cache
def imports(path: Path) -> tuple[tuple[int, str], ...]:
    """Return the line and module of each import, inside functions and for types, too."""

    def found() -> Iterator[tuple[int, str]]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}:{node.lineno}: imports are absolute here"
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    yield node.lineno, full if full in MODULES else str(node.module)

    return tuple(found())


def read_table() -> dict[str, set[str]]:
    """Return the column "may import" of the page's first table, by package."""
    text = (REPOSITORY / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| `(?:bake/)?(\w+)(?:\.py|/)` \|.+\|([^|]*)\|$", text, re.MULTILINE)
    return {name: set(filter(None, re.split(r"[,\s]+", last))) for name, last in rows}


TABLE = read_table()


def floors(graph: Mapping[str, set[str]]) -> dict[str, int]:
    """Return the floor of each node: 1 without imports, else one above the highest import."""
    found: dict[str, int] = {}
    for name in TopologicalSorter(graph).static_order():
        found[name] = 1 + max((found[other] for other in graph.get(name, ())), default=0)
    return found


def package_graph() -> dict[str, set[str]]:
    graph: dict[str, set[str]] = {name: set() for name in PACKAGES}
    for path in SOURCES:
        for _, name in imports(path):
            part = name.split(".")[1] if name.startswith("bake.") else ""
            if part in PACKAGES and part != package_of(path):
                graph[package_of(path)].add(part)
    graph.pop("__init__", None)
    return graph


def test_the_table_has_a_row_for_each_package_and_no_other() -> None:
    assert TABLE.keys() == PACKAGES


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_a_file_imports_only_what_the_table_allows(path: Path) -> None:
    here = package_of(path)
    for line, name in imports(path):
        top, _, rest = name.partition(".")
        if top == "bake" and rest:
            other = rest.split(".")[0]
            assert other in TABLE.get(here, set()) | {here}, f"{path}:{line}: imports {name}"
        assert here in LIBRARIES.get(top, {here}), f"{path}:{line}: imports {name}"


def test_the_table_allows_nothing_that_no_file_uses() -> None:
    assert {name: allowed - package_graph()[name] for name, allowed in TABLE.items()} == {
        name: set() for name in TABLE
    }


def test_modules_import_each_other_in_no_circle() -> None:
    graph = {
        module: {name for _, name in imports(path) if name in MODULES and name != module}
        for module, path in MODULES.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"circle: {' imports '.join(error.args[1][::-1])}")


def test_the_house_has_few_floors() -> None:
    assert max(floors(package_graph()).values()) <= MOST_FLOORS


def test_the_top_level_shows_the_product_in_few_names() -> None:
    names = {path.name for path in PACKAGE.iterdir()} - {"__init__.py", "__pycache__"}
    assert len(names) <= MOST_NAMES, sorted(names)


def test_imports_stand_at_the_top_outside_the_commands() -> None:
    late = [
        f"{path.relative_to(REPOSITORY)}:{node.lineno}"
        for path in SOURCES
        if package_of(path) != LATE
        for function in ast.walk(ast.parse(path.read_text()))
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("bake")
    ]
    # plotly takes half a second to import, and the stand-ins' server needs no plan.
    assert [place.split(":")[0] for place in late] == [
        "bake/local/standin/__init__.py",
        "bake/pipeline/finish.py",
    ]


def test_only_the_commands_know_of_the_local_cloud() -> None:
    for path in SOURCES:
        if package_of(path) not in ("local", "cli"):
            assert "bake.local" not in path.read_text(), path


def test_no_test_imports_another_test() -> None:
    """Shared code stands in tests/support, so that any file of tests can be moved or split."""
    for path in (REPOSITORY / "tests").rglob("*.py"):
        for line, name in imports(path):
            allowed = not name.startswith("tests.") or name.startswith("tests.support.")
            assert allowed, f"{path}:{line}: imports {name}"


def test_each_package_says_what_it_is() -> None:
    for path in SOURCES:
        assert ast.get_docstring(ast.parse(path.read_text())), path
