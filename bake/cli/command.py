"""The class of all commands: their console, their common options, their exit codes."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from invoke.exceptions import Exit

from bake.cli.options import CommonOptions, explained
from bake.cli.parser import ParsedTask

if TYPE_CHECKING:
    from bake.console.console import Console

INTERRUPTED = 130
# The common options that each command takes, by the name that it has in messages.
_TAKEN: dict[str, Sequence[str]] = {}

# At its exit, Python searches all objects for garbage several times, which takes a quarter of a
# second after a bake. The system frees the memory anyway.
atexit.register(gc.freeze)


class Command(ParsedTask):
    """A command. It calls its function with a console and the common options, then its own options.

    A BakeError or an interrupt ends it with a message and an exit code. With `--json`, it prints
    exactly one JSON document on stdout.
    """

    def __init__(
        self,
        body: Callable[..., None],
        *,
        takes: Sequence[str],
        group: type[Any] | None,
        interrupted: str,
        **options: Any,
    ) -> None:
        self.takes = takes
        self.group = group
        self.interrupted = interrupted
        known = explained(CommonOptions)
        shared = {name: known[name] for name in takes}
        shared |= explained(group) if group else {}
        super().__init__(body, shared=shared, injected=3 if group else 2, common=takes, **options)
        _TAKEN[self.name.replace("_", "-")] = takes

    def __call__(self, _context: object, **given: Any) -> None:
        from bake.console.console import Console

        def taken(names: Iterable[str]) -> dict[str, Any]:
            return {name: given.pop(name) for name in names if name in given}

        common = CommonOptions(**taken(self.takes))
        groups = [self.group(**taken(explained(self.group)))] if self.group else []
        console = Console(
            json=common.json,
            quiet=common.quiet,
            verbose=common.verbose,
            complete=completion(common),
        )
        with running(console, interrupted=self.interrupted):
            _check_verbosity(common)
            self.body(console, common, *groups, **given)
            console.check_answered()
        self.times_called += 1


def command(
    *takes: str,
    group: type[Any] | None = None,
    name: str | None = None,
    positional: Sequence[str] = (),
    keeps_dashes: bool = False,
    arguments: str = "",
    help: Mapping[str, str] | None = None,
    examples: Sequence[str] = (),
    interrupted: str = "everything that was started has been removed",
) -> Callable[[Callable[..., None]], Command]:
    """Make a command of a function `(console, common, its own options…)`.

    `takes` names the common options that the command accepts. `group` is a class of further options
    that arrive as one value, after the common ones. `help` explains the options in the signature.
    `arguments` is how the help shows the positional ones, such as `[RECIPE …]`. With
    `keeps_dashes`, the positional ones contain a `--` that was given.
    `interrupted` completes the warning after Ctrl-C: it says what remains.
    """

    def decorate(body: Callable[..., None]) -> Command:
        return Command(
            body,
            takes=takes,
            group=group,
            interrupted=interrupted,
            name=name,
            positional=positional,
            keeps_dashes=keeps_dashes,
            arguments=arguments,
            help=dict(help or {}),
            examples=examples,
        )

    return decorate


def _check_verbosity(common: CommonOptions) -> None:
    from bake.errors import RequestError

    if common.quiet and common.verbose:
        raise RequestError("--quiet and --verbose exclude each other", hint="Give one of them")


def completion(common: CommonOptions) -> Callable[[str], str]:
    """Return the function that completes the commands in messages, for the same cloud and region.

    A command that does not take one of these options is left without it.
    """
    from functools import partial

    from bake.cli.environment import invoke_program
    from bake.cli.hints import complete_commands

    options = {"local": common.local_flag.strip(), "region": common.region_flag.strip()}

    def flags_of(command: str) -> list[str]:
        return [options[name] for name in options if options[name] and name in _taken(command)]

    return partial(complete_commands, program=invoke_program(), flags_of=flags_of)


def _taken(command: str) -> Sequence[str]:
    return _TAKEN.get(command, ())


@contextmanager
def running(
    console: Console, *, interrupted: str = "everything that was started has been removed"
) -> Iterator[None]:
    """A context that turns a BakeError or an interrupt into a message and an exit code.

    So does an OSError about a file, from whichever library. If nothing reads stdout any more, the
    command ends without a message. Any other exception is a programming error and keeps its
    traceback.
    """
    from bake.aws.client.undo import noted_leftovers
    from bake.console.streams import NoReaderError
    from bake.errors import BakeError
    from bake.files import any_file
    from bake.threads import one_interrupt

    try:
        with one_interrupt(console.warn), any_file():
            yield
    except BakeError as error:
        console.failure(error)
        raise Exit(code=error.exit_code) from None
    except NoReaderError:
        raise Exit(code=1) from None
    except KeyboardInterrupt as interrupt:
        notes = noted_leftovers(interrupt)
        for note in notes:
            console.warn(note)
        but = "apart from that, " if notes else ""
        console.warn(f"Interrupted; {but}{interrupted}.")
        raise Exit(code=INTERRUPTED) from None


def raise_for(outcomes: Sequence[Any]) -> None:
    """Exit with 1 if one of several outcomes failed, or with 2 if all were wrong requests."""
    codes = [outcome.error.exit_code if outcome.error else 0 for outcome in outcomes]
    if any(codes):
        raise Exit(code=min(codes) or 1)
