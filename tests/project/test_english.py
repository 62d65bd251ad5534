"""Docstrings and messages are plain English: the patterns that readers stumbled over are refused.

docs/architecture.md and CONTRIBUTING.md show how to write. A list of patterns cannot tell good
English from bad; it only keeps out the habits that this project had.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.environment import REPOSITORY
from tests.support.source_texts import FILES, texts


class Pattern(NamedTuple):
    found: re.Pattern[str]
    write: str


def pattern(found: str, write: str) -> Pattern:
    return Pattern(re.compile(found), write)


# How a docstring begins that is a clause or a fragment, and not a sentence or a noun.
BEGINNINGS = (
    pattern(r"(?:What|Who|Whom|Whose|Whoever|Whatever)\b", 'a noun, as in "The errors of …"'),
    pattern(r"(?:Whether|If)\b", '"Return True if …" or "Tell if …"'),
    pattern(r"(?:How|Why|Where|When|Whenever|Wherever)\b(?!.*\?)", 'a verb: "Return how many …"'),
    pattern(r"(?:Of|By|As|At|Beside|Until|Once|Only|Nothing|Without)\b", "a verb or a noun first"),
    pattern(r"(?:That|Those|These|This one|The one|The ones|One that)\b", 'a noun: "The images …"'),
    pattern(r"(?:Nobody|Somebody|None|Neither|Not)\b", "a sentence that names the subject"),
    pattern(r"(?:Ours|Theirs|Its)\b", "the noun itself"),
)
# What may stand in no docstring and no message.
ANYWHERE = (
    pattern(
        r"\b(?:is|are|was) no (?!longer\b|more\b|such\b)",
        '"is not a …", "invalid …" or "X not found"',
    ),
    pattern(r"\bof (?:ours|yours|theirs|somebody else's)\b", 'name it: "that bake made"'),
    pattern(r"\b(?:nobody|somebody|whoever|whomever)\b", "the actor: the user, the caller, AWS"),
    pattern(r"\basked (?:for|again|about)\b", '"requested", "retried", "looked up"'),
    pattern(r"\b(?:to be|can be|could be|is|are) had\b", '"available" or "found"'),
    pattern(
        r"\b(?:is|are|was|were|be|been) (?:said|told)\b",
        '"is reported", "is printed", "the caller gets …"',
    ),
    pattern(
        r"\bgoes? (?:away|with it)\b|\b(?:it|that|which) goes\b(?! (?:on|to|into|through))",
        '"is removed"',
    ),
    pattern(r"\bthat there (?:is|are)\b|\bwhat there (?:is|are)\b", 'a noun: "the existing …"'),
    pattern(r"\bby (?:its|the cloud's|AWS's|EC2's) word\b", '"according to EC2"'),
    pattern(r"\b(?:those|that) of (?:it|them|these)\b", "the noun itself"),
    pattern(r"\bmade anew\b|\bonce more\b", '"again"'),
    pattern(r"\bby what\b|\bof what\b|\bof whom\b", "a sentence of its own"),
    pattern(r"\bshall\b", '"must", "will" or the present tense'),
    pattern(r"\b(?:goes?|went) on\b(?! to\b)", '"continues"'),
    pattern(r"\bso (?:many|much|long)\b(?! (?:as|that)\b)", '"this many", "this much"'),
    pattern(r"\bfrom (?:0|1) (?:up|on)\b", '"1 or more"'),
    pattern(r"\bends? well\b", '"fails", "failed", "succeeds"'),
    pattern(r"\bhas no code for\b", '"does not support"'),
    pattern(r"\bleft nothing\b|\bnothing left\b", '"no orphaned resources", "clean"'),
    pattern(r"\bby how long\b|\blength of time\b", '"duration"'),
    pattern(r"\ball the same\b", '"anyway", or what is the same'),
    pattern(r"\b(?:is|are) there already\b", '"already exists"'),
    pattern(r"\bcosts on\b|\btells why\b", '"keeps costing money", "contains the reason"'),
)


def faults(path: Path) -> Iterator[str]:
    """Each refused pattern of a file, with its place and with what to write instead."""
    place = path.relative_to(REPOSITORY)
    for line, text, is_docstring in texts(path):
        if not is_docstring and text.count(" ") < 2:
            continue  # a name, an option, a pattern
        for found, write in ANYWHERE:
            if match := found.search(text):
                yield f"{place}:{line}: “{match[0].strip()}”: write {write}"
        if is_docstring:
            for found, write in BEGINNINGS:
                if match := found.match(text):
                    yield f"{place}:{line}: begins with “{match[0]}”: write {write}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_texts_are_plain_english(path: Path) -> None:
    found = list(faults(path))
    assert not found, "\n" + "\n".join(found)
