"""What the pages say: their blocks, their commands, and the texts of the code."""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path

from tests.support.environment import REPOSITORY

PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
    REPOSITORY / "docs" / "recipes" / "README.md",
]


def blocks(page: Path, *languages: str) -> list[str]:
    """Return the code blocks of a page in these languages."""
    wanted = "|".join(languages)
    pattern = rf"^( *)```(?:{wanted})\n(.*?)^\1```"
    found = re.findall(pattern, page.read_text(), re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(text) for _, text in found]


def command_lines(page: Path) -> list[str]:
    """Return the lines that a reader types: of bash blocks, and after `$` of console blocks."""
    typed = [line for block in blocks(page, "bash", "sh") for line in _joined(block)]
    shown = [line for block in blocks(page, "console") for line in block.splitlines()]
    return typed + [line.removeprefix("$ ") for line in shown if line.startswith("$ ")]


def _joined(block: str) -> list[str]:
    return re.sub(r"\\\n\s*", " ", block).splitlines()


def invocations(page: Path) -> Iterator[list[str]]:
    """Yield the words of each `invoke …` or `bake …` of a page: in blocks, and between backticks.

    They are those of `invoke`: `bake build` is `invoke bake`.
    """
    inline = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL))
    for line in [*command_lines(page), *(" ".join(each.split()) for each in inline)]:
        for words in _simple_commands(line):
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            program = words[0].rpartition("/")[2] if words else ""
            if program == "invoke":
                yield words[1:]
            elif program == "bake":
                yield ["bake" if word == "build" else word for word in words[1:2]] + words[2:]


def _simple_commands(line: str) -> Iterator[list[str]]:
    """Yield the commands of a line of shell; those of `$(…)` too."""
    for inner in re.findall(r"\$\(([^()]*)\)", line):
        yield from _simple_commands(inner)
    try:
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|()<>")
        lexer.whitespace_split, lexer.commenters = True, "#"
        words = list(lexer)
    except ValueError:  # a text between backticks that is no shell
        return
    command: list[str] = []
    for word in words:
        if re.fullmatch(r"[;&|()<>]+", word):
            yield command
            command = []
        else:
            command.append(word)
    yield command
