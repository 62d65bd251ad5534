"""A command of the command line: its options, its console, its exit code.

The other files of `bake/cli/` hold the commands; this holds what is the same in all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from invoke.exceptions import Exit
from invoke.parser import Argument
from invoke.parser.parser import ParseMachine
from invoke.tasks import Task

WRONG = 2
INTERRUPTED = 130

EVERYWHERE = {
    "json": "one JSON document on stdout, nothing else there",
    "quiet": "only warnings, failures and the result",
    "verbose": "every line that the machine prints",
    "local": "the local cloud on this computer instead of AWS (started when needed)",
    "region": "AWS region (default: your AWS configuration's)",
}


class Names(Argument):  # type: ignore[misc]
    """A positional argument that may be given never, once or several times.

    Invoke's own positionals must be given exactly once: it takes words for them while their value
    is None, and complains when it still is at the end. So the value is None until the end.
    """

    def __init__(self, name: str, help: str) -> None:
        super().__init__(name=name, kind=str, help=help, positional=True)
        self.words: list[str] = []
        self.complete = False

    @property
    def value(self) -> tuple[str, ...] | None:
        return tuple(self.words) if self.complete else None

    @value.setter
    def value(self, word: str) -> None:
        if word.startswith("-"):
            option = f"There is no option {word} here; invoke --help COMMAND lists those there are"
            raise Exit(option, code=WRONG)
        self.words.append(word)
        self.raw_value = word  # what Invoke looks at when it was given by its name: --machine NAME

    @property
    def got_value(self) -> bool:
        return bool(self.words)


class WholeNumber(Argument):  # type: ignore[misc]
    """An option that says what it takes, where Invoke's own lets Python's error out."""

    def set_value(self, value: Any, cast: bool = True) -> None:
        try:
            super().set_value(value, cast)
        except ValueError:
            said = f"--{self.name.replace('_', '-')} takes a whole number, not {value}"
            raise Exit(said, code=WRONG) from None


def _complete_names(complete_context: Callable[[ParseMachine], None]) -> Callable[..., None]:
    def complete(machine: ParseMachine) -> None:
        if machine.context:
            for argument in machine.context.positional_args:
                if isinstance(argument, Names):
                    argument.complete = True
        complete_context(machine)

    return complete


ParseMachine.complete_context = _complete_names(ParseMachine.complete_context)


class Command(Task):  # type: ignore[misc]
    """An Invoke task with `Names` for its positionals, and with its common options explained."""

    help: dict[str, Any]

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Argument]:
        explained = dict(self.help)
        arguments: list[Argument] = super().get_arguments(ignore_unknown_help=ignore_unknown_help)
        self.help = explained  # Invoke takes out what it has read; it must be there the next time
        return [self._ours(argument) for argument in arguments]

    def _ours(self, argument: Argument) -> Argument:
        if argument.name in self.positional:
            return Names(argument.name, argument.help)
        if argument.kind is int:
            same = {"default": argument.default, "help": argument.help, "kind": int}
            return WholeNumber(names=argument.names, attr_name=argument.attr_name, **same)
        return argument

    def arg_opts(self, name: str, default: Any, taken_names: set[str]) -> dict[str, Any]:
        options: dict[str, Any] = super().arg_opts(name, default, taken_names)
        options.setdefault("help", EVERYWHERE.get(name.replace("-", "_")))
        return options


@contextmanager
def running(
    console: Any, *, interrupted: str = "what was started has been removed"
) -> Iterator[None]:
    """What a command does happens in here: failures become words and an exit code.

    A traceback is left only for what is our own mistake. `interrupted` says how things are then.
    """
    from bake.aws.client.undo import noted_leftovers
    from bake.errors import BakeError
    from bake.threads import one_interrupt

    try:
        with one_interrupt(console.warn):
            yield
    except BakeError as error:
        console.failure(error)
        raise Exit(code=error.exit_code) from None
    except KeyboardInterrupt as interrupt:
        left = noted_leftovers(interrupt)
        for note in left:
            console.warn(note)
        rest = "the rest of " if left else ""
        console.warn(f"Interrupted; {rest}{interrupted}.")
        raise Exit(code=INTERRUPTED) from None


def raise_for(outcomes: Sequence[Any]) -> None:
    """The exit code of several bakes: 1 where one failed, 2 where all were wrong requests."""
    codes = [outcome.error.exit_code if outcome.error else 0 for outcome in outcomes]
    if any(codes):
        raise Exit(code=min(codes) or 1)
