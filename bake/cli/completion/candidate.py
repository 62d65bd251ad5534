"""A candidate, and the place in a command line that it is for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from bake.console.text import visible


class Candidate(NamedTuple):
    """A word for the place of the cursor, and its explanation."""

    name: str
    text: str = ""

    def line(self, *, explain: bool) -> str:
        """Return the name, and the explanation behind a tab if `explain`."""
        text = " ".join(visible(self.text).split())
        return f"{self.name}\t{text}" if explain and text else self.name


@dataclass(frozen=True)
class Place:
    """The argument at the cursor, the part of its value that was typed, and the chosen cloud.

    `number` counts the positional words in front of it.
    """

    name: str
    word: str
    command: str
    number: int
    local: bool
    region: str | None
