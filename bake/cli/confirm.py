"""The question before something is destroyed, the same for each command that does so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from invoke.exceptions import Exit

from bake.cli.parser import WRONG_REQUEST

if TYPE_CHECKING:
    from bake.console.console import Console


def confirm(
    console: Console, question: str, *, yes: bool, command: str, details: Sequence[str] = ()
) -> None:
    """Return if the user gave `--yes`, or answers the question with yes in a terminal.

    `details` are lines to read before the answer. `command` is the same command line with `--yes`.
    Raises RequestError where no question can be answered. Exits with 2 if the answer is no.
    """
    from bake.errors import RequestError

    if yes:
        return
    if not console.can_ask:
        raise RequestError(
            f"No question can be answered here, and --yes is missing: {question}",
            details=details,
            hint=f"Nothing was done. To confirm: {command}",
        )
    if not console.ask(question, *details):
        console.warn("Nothing was done.")
        raise Exit(code=WRONG_REQUEST)
