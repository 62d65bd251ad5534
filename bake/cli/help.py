"""The help of a command and the list of commands, as text for a terminal of a given width."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bake.console.program import BAKE, program_name, typed

WIDEST = 100  # longer lines are hard to read
UNLIMITED = 1_000_000  # columns, for a program that reads the text
NARROW = 60  # below this width, an explanation is under its name instead of beside it
NAME_WIDTH = 24


@dataclass(frozen=True)
class Entry:
    """An argument, an option or a command, and its explanation."""

    name: str
    text: str


@dataclass(frozen=True)
class Page:
    """The help of a command. `sections` maps the title of each group of entries to the entries."""

    usage: str
    about: str
    sections: Mapping[str, Sequence[Entry]]
    examples: Sequence[str]


def command_page(page: Page, columns: int | None) -> str:
    """Return the help of a command, for a terminal of that width or, without one, not wrapped."""
    width = min(columns, WIDEST) if columns else UNLIMITED
    usage = _wrapped(f"Usage: {page.usage}", width, later=" " * len("Usage: "))
    blocks = [usage, _wrapped(page.about, width), *_sections(page.sections, width)]
    if page.examples:
        lines = [line for example in page.examples for line in _shell_lines(example, width)]
        blocks.append(["Examples:", *lines])
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def command_list(sections: Mapping[str, Sequence[Entry]], columns: int | None) -> str:
    """Return the list of all commands, in groups; without a width, nothing is wrapped."""
    width = min(columns, WIDEST) if columns else UNLIMITED
    hints = _wrapped("To explain a command: invoke COMMAND --help", width)
    if program_name() == BAKE:
        hints += _wrapped("To show the version: bake --version", width)
    blocks = [*_sections(sections, width), hints]
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return ` Did you mean …?` with the most similar name, or nothing if none is similar."""
    names = list(known)
    nearest = [name for name in names if name.rpartition(".")[2] == word]
    nearest = nearest or difflib.get_close_matches(word, names, n=1)
    return f" Did you mean {nearest[0]}?" if nearest else ""


def _sections(sections: Mapping[str, Sequence[Entry]], width: int) -> Iterator[list[str]]:
    names = [len(entry.name) for entries in sections.values() for entry in entries]
    column = min(max(names, default=0), NAME_WIDTH) + 4
    for title, entries in sections.items():
        if entries:
            lines = [line for entry in entries for line in _entry_lines(entry, column, width)]
            yield [f"{title}:", *lines]


def _entry_lines(entry: Entry, column: int, width: int) -> list[str]:
    if width < NARROW:
        return [f"  {entry.name}", *_wrapped(entry.text, width, first=" " * 6, later=" " * 6)]
    text = _wrapped(entry.text, width, first=" " * column, later=" " * column)
    if len(entry.name) + 4 > column:
        return [f"  {entry.name}", *text]
    first = text[0].lstrip() if text else ""
    return [f"  {entry.name}".ljust(column) + first, *text[1:]]


def _shell_lines(command: str, width: int) -> list[str]:
    """Return a command on lines that end with a backslash, so that a shell takes them as one."""
    lines = _wrapped(command, width - len(" \\"), first="  ", later="    ")
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]


def _wrapped(text: str, width: int, *, first: str = "", later: str = "") -> list[str]:
    """Return lines of whole words: ids, options and names are never broken."""
    return textwrap.wrap(
        typed(text),
        width,
        initial_indent=first,
        subsequent_indent=later,
        break_long_words=False,
        break_on_hyphens=False,
    )
