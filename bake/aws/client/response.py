"""What AWS answers. In its models no member of an answer is required, so any may not be there."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from bake.aws.tags import parse_time
from bake.errors import NoAnswerError


class Response(dict[str, Any]):
    """A structure of an answer. To take a member that is not there is a NoAnswerError.

    What can be done without is asked for with `get`.
    """

    def __init__(self, members: dict[str, Any], action: str) -> None:
        super().__init__((name, _legible(member, action)) for name, member in members.items())
        self._action = action

    def __missing__(self, name: str) -> Any:
        raise self.illegible(name)

    def the_first(self, name: str) -> Any:
        """Of a list that has to have something in it."""
        if not self[name]:
            raise self.illegible(name)
        return self[name][0]

    def time(self, name: str) -> datetime:
        """Of a member that AWS writes as a text."""
        found = parse_time(self[name])
        if found is None:
            raise self.illegible(name)
        return found

    def illegible(self, name: str) -> NoAnswerError:
        """What was asked for may have happened all the same."""
        return NoAnswerError(
            f"AWS's answer to {self._action} has no {name} that can be understood",
            hint="What answers is not the AWS that this was made for: look at AWS_ENDPOINT_URL, "
            "and for a newer version of bake",
        )


def _legible(member: Any, action: str) -> Any:
    if isinstance(member, dict):
        return Response(member, action)
    return [_legible(each, action) for each in member] if isinstance(member, list) else member
