"""Comparing versions, and hints that name the known words nearest to an unknown one."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

_MOST = 16  # names in a hint
# An instance type and its family.
_TYPE = re.compile(r"([a-z0-9-]+)\.[a-z0-9-]*(?:large|metal[a-z0-9-]*)")
# The length is limited, because Python refuses to convert very long numbers.
VERSION = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,5}")


def numbers(version: str) -> tuple[int, ...]:
    """Return a version as numbers that can be compared: 10.10 comes after 10.9."""
    return tuple(int(part) for part in version.split("."))


def distance(one: str, other: str) -> tuple[int, ...]:
    """Return how far two versions are apart: first by the major number, then by the minor one."""
    (a, b), (c, d) = ((*numbers(version), 0)[:2] for version in (one, other))
    # Of a later major version, the lowest minor version is the nearest; of an earlier one, the
    # highest.
    return (abs(a - c), abs(b - d) if a == c else b if a > c else -b)


def nearest(word: str, words: Iterable[str]) -> str:
    """Return a hint: the known words nearest to `word`; if none is near, known words of its kind.

    These are the instance types of the same family; else the families, or the first words.
    """
    known = list(words)
    return did_you_mean(word, known) or _known(word, known)


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """Return a hint: the known words nearest to `word`; empty if none is near."""
    known = list(words)
    if known and all(VERSION.fullmatch(version) for version in (word, *known)):
        near = sorted(known, key=lambda version: distance(version, word))[:2]
    else:
        near = difflib.get_close_matches(word, known, n=3, cutoff=0.6)
    return f"Did you mean {' or '.join(near)}?" if near else ""


def _known(word: str, known: Sequence[str]) -> str:
    types = [found for name in known if (found := _TYPE.fullmatch(name))]
    same = [each[0] for each in types if each[1] == word.partition(".")[0]]
    if types and not same and len(known) > _MOST:
        return f"Known families: {', '.join(dict.fromkeys(each[1] for each in types))}"
    known = same or known
    shown = ", ".join(known[:_MOST])
    more = f" and {len(known) - _MOST} more" if len(known) > _MOST else ""
    return f"Known: {shown}{more}" if known else ""


def runs_on(code: Iterable[str], capability: str) -> bool:
    """Tell whether code for these capabilities runs on a GPU: X.y runs on every X.z with z >= y."""
    major, minor = numbers(capability)
    return any(numbers(c)[0] == major and numbers(c)[1] <= minor for c in code)
