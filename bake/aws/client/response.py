"""Responses of AWS. In AWS's models no member of a response is required, so any may be missing."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from bake.aws.tags import parse_time
from bake.errors import NoAnswerError


class Response(dict[str, Any]):
    """A structure in a response. `response["Member"]` raises NoAnswerError for a missing member.

    Use `get` for a member that may be missing.
    """

    def __init__(self, members: dict[str, Any], action: str) -> None:
        super().__init__((name, _readable(member, action)) for name, member in members.items())
        self._action = action

    def __missing__(self, name: str) -> Any:
        raise self.unreadable(name)

    def first(self, name: str) -> Any:
        """Return the first element of a list; NoAnswerError if the list is empty."""
        if not self[name]:
            raise self.unreadable(name)
        return self[name][0]

    def time(self, name: str) -> datetime:
        """Return a time that AWS writes as text; NoAnswerError if it is not a time."""
        found = parse_time(self[name])
        if found is None:
            raise self.unreadable(name)
        return found

    def unreadable(self, name: str) -> NoAnswerError:
        """Return the error for a missing or invalid member. The request may have had its effect."""
        return NoAnswerError(
            f"AWS's response to {self._action} has no valid {name}",
            hint="The endpoint may not be AWS: check AWS_ENDPOINT_URL. If AWS has changed, a newer "
            "version of bake may know the change",
        )


def _readable(member: Any, action: str) -> Any:
    if isinstance(member, dict):
        return Response(member, action)
    return [_readable(each, action) for each in member] if isinstance(member, list) else member
