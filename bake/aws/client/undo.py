"""Clean-up: every step is attempted, and a resource that could not be removed is reported."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from bake.errors import BakeError
from bake.threads import held_back


@dataclass(frozen=True)
class Leftover:
    """A resource that could not be removed, with the command that removes it."""

    resource: str
    command: str
    reason: str

    def __str__(self) -> str:
        return f"left behind: {self.resource} ({self.reason}). Remove it with: {self.command}"


@contextmanager
def undo(leftovers: list[Leftover], resource: str, command: str) -> Iterator[None]:
    """Run a clean-up step that cannot be interrupted and does not raise.

    When it fails, a Leftover is added to `leftovers`, and the next step can run.
    """
    with tried(leftovers, resource, command), held_back():
        yield


@contextmanager
def tried(leftovers: list[Leftover], resource: str, command: str) -> Iterator[None]:
    """Run a clean-up step like `undo`, but one that can be interrupted and repeated later."""
    try:
        yield
    except Exception as error:
        cloud_words = error.cloud_words if isinstance(error, BakeError) else ""
        leftovers.append(Leftover(resource, command, cloud_words or str(error)))


@contextmanager
def clean_up(leftovers: list[Leftover]) -> Iterator[ExitStack]:
    """Yield an ExitStack for the removal of a run's resources.

    When the work inside fails, its own error is raised, with the leftovers of this clean-up noted
    on it. When the work succeeds, the caller has to show `leftovers`.
    """
    before = len(leftovers)
    try:
        with ExitStack() as stack:
            yield stack
    except BaseException as error:
        note_leftovers(error, leftovers[before:])
        raise


def note_leftovers(error: BaseException, leftovers: Iterable[Leftover]) -> None:
    """Add the leftovers to the error, each once: to a BakeError's details, else as notes."""
    for text in map(str, leftovers):
        if isinstance(error, BakeError):
            if text not in error.details:
                error.details += (text,)
        elif text not in noted_leftovers(error):
            error.add_note(text)


def noted_leftovers(error: BaseException) -> tuple[str, ...]:
    """Return the leftovers noted on an error that is not a BakeError, such as Ctrl-C."""
    return tuple(getattr(error, "__notes__", ()))
