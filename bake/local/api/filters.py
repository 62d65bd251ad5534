"""The filters of Describe requests: wildcards, and values of any type as text.

Source: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Filtering.html
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, TypeVar

Resource = TypeVar("Resource")


def select(filters: Mapping[str, Sequence[str]], resources: Iterable[Resource]) -> list[Resource]:
    """Return the resources of which each filter matches a value."""
    return [
        each
        for each in resources
        if all(
            matches(each.get_filter_value(name), wanted)  # type: ignore[attr-defined]
            for name, wanted in filters.items()
        )
    ]


def matches(value: Any, patterns: str | Sequence[str]) -> bool:
    """Return whether a value, or one of several, matches one of the patterns."""
    # moto itself filters with one pattern, without a list.
    expressions = [_expression(each) for each in _texts(patterns)]
    return any(each.fullmatch(text) for text in _texts(value) for each in expressions)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, bool):
        yield str(value).lower()
    elif isinstance(value, datetime):
        yield value.strftime("%Y-%m-%dT%H:%M:%S.000Z")
    elif isinstance(value, (list, tuple, set, frozenset)):
        for each in value:
            yield from _texts(each)
    elif value is not None:
        yield str(value)


@cache
def _expression(pattern: str) -> re.Pattern[str]:
    r"""Return a pattern of EC2 as a regular expression: * is any text, ? a character, \ literal."""
    wild = {"*": ".*", "?": "."}
    parts = re.findall(r"\\.|.", pattern, re.DOTALL)
    expression = (wild.get(part) or re.escape(part[-1]) for part in parts)
    return re.compile("".join(expression), re.DOTALL)
