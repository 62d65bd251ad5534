"""The program that the user has typed, `invoke` or `bake`, and how its commands are written.

Texts are written for `invoke`, the program of a checkout. The installed program is called `bake`,
and `bake build` is its name for `invoke bake`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

INVOKE, BAKE = "invoke", "bake"
_IN_BAKE = {"bake": "build", "--list": "--help"}
_COMMAND = re.compile(r"(?<![\w/.-])invoke (?P<verb>[\w.-]+)")


def program_name() -> str:
    """Return the name of the program that the user has typed."""
    return BAKE if Path(sys.argv[0]).name == BAKE else INVOKE


def typed_verb(verb: str) -> str:
    """Return what the program that was typed calls a command of `invoke`."""
    return _IN_BAKE.get(verb, verb) if program_name() == BAKE else verb


def typed(text: str) -> str:
    """Return a text about `invoke` with the commands of the program that was typed."""
    name = program_name()
    return _COMMAND.sub(lambda found: f"{name} {typed_verb(found['verb'])}", text)
