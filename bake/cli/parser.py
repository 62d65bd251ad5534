"""The changes to Invoke's parser. Everything that depends on Invoke's internals is in this file.

It works with Invoke 2.2 to 3.0 (setup.cfg). When Invoke changes a method that is replaced or used
here, tests/unit/cli/test_parser.py fails.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from invoke.exceptions import Exit
from invoke.parser import Argument
from invoke.parser.parser import ParseMachine
from invoke.tasks import Task

WRONG_REQUEST = 2


class RepeatedArgument(Argument):  # type: ignore[misc]
    """A positional argument that may be given any number of times, or not at all.

    Invoke's own positional arguments must be given exactly once: the parser assigns words to them
    while their value is None, and reports an error if it is still None at the end. So this value is
    None until all words are read (`complete`).
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
            message = f"Unknown option: {word}. To list the options: invoke --help COMMAND"
            raise Exit(message, code=WRONG_REQUEST)
        self.words.append(word)
        self.raw_value = word  # Invoke checks this after `--machine NAME`

    @property
    def got_value(self) -> bool:
        return bool(self.words)


class IntegerArgument(Argument):  # type: ignore[misc]
    """An option that reports an invalid number; Invoke's own lets the ValueError escape."""

    def set_value(self, value: Any, cast: bool = True) -> None:
        try:
            super().set_value(value, cast)
        except ValueError:
            option = f"--{self.name.replace('_', '-')}"
            message = f"Invalid value for {option}: {value}. It takes a whole number"
            raise Exit(message, code=WRONG_REQUEST) from None


def _complete_repeated(complete_context: Callable[[ParseMachine], None]) -> Callable[..., None]:
    """Return a `complete_context` that first marks the repeated arguments as complete."""

    def complete(machine: ParseMachine) -> None:
        if machine.context:
            for argument in machine.context.positional_args:
                if isinstance(argument, RepeatedArgument):
                    argument.complete = True
        complete_context(machine)

    return complete


ParseMachine.complete_context = _complete_repeated(ParseMachine.complete_context)


class ParsedTask(Task):  # type: ignore[misc]
    """An Invoke task with repeated positional arguments and additional shared options.

    `shared` maps the name of each additional option to its default value and its help text. They
    are not in the signature of `body`, whose first `injected` parameters do not come from the
    command line.
    """

    help: dict[str, Any]

    def __init__(
        self,
        body: Callable[..., None],
        *,
        shared: Mapping[str, tuple[Any, str]],
        injected: int,
        **options: Any,
    ) -> None:
        self.shared = shared
        self.injected = injected
        super().__init__(body, auto_shortflags=False, **options)

    def argspec(self, body: Callable[..., None]) -> inspect.Signature:
        signature = inspect.signature(body)
        own = list(signature.parameters.values())[self.injected :]
        keyword = inspect.Parameter.KEYWORD_ONLY
        more = [
            inspect.Parameter(name, keyword, default=default)
            for name, (default, _) in self.shared.items()
        ]
        return signature.replace(parameters=[*own, *more])

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Argument]:
        explained = dict(self.help)
        arguments: list[Argument] = super().get_arguments(ignore_unknown_help=ignore_unknown_help)
        self.help = explained  # Invoke removes the entries that it reads, and may read them again
        return [self._adapted(argument) for argument in arguments]

    def arg_opts(self, name: str, default: Any, taken_names: set[str]) -> dict[str, Any]:
        options: dict[str, Any] = super().arg_opts(name, default, taken_names)
        if name in self.shared:
            options.setdefault("help", self.shared[name][1])
        return options

    def _adapted(self, argument: Argument) -> Argument:
        if argument.name in self.positional:
            return RepeatedArgument(argument.name, argument.help)
        if argument.kind is int:
            return IntegerArgument(
                names=argument.names,
                attr_name=argument.attr_name,
                default=argument.default,
                help=argument.help,
                kind=int,
            )
        return argument
