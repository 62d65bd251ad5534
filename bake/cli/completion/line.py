"""The candidates for the place of the cursor in a command line.

The line may be incomplete or wrong: nothing here raises, and what is not understood is skipped.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from bake.cli.completion.candidate import Candidate, Place
from bake.cli.completion.values import LISTS, values_for
from bake.cli.environment import use_project
from bake.errors import RequestError

# What a shell takes as one word, as it is. Other names, such as a machine's with a blank or `$(…)`,
# are not offered: they would have to be quoted, differently in each shell.
_SAFE = re.compile(r"[A-Za-z0-9_.,:/@+=-]+")
_ASSIGNMENT = re.compile(r"\w+=.*")


@dataclass(frozen=True)
class Option:
    """An option of a command, for example `--cuda` with the name `cuda`."""

    name: str
    flags: Sequence[str]
    takes_value: bool
    text: str


@dataclass(frozen=True)
class Syntax:
    """A command's options, and the name of its positional argument, if it takes any words."""

    about: str
    options: Sequence[Option]
    positional: str = ""
    repeated: bool = False

    def option(self, flag: str) -> Option | None:
        return next((option for option in self.options if flag in option.flags), None)


class Answer(NamedTuple):
    """Candidates for the word at the cursor; `files` if the shell's own names of files fit."""

    candidates: list[Candidate]
    files: bool = False


@dataclass
class _Read:
    """The part of the line before the cursor's word, as far as it was read."""

    command: str = ""
    given: dict[str, str] = field(default_factory=dict)  # the values of options, by their names
    words: list[str] = field(default_factory=list)
    waiting: Option | None = None  # its value is the next word
    free: bool = False  # behind `--`: the words belong to another program


def complete(line: str, commands: Mapping[str, Syntax], core: Syntax) -> Answer:
    """Return the candidates for the end of `line`, which begins with the name of the program.

    `core` are the options in front of the command. A candidate replaces the whole last word.
    """
    *before, word = _split(line)
    read = _read(before[1:], commands, core)
    syntax = commands.get(read.command, core)
    answer = _answer(read, syntax, commands, word)
    return Answer([each for each in answer.candidates if _SAFE.fullmatch(each.name)], answer.files)


def _split(line: str) -> list[str]:
    """Return the words of the line, from the program's name on; the last one may be empty."""
    for quote in ("", "'", '"', "\\"):  # the last word may have a quote that is not closed yet
        try:
            # The dot keeps a last word that is empty, and a blank in front of it.
            words = shlex.split(f"{line}.{quote}")
        except ValueError:
            continue
        words[-1] = words[-1][:-1]
        while len(words) > 1 and _ASSIGNMENT.fullmatch(words[0]):
            del words[0]
        return words if len(words) > 1 else ["", *words]
    return ["", ""]


def _read(words: Iterable[str], commands: Mapping[str, Syntax], core: Syntax) -> _Read:
    read, syntax = _Read(), core
    for word in words:
        flag, equals, value = word.partition("=")
        if read.waiting:
            read.given[read.waiting.name] = word
            read.waiting = None
        elif word == "--":
            read.free = True
        elif read.free:
            continue
        elif word.startswith("-"):
            if option := syntax.option(flag):
                read.given[option.name] = value
                read.waiting = option if option.takes_value and not equals else None
        elif word in commands and not syntax.positional:
            read, syntax = _Read(command=word), commands[word]
        else:
            read.words.append(word)
    return read


def _answer(read: _Read, syntax: Syntax, commands: Mapping[str, Syntax], word: str) -> Answer:
    flag, equals, value = word.partition("=")
    option = syntax.option(flag) if equals else None
    if read.free:
        return Answer([], files=True)
    if read.waiting:
        return _values(read, read.waiting.name, word)
    if option:
        return _values(read, option.name, value, prefix=f"{flag}=")
    if word.startswith("-"):
        return Answer(_options(read, syntax))
    if not read.command:
        return Answer([Candidate(name, each.about) for name, each in commands.items()])
    if not syntax.positional:
        return Answer(_options(read, syntax))
    if read.words and not syntax.repeated:
        return Answer([])
    return _values(read, syntax.positional, word)


def _options(read: _Read, syntax: Syntax) -> list[Candidate]:
    options = [option for option in syntax.options if option.name not in read.given]
    return [
        Candidate(flag, option.text)
        for option in options
        for flag in option.flags
        if flag.startswith("--")
    ]


def _values(read: _Read, name: str, word: str, prefix: str = "") -> Answer:
    """Return the values of an option or a positional argument; `prefix` is in front of each."""
    taken = read.words
    if name in LISTS:
        others, comma, word = word.rpartition(",")
        taken, prefix = others.split(","), f"{prefix}{others}{comma}"
    place = Place(
        name=name,
        word=word,
        command=read.command,
        number=len(read.words),
        local="local" in read.given or read.command.startswith("local."),
        region=read.given.get("region"),
    )
    with suppress(RequestError):
        use_project(read.given.get("project"))
    found = values_for(place)
    if found is None:
        return Answer([], files=True)
    left = [each for each in found if each.name not in taken]
    return Answer([each._replace(name=prefix + each.name) for each in left])
