"""The texts of the code that a person reads: docstrings, messages, first comments of scripts."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.support.environment import REPOSITORY

PYTHON = sorted(
    path
    for folder in ("bake", "benchmarks", "scripts")
    for path in (REPOSITORY / folder).rglob("*.py")
)
SHELL = sorted(
    path for folder in ("bake", "scripts") for path in (REPOSITORY / folder).rglob("*.sh")
)
TEMPLATES = sorted((REPOSITORY / "bake").rglob("*.j2"))
FILES = [*PYTHON, REPOSITORY / "tasks.py", *SHELL, *TEMPLATES]


class Text(NamedTuple):
    line: int
    text: str
    is_docstring: bool


def texts(path: Path) -> Iterator[Text]:
    """Yield the docstrings and the messages of a file, each variable part of a message as `…`.

    The docstring of a shell script is its first comment. A template's messages are its lines.
    """
    source = path.read_text()
    if path.suffix == ".sh":
        yield from _shell_texts(source.splitlines())
        return
    if path.suffix == ".j2":
        for number, line in enumerate(source.splitlines(), start=1):
            yield Text(number, re.sub(r"\{[{%#].*?[}%#]\}|<[^>]*>", "…", line), False)
        return
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            statement = node.body[0]
            assert isinstance(statement, ast.Expr)
            docstrings.add(id(statement.value))
            yield Text(statement.lineno, str(ast.get_docstring(node)), True)
        elif isinstance(node, ast.JoinedStr):
            parts = (p.value if isinstance(p, ast.Constant) else "…" for p in node.values)
            yield Text(node.lineno, "".join(map(str, parts)), False)
            docstrings |= {id(part) for part in node.values}
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in docstrings
        ):
            yield Text(node.lineno, node.value, False)


def _shell_texts(lines: Sequence[str]) -> Iterator[Text]:
    for number, line in enumerate(lines[1:], start=2):
        if not line.startswith("# "):
            break
        yield Text(number, line.removeprefix("# "), number == 2)
    for number, line in enumerate(lines, start=1):
        for message in re.findall(r'\b(?:fail|say) "((?:[^"\\]|\\.)*)"', line):
            yield Text(number, re.sub(r"\$\{[^}]*\}|\$\(.*?\)|\$\w+|\$\(", "…", message), False)
