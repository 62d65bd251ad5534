"""The class of all commands: their console, their common options, their exit codes."""

from __future__ import annotations

import atexit
import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

from invoke.exceptions import Exit

from bake.cli.options import CommonOptions, explained
from bake.cli.parser import WRONG_REQUEST, ParsedTask

if TYPE_CHECKING:
    from bake.cli.documents.document import Document
    from bake.console.console import Console
    from bake.errors import BakeError

INTERRUPTED = 130
# The common options that each command takes, by the name that it has in messages.
_TAKEN: dict[str, Sequence[str]] = {}

# At its exit, Python searches all objects for garbage several times, which takes a quarter of a
# second after a bake. The system frees the memory anyway.
atexit.register(gc.freeze)


class Command(ParsedTask):
    """A command. It calls its function with a console and the common options, then its own options.

    A BakeError or an interrupt ends it with a message and an exit code. With `--json`, it prints
    exactly one JSON document on stdout, of the type that `document` names: a module of
    bake/cli/documents and a class in it.
    """

    def __init__(
        self,
        body: Callable[..., None],
        *,
        takes: Sequence[str],
        group: type[Any] | None,
        interrupted: str,
        document: str | None,
        **options: Any,
    ) -> None:
        if ("json" in takes) != (document is not None):
            raise TypeError(f"{body.__name__} takes --json and has a document, or neither of both")
        self.takes = takes = (*takes, "project")
        self.document = document
        self.group = group
        self.interrupted = interrupted
        known = explained(CommonOptions)
        shared = {name: known[name] for name in takes}
        shared |= explained(group) if group else {}
        super().__init__(body, shared=shared, injected=3 if group else 2, common=takes, **options)
        _TAKEN[self.name.replace("_", "-")] = takes

    def __call__(self, _context: object, **given: Any) -> None:
        from bake.cli.environment import use_project
        from bake.console.console import Console

        def taken(names: Iterable[str]) -> dict[str, Any]:
            return {name: given.pop(name) for name in names if name in given}

        chooses_payload = "stand_in" in given
        common = CommonOptions(**taken(self.takes))
        groups = [self.group(**taken(explained(self.group)))] if self.group else []
        console = Console(
            json=common.json,
            quiet=common.quiet,
            verbose=common.verbose,
            complete=completion(common, chooses_payload=chooses_payload),
        )
        with running(console, interrupted=self.interrupted):
            use_project(common.project)
            _check_verbosity(common)
            self.body(console, common, *groups, **given)
            if common.json:
                console.check_answered(self.document_type())
        self.times_called += 1

    def document_type(self) -> type[Document]:
        """Return the type of the document that this command writes with `--json`."""
        module, _, name = str(self.document).partition(".")
        found: type[Document] = getattr(import_module(f"bake.cli.documents.{module}"), name)
        return found


def command(
    *takes: str,
    group: type[Any] | None = None,
    name: str | None = None,
    positional: Sequence[str] = (),
    keeps_dashes: bool = False,
    arguments: str = "",
    help: Mapping[str, str] | None = None,
    examples: Sequence[str] = (),
    document: str | None = None,
    interrupted: str = "everything that was started has been removed",
) -> Callable[[Callable[..., None]], Command]:
    """Make a command of a function `(console, common, its own options…)`.

    `takes` names the common options that the command accepts. `group` is a class of further options
    that arrive as one value, after the common ones. `help` explains the options in the signature.
    `arguments` is how the help shows the positional ones, such as `[RECIPE …]`. With
    `keeps_dashes`, the positional ones contain a `--` that was given. `document` names the type of
    the document that `--json` writes: `machines.MachinesDocument`. `interrupted` completes the
    warning after Ctrl-C: it says what remains.
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
            document=document,
        )

    return decorate


def _check_verbosity(common: CommonOptions) -> None:
    from bake.errors import RequestError

    if common.quiet and common.verbose:
        raise RequestError("--quiet and --verbose exclude each other", hint="Give one of them")


def completion(common: CommonOptions, *, chooses_payload: bool = False) -> Callable[[str], str]:
    """Return the function that completes the commands in messages, for the same cloud and project.

    A command that does not take one of these options is left without it. In the local cloud, a
    suggested bake is a rehearsal with stand-ins, which works for every recipe, unless the messages
    come from a command that chooses the payload itself.
    """
    from bake.cli.environment import this_program
    from bake.cli.hints import complete_commands, complete_pages
    from bake.recipe.project import built_in, docs

    options = {
        "local": common.local_flag.strip(),
        "region": common.region_flag.strip(),
        "project": common.project_flag.strip(),
    }

    def flags_of(command: str) -> list[str]:
        flags = [options[name] for name in options if options[name] and name in _taken(command)]
        rehearsal = common.local and command == "bake" and not chooses_payload
        return [*flags, "--stand-in"] if rehearsal else flags

    def complete(text: str) -> str:
        text = complete_commands(text, this_program(), flags_of)
        return complete_pages(text, docs()) if built_in().is_installed else text

    return complete


def _taken(command: str) -> Sequence[str]:
    return _TAKEN.get(command, ())


@contextmanager
def running(
    console: Console, *, interrupted: str = "everything that was started has been removed"
) -> Iterator[None]:
    """A context that turns a BakeError or an interrupt into a message and an exit code.

    So does an OSError about a file, from whichever library. If nothing reads stdout any more, the
    command ends without a message. Any other exception is a programming error and keeps its
    traceback. However the command ends, `--json` writes its document.
    """
    from bake.aws.client.undo import noted_leftovers
    from bake.console.streams import NoReaderError
    from bake.errors import BakeError, InterruptError
    from bake.files import any_file
    from bake.threads import one_interrupt

    try:
        with one_interrupt(console.warn), any_file():
            yield
            console.write_document()
    except BakeError as error:
        console.failure(error)
        _write_error(console)
        raise Exit(code=error.exit_code) from None
    except NoReaderError:
        raise Exit(code=1) from None
    except KeyboardInterrupt as interrupt:
        notes = noted_leftovers(interrupt)
        for note in notes:
            console.warn(note)
        but = "apart from that, " if notes else ""
        message = f"Interrupted; {but}{interrupted}."
        console.warn(message)
        console.fail(InterruptError(message, details=notes))
        _write_error(console)
        raise Exit(code=INTERRUPTED) from None
    except Exit:
        _write_error(console)
        raise
    except Exception as error:
        console.fail(BakeError(f"Unexpected error: {type(error).__name__}: {error}"))
        _write_error(console)
        raise


def _write_error(console: Console) -> None:
    """Write the document of a command that has failed. A failure to do so is only a warning."""
    from bake.console.streams import NoReaderError
    from bake.errors import FileError

    try:
        console.write_document()
    except (FileError, NoReaderError) as problem:
        console.warn(f"The error could not be written as JSON: {problem}")


def raise_for(console: Console, errors: Mapping[str, BakeError | None]) -> None:
    """Exit with 1 if one of several parts of the work failed, or with 2 if all were wrong requests.

    `errors` maps the name of each part to its error, which has been shown; None without an error.
    """
    from bake.errors import BakeError, RequestError

    failed = {name: error for name, error in errors.items() if error}
    if not failed:
        return
    wrong = [error for error in failed.values() if error.exit_code == WRONG_REQUEST]
    kind = RequestError if len(wrong) == len(errors) else BakeError
    details = [f"{name}: {error.full_message}" for name, error in failed.items()]
    summary = kind(f"{len(failed)} of {len(errors)} failed", details=details)
    error = summary if len(errors) > 1 else next(iter(failed.values()))
    console.fail(error)
    raise Exit(code=error.exit_code)
