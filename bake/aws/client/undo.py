"""Removing what was made: every step is tried, and what could not be removed is named."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from bake.errors import BakeError
from bake.threads import held_back


@dataclass(frozen=True)
class Leftover:
    """Something that costs money or stands open, and the command that removes it."""

    resource: str
    command: str
    reason: str

    def __str__(self) -> str:
        return f"left behind: {self.resource} ({self.reason}). Remove it with: {self.command}"


@contextmanager
def undo(leftovers: list[Leftover], resource: str, command: str) -> Iterator[None]:
    """One step of the cleaning up: its failure is written down, so that the next step runs too."""
    with tried(leftovers, resource, command), held_back():
        yield


@contextmanager
def tried(leftovers: list[Leftover], resource: str, command: str) -> Iterator[None]:
    """The same for what may be interrupted, and begun again later."""
    try:
        yield
    except Exception as error:
        reason = str(error)
        if isinstance(error, BakeError) and (error.code or error.reason):
            reason = ": ".join(part for part in (error.code, error.reason) if part)
        leftovers.append(Leftover(resource, command, reason))


@contextmanager
def clean_up(leftovers: list[Leftover]) -> Iterator[ExitStack]:
    """The stack on which the resources of a run stand.

    When the work fails, the error that comes out is the work's own; what could not be removed is
    added to its details. When the work succeeds, `leftovers` is for the caller to show.
    """
    before = len(leftovers)
    try:
        with ExitStack() as stack:
            yield stack
    except BakeError as error:
        error.details += tuple(str(leftover) for leftover in leftovers[before:])
        raise
    except BaseException as error:
        for leftover in leftovers[before:]:
            error.add_note(str(leftover))
        raise
