"""The changes to Invoke's parser, help and list.

Everything that depends on Invoke's internals is in this file.
It works with Invoke 2.2 to 3.0 (setup.cfg). When Invoke changes a method that is replaced or used
here, tests/unit/cli/test_parser.py fails.
"""

from __future__ import annotations

import inspect
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn, TextIO

from invoke.config import Config
from invoke.exceptions import Exit, ParseError
from invoke.parser import Argument
from invoke.parser.context import ParserContext, to_flag
from invoke.parser.parser import ParseMachine
from invoke.program import Program
from invoke.tasks import Task

from bake.cli.completion.line import Option, Syntax, complete
from bake.cli.help import Entry, Page, command_list, command_page, suggestion
from bake.console.program import typed

WRONG_REQUEST = 2
HELP = ("-h", "--help")
# Invoke's options for shell commands that a task runs with Invoke's own functions.
_WITHOUT_EFFECT = (
    *("command-timeout", "dry", "echo", "hide", "prompt-for-sudo-password", "pty", "warn-only"),
)
_LIST_FORMATS = ("flat", "nested", "json")


class RepeatedArgument(Argument):  # type: ignore[misc]
    """A positional argument that may be given any number of times, or not at all.

    Invoke's own positional arguments must be given exactly once: the parser assigns words to them
    while their value is None, and reports an error if it is still None at the end. So this value is
    None until all words are read (`complete`). The words behind `--` are added after that.
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
            message = f"Invalid value for {to_flag(self.name)}: {value}."
            raise WrongWord(message, "Give a whole number") from None


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


class WrongWord(ParseError):  # type: ignore[misc]
    """A word that cannot be parsed; `hint` is a sentence with the command that lists the words."""

    def __init__(self, message: str, hint: str, context: ParserContext | None = None) -> None:
        self.message, self.hint = typed(message), typed(hint)
        super().__init__(f"{self.message} {self.hint}", context)


def _wrong(message: str, context: ParserContext | None) -> WrongWord:
    command = context.name if context else None
    what = f"the options: invoke {command} --help" if command else "the commands: invoke --list"
    return WrongWord(message, f"To list {what}", context)


def _handle_known(handle: Callable[[ParseMachine, str], None]) -> Callable[..., None]:
    """Return a `handle` that first reports a word that the command does not take."""

    def handle_known(machine: ParseMachine, word: str) -> None:
        if not machine.ignore_unknown:
            if not word:
                raise _empty(machine)
            if not machine.waiting_for_flag_value:
                _check_word(machine, word)
        handle(machine, word)

    return handle_known


def _check_word(machine: ParseMachine, word: str) -> None:
    context = machine.context
    if word.startswith("-"):
        options = [*context.flags, *context.inverse_flags] if context else []
        if word not in options:
            raise _unknown_option(machine, word, options)
        if _has_its_value(context.flags.get(word)):
            raise _wrong(f"The option {word} is given twice.", context)
    elif word not in machine.contexts and not (context and context.missing_positional_args):
        if context and context.name:
            raise _wrong(f"invoke {context.name} does not take the argument {word}.", context)
        raise _unknown_command(word, machine.contexts)


def _has_its_value(option: Argument | None) -> bool:
    """Return True for an option that takes one value and has got it."""
    if option is None or not option.takes_value or isinstance(option, RepeatedArgument):
        return False
    return option.raw_value is not None


def _empty(machine: ParseMachine) -> ParseError:
    """Return the error for an empty word: often a shell variable that is not set."""
    if machine.waiting_for_flag_value:
        message = f"The value of {to_flag(machine.flag.name)} is empty."
    else:
        message = "An argument is empty."
    return _wrong(message, machine.context)


def _unknown_option(machine: ParseMachine, word: str, options: Iterable[str]) -> ParseError:
    context = machine.context
    commands = machine.contexts.values()
    if not (context and context.name) and any(word in each.flags for each in commands):
        message = f"The option {word} belongs behind the command: invoke COMMAND {word}."
        return _wrong(message, context)
    return _wrong(f"Unknown option: {word}.{suggestion(word, options)}", context)


def _unknown_command(word: str, known: Iterable[str]) -> ParseError:
    return _wrong(f"Unknown command: {word}.{suggestion(word, known)}", None)


def _complete_with_value(complete_flag: Callable[[ParseMachine], None]) -> Callable[..., None]:
    """Return a `complete_flag` that first reports an option without its value."""

    def complete(machine: ParseMachine) -> None:
        option = machine.flag
        if option and machine.waiting_for_flag_value and not option.optional:
            meaning = f" ({option.help})" if option.help else ""
            message = f"The option {to_flag(option.name)} needs a value{meaning}."
            raise _wrong(message, machine.context)
        complete_flag(machine)

    return complete


ParseMachine.handle = _handle_known(ParseMachine.handle)
ParseMachine.complete_flag = _complete_with_value(ParseMachine.complete_flag)


class ParsedTask(Task):  # type: ignore[misc]
    """An Invoke task with repeated positional arguments and additional shared options.

    `shared` maps the name of each additional option to its default value and its help text. They
    are not in the signature of `body`, whose first `injected` parameters do not come from the
    command line. `common` names those that the help shows last. `arguments` is how the help shows
    the positional arguments. Words behind `--` are positional arguments, too; with `keeps_dashes`,
    the body gets them with the `--` in front of them.
    """

    help: dict[str, Any]
    section = "Other"

    def __init__(
        self,
        body: Callable[..., None],
        *,
        shared: Mapping[str, tuple[Any, str]],
        injected: int,
        common: Sequence[str] = (),
        arguments: str = "",
        examples: Sequence[str] = (),
        keeps_dashes: bool = False,
        **options: Any,
    ) -> None:
        self.keeps_dashes = keeps_dashes
        self.shared = shared
        self.injected = injected
        self.common = common
        self.arguments = arguments
        self.examples = examples
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

    def page(self, name: str) -> Page:
        """Return the help of this command, which has the full name `name`."""
        arguments = self.get_arguments()
        options = [argument for argument in arguments if not argument.positional]
        common = [option for option in options if option.name in self.common]
        own = [option for option in options if option not in common]
        positional = [argument for argument in arguments if argument.positional]
        optional = re.fullmatch(r"\[([^\[\]]*)\]", self.arguments)
        shown = optional[1] if optional else self.arguments
        # Behind `--` there are no options.
        words = [self.arguments, "[options]"][:: -1 if self.keeps_dashes else 1]
        return Page(
            usage=" ".join(filter(None, ["invoke", name, *words])),
            about=inspect.getdoc(self) or "",
            sections={
                "Arguments": [Entry(shown, argument.help or "") for argument in positional],
                "Options": [_option_entry(option) for option in own],
                "Common options": [
                    *(_option_entry(option) for option in common),
                    Entry(", ".join(HELP), "show this help"),
                ],
            },
            examples=self.examples,
        )

    def syntax(self) -> Syntax:
        """Return what completion needs to know about this command."""
        arguments = self.get_arguments()
        positional = [argument.name for argument in arguments if argument.positional]
        options = [argument for argument in arguments if not argument.positional]
        return Syntax(
            about=(inspect.getdoc(self) or "").partition("\n")[0],
            options=[*map(_option, options), Option("help", HELP[1:], False, "show this help")],
            positional="".join(positional),
            repeated="…" in self.arguments.partition(" -- ")[0],
        )


def _option(option: Argument) -> Option:
    flags = [to_flag(name) for name in option.names]
    takes_value = option.takes_value and not option.optional
    return Option(option.name, flags, takes_value, option.help or "")


def _option_entry(option: Argument) -> Entry:
    value = {str: " TEXT", int: " NUMBER"}.get(option.kind, "")
    text = option.help or ""
    if option.default and "(default:" not in text:
        text += f" (default: {option.default})"
    return Entry(f"{to_flag(option.name)}{value}", text)


def section(title: str, *commands: ParsedTask) -> Sequence[ParsedTask]:
    """Put commands into a section of `invoke --list`."""
    for each in commands:
        each.section = title
    return commands


# Invoke's program ---------------------------------------------------------------------------------


def _print(text: str) -> None:
    from bake.console.streams import NoReaderError, write_stdout
    from bake.errors import FileError

    try:
        write_stdout(text)
    except NoReaderError:
        raise Exit(code=1) from None
    except FileError as error:
        _fail(str(error), code=1)


def _fail(message: str, *, code: int) -> NoReturn:
    """Exit with a message on stderr, in lines of whole words if that is a terminal.

    Invoke itself writes it to stdout if stderr is closed, and fails if stderr is full.
    """
    from bake.console.streams import Stderr
    from bake.console.text import visible
    from bake.console.wrapping import wrapped_text

    width = _width(sys.stderr)
    text = visible(message)
    Stderr().write((wrapped_text(text, width) if width else text) + "\n")
    raise Exit(code=code)


def _wants_json(program: Program) -> bool:
    words: list[str] = program.argv[1:]
    return "--json" in (words[: words.index("--")] if "--" in words else words)


def _print_error(error: ParseError) -> None:
    """Print the JSON document of a request that could not be parsed."""
    import json

    from bake.errors import RequestError, error_document

    wrong = error if isinstance(error, WrongWord) else WrongWord(str(error), "")
    document = error_document(RequestError(wrong.message, hint=wrong.hint))
    _print(json.dumps({"error": document}, indent=2) + "\n")


def _width(stream: TextIO | None) -> int | None:
    """Return the columns of a terminal; None if it is not a terminal, where nothing is wrapped."""
    return shutil.get_terminal_size().columns if stream and stream.isatty() else None


def _commands(program: Program) -> dict[str, ParsedTask]:
    return {name: program.collection[name] for name in program.collection.task_names}


def _topic(program: Program) -> str | None:
    """Return the command whose help is requested, before or anywhere behind its name."""
    if isinstance(program.args.help.value, str):
        return str(program.args.help.value)
    words = program.core.unparsed
    named = [word for word in words if not word.startswith("-")]
    return named[0] if named and set(words) & set(HELP) else None


def _explain(topic: str, commands: Mapping[str, ParsedTask]) -> NoReturn:
    if topic not in commands:
        raise _unknown_command(topic, commands)
    _print(command_page(commands[topic].page(topic), _width(sys.stdout)))
    raise Exit


def _complete(program: Program, commands: Mapping[str, ParsedTask]) -> NoReturn:
    """Print the candidates for a command line, for the scripts in completion/shells.

    With BAKE_COMPLETION, each explains itself behind a tab. The exit code is 1 if there are none;
    0 without candidates means that names of files fit.
    """
    options = [each for each in program.initial_context.args.values() if each.name != "complete"]
    core = Syntax("", list(map(_option, options)))
    known = {name: each.syntax() for name, each in commands.items()}
    answer = complete(program.core.remainder, known, core)
    explain = bool(os.environ.get("BAKE_COMPLETION"))
    _print("".join(f"{each.line(explain=explain)}\n" for each in answer.candidates))
    raise Exit(code=0 if answer.candidates or answer.files else 1)


def _parse_or_explain(parse_tasks: Callable[[Program], None]) -> Callable[[Program], None]:
    """Return a `parse_tasks` that completes a line, shows help, or reports a wrong request."""

    def parse(program: Program) -> None:
        try:
            commands = _commands(program)
            if program.args.complete.value:
                _complete(program, commands)
            if topic := _topic(program):
                _explain(topic, commands)
            _check_core(program)
            _check_group(program, commands)
            _check_switches(program.core.unparsed, commands)
            parse_tasks(program)
            _add_words_behind_dashes(program, commands)
            if _wants_json(program) and len(program.tasks) > 1:
                raise WrongWord("--json works with one command at a time.", "Repeat it for each")
        except ParseError as error:
            if _wants_json(program):
                _print_error(error)
            _fail(typed(str(error)), code=WRONG_REQUEST)

    return parse


def _check_core(program: Program) -> None:
    """Raise ParseError for options of Invoke without an effect here, which it would accept.

    A user of `--dry` relies on it.
    """
    if isinstance(program, BakeProgram):
        return
    for name in _WITHOUT_EFFECT:
        if program.args[name].got_value:
            raise ParseError(
                f"The option {to_flag(name)} of Invoke has no effect on these commands. "
                "To list the options of a command: invoke COMMAND --help"
            )
    if (chosen := program.args["list-format"].value) not in (None, *_LIST_FORMATS):
        message = f"Unknown format of the list: {chosen}"
        raise ParseError(f"{message}. Give one of {', '.join(_LIST_FORMATS)}")


def _check_group(program: Program, commands: Mapping[str, ParsedTask]) -> None:
    """Raise ParseError for `--list NAME` with a name that is not one of a group of commands."""
    name = program.args.list.value if "list" in program.args else None
    groups = program.collection.collections
    if not isinstance(name, str) or name in groups:
        return
    if name in commands:
        message = f"{name} is a command, not a group. To explain it: invoke {name} --help"
        raise ParseError(message)
    raise _wrong(f"Unknown group of commands: {name}.{suggestion(name, groups)}", None)


def _check_switches(words: Sequence[str], commands: Mapping[str, ParsedTask]) -> None:
    """Raise ParseError for `--local=yes`, of which Invoke makes `--local` and an argument `yes`."""
    switches: set[str] = set()
    for word in words:
        if word in commands:
            known = commands[word].get_arguments()
            switches = {to_flag(each.name) for each in known if each.kind is bool}
        option, equals, value = word.partition("=")
        if equals and option in switches:
            message = f"The option {option} takes no value, but got {value!r}."
            raise ParseError(f"{message} Give {option} alone, or leave it out")


def _add_words_behind_dashes(program: Program, commands: Mapping[str, ParsedTask]) -> None:
    """Give the words behind `--` to the last command, as positional arguments.

    Invoke joins them into one text, which loses where each one ends.
    """
    words = program.argv[1:]
    if "--" not in words:
        return
    rest = words[words.index("--") + 1 :]
    if not program.tasks:
        if rest:
            raise _wrong(f"No command is named in front of -- {rest[0]}.", None)
        return
    context = program.tasks[-1]
    taken = [each for each in context.positional_args if isinstance(each, RepeatedArgument)]
    if commands[context.name].keeps_dashes:
        taken[0].words += ["--", *rest]
    elif rest and not taken:
        raise _wrong(f"invoke {context.name} does not take the argument {rest[0]}.", context)
    elif "" in rest:
        raise _wrong("An argument is empty.", context)
    elif rest:
        taken[0].words += rest


def _list_in_sections(list_tasks: Callable[[Program], None]) -> Callable[[Program], None]:
    """Return a `list_tasks` that lists all commands by their sections.

    `--list local` lists the commands of that group. Invoke lists in other formats and depths.
    """

    def show(program: Program) -> None:
        if program.list_depth or program.list_format != "flat":
            list_tasks(program)
            return
        group = f"{program.list_root}." if program.list_root else ""
        sections: dict[str, list[Entry]] = {}
        for name, each in _commands(program).items():
            if not name.startswith(group):
                continue
            about = (inspect.getdoc(each) or "").partition("\n")[0]
            sections.setdefault(each.section, []).append(Entry(name, about))
        _print(command_list(sections, _width(sys.stdout)))

    return show


def _list_without_command(program: Program) -> None:
    program.list_tasks()
    raise Exit


Program.parse_tasks = _parse_or_explain(Program.parse_tasks)
Program.list_tasks = _list_in_sections(Program.list_tasks)
Program.no_tasks_given = _list_without_command


class BakeProgram(Program):  # type: ignore[misc]
    """The program `bake`: the commands without Invoke's own options and configuration files."""

    def core_args(self) -> list[Argument]:
        known: list[Argument] = super().core_args()
        return [each for each in known if each.name in ("complete", "help", "version")]

    def create_config(self) -> None:
        self.config = Config(lazy=True)
        self.config.merge()

    def update_config(self, merge: bool = True) -> None:
        """Change nothing: each of Invoke's settings belongs to an option that is left out."""

    def parse_core(self, argv: list[str] | None) -> None:
        self.normalize_argv(argv)
        self.parse_core_args()
        if self.args.version.value:
            self.print_version()
            raise Exit

    def parse_cleanup(self) -> None:
        if self.args.help.value or not self.tasks:
            self.list_tasks()
            raise Exit
