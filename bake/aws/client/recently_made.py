"""The resources that this process has made a moment ago.

EC2 is eventually consistent: some of its servers do not know yet the tags of a new resource, and a
policy that allows a call only for resources with a tag then denies it (EC2 Developer Guide,
"Eventual consistency").
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

# For this time after its creation, a denial may be an outdated one.
_YOUNG_S = 60.0
_MAKES = ("Copy", "Create", "Import", "Register", "Run")
_ID = re.compile(r"(ami|eni|i|sg|sir|snap|vol)-[0-9a-f]+")


class RecentlyMade:
    """The ids of new resources, with the time of their creation on the clock `now`."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._made: dict[str, float] = {}

    def note(self, operation: str, params: dict[str, Any], response: dict[str, Any]) -> None:
        """Remember the resources that this call has made."""
        if not operation.startswith(_MAKES):
            return
        ids = {text for text in _texts(response) if _ID.fullmatch(text)} - {*_texts(params)}
        if operation == "ImportKeyPair":  # a key pair is used by its name
            ids.add(params["KeyName"])
        self._made.update(dict.fromkeys(ids, self._now()))

    def is_named_in(self, params: dict[str, Any]) -> bool:
        """Return whether a request is about a resource that is new. A filter is not a target."""
        now = self._now()
        targets = {name: value for name, value in params.items() if name != "Filters"}
        made = (self._made.get(text, -math.inf) for text in _texts(targets))
        return any(now - moment < _YOUNG_S for moment in made)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for member in value.values():
            yield from _texts(member)
    elif isinstance(value, list | tuple):
        for member in value:
            yield from _texts(member)
