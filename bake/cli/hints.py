"""Commands and pages in messages: completed so that they can be pasted.

The modules that write messages do not know how the user has called this program. They write
`invoke VERB ARGUMENTS`, in backticks or with nothing but punctuation behind it. Here, each of these
commands gets the program's path, its name there, and the options that select the same cloud and
region.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from pathlib import Path

from bake.console.program import typed, typed_verb

# Options of a command that a message may lack, with their values: "--local", "--region us-west-2".
Flags = Collection[str]
_IN_BACKTICKS = r"(?<=`)invoke (?P<quoted>[a-z][^`]*)(?=`)"
# Not preceded by a path, which is the program's already. Words are separated by one blank, and the
# last one ends before punctuation.
_WORD = r"""[^\s`"()]*[^\s`"().,;:]"""
_BARE = rf"(?<![\w/.`-])invoke (?P<bare>(?=[a-z]){_WORD}(?: {_WORD})*)"
COMMAND = re.compile(f"{_IN_BACKTICKS}|{_BARE}")


def complete_commands(text: str, program: str, flags_of: Callable[[str], Flags]) -> str:
    """Return the text with complete commands.

    `program` is how to call this program here. `flags_of` returns the options for a command, by its
    name.
    """

    def complete(found: re.Match[str]) -> str:
        words = found["quoted"] or found["bare"]
        command, dashes, rest = words.partition(" -- ")
        given = command.split()
        for flag in flags_of(given[0]):
            if flag.split()[0] not in given:
                command += f" {flag}"
        verb, space, arguments = command.partition(" ")
        return f"{program} {typed_verb(verb)}{space}{arguments}{dashes}{rest}"

    return typed(COMMAND.sub(complete, text))


def complete_pages(text: str, folder: Path) -> str:
    """Return the text with the full path of each page of `docs/`, which is in `folder`."""
    return re.sub(r"(?<![\w/])docs/(?=[\w-]+\.(?:md|json)\b)", lambda _: f"{folder}/", text)
