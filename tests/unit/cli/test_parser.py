"""The changes to Invoke's parser, and a guard against changes in Invoke itself."""

from __future__ import annotations

import configparser
import hashlib
import inspect
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from typing import Any

import pytest
from invoke import Collection
from invoke.exceptions import ParseError
from invoke.parser import Argument, Parser
from invoke.parser.parser import ParseMachine
from invoke.program import Program
from invoke.tasks import Task
from packaging.requirements import Requirement

from bake.cli import parser
from bake.cli.command import command
from bake.machine import run as shell
from tests.support.commands import invoke
from tests.support.environment import REPOSITORY
from tests.support.terminal import INVOKE, in_terminal


@command("json", positional=["recipe"], help={"recipe": "which"}, document="cooking.Meal")
def cook(
    console: Any, common: Any, recipe: tuple[str, ...] = (), cuda: str | None = None, jobs: int = 4
) -> None:
    """Cook it."""


@command()
def serve(console: Any, common: Any) -> None:
    """Serve it."""


def parse(*words: str) -> list[tuple[str, dict[str, Any]]]:
    namespace = Collection(cook, serve)
    contexts = Parser(contexts=namespace.to_contexts()).parse_argv(list(words))
    return [(context.name, context.as_kwargs) for context in contexts]


@pytest.mark.parametrize(
    ("words", "recipe"),
    [
        (["cook"], ()),
        (["cook", "mxnet-cu101"], ("mxnet-cu101",)),
        (["cook", "a", "b", "--json", "c"], ("a", "b", "c")),
        (["cook", "--cuda", "10.1"], ()),
        (["cook", "--cuda", "10.1", "a"], ("a",)),
        (["cook", "--recipe", "a", "--json"], ("a",)),
    ],
)
def test_a_positional_argument_may_be_given_any_number_of_times(
    words: list[str], recipe: tuple[str, ...]
) -> None:
    assert parse(*words)[0][1]["recipe"] == recipe


def test_a_command_without_positional_arguments_can_be_followed_by_another() -> None:
    assert [name for name, _ in parse("serve", "cook")] == ["serve", "cook"]


def test_every_option_is_explained() -> None:
    contexts = Collection(cook).to_contexts()
    assert dict(contexts[0].help_tuples())["--json"].startswith("one JSON document")
    assert dict(contexts[0].help_tuples())["--recipe=STRING"] == "which"


def test_help_can_be_read_more_than_once() -> None:
    first, second = (Collection(cook).to_contexts()[0].help_tuples() for _ in range(2))
    assert first == second


@pytest.mark.parametrize("option", ["--cudda", "-j"])
def test_an_unknown_option_is_reported(option: str) -> None:
    with pytest.raises(ParseError, match=f"Unknown option: {option}") as wrong:
        parse("cook", option)
    assert wrong.value.context.name == "cook"  # Invoke's completion asks for it


def test_an_invalid_number_is_reported() -> None:
    with pytest.raises(ParseError, match="Invalid value for --jobs: many"):
        parse("cook", "--jobs", "many")


# Words that Invoke would drop or misread ---------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["bake", "--local=yes"], "The option --local takes no value, but got 'yes'"),
        (["plan", "mxnet-cu101", "--json=", "--all"], "The option --json takes no value, but got"),
        (["launch-from-ami", "--name", ""], "The value of --name is empty"),
        (["launch-from-ami", "--name="], "The value of --name is empty"),
        (["bake", "--name", ""], "The value of --name is empty"),
        (["terminate", ""], "An argument is empty"),
        (["bake", "--name", "a", "--name", "b"], "The option --name is given twice"),
        (["bake", "--jobs=1", "--jobs", "2"], "The option --jobs is given twice"),
        (["--local", "machines"], "The option --local belongs behind the command: invoke COMMAND"),
        (["--nosuch", "machines"], "Unknown option: --nosuch"),
        (["terminate", "--", ""], "An argument is empty"),
        (["machines", "--", "lab1"], "invoke machines does not take the argument lab1"),
        (["lock", "--", "--no-such-recipe"], "--no-such-recipe"),
        (["--list", "nosuch"], "Unknown group of commands: nosuch"),
        (["--list", "lcal"], "Unknown group of commands: lcal. Did you mean local?"),
        (["--", "terminate", "lab1"], "No command is named in front of -- terminate"),
        (["--dry", "recipes"], "The option --dry of Invoke has no effect"),
        (["recipes", "-w"], "Unknown option: -w"),
        (["-T", "5", "recipes"], "The option --command-timeout of Invoke has no effect"),
        (["-F", "nosuch"], "Unknown format of the list: nosuch"),
        (["recipes\x1b[31m"], "Unknown command: recipes␛[31m"),
        (["--list", "bake"], "bake is a command, not a group. To explain it: invoke bake --help"),
    ],
    ids=" ".join,
)
def test_no_word_is_dropped_or_misread(words: list[str], says: str) -> None:
    done = invoke(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_a_wrong_request_stays_one_where_its_message_cannot_be_written(redirection: str) -> None:
    for words, documents in (("plan --nosuch", 0), ("plan --nosuch --json", 1)):
        done = subprocess.run(
            ["sh", "-c", f"{INVOKE} {words} {redirection}"],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert done.stdout.count("--nosuch") == documents


def test_words_behind_dashes_are_arguments_and_never_options(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[str, ...]] = []
    monkeypatch.setattr(shell, "read_request", lambda words: seen.append(words) or sys.exit(3))
    for words in (["--", "grep", "-r", "a b", ""], ["lab1", "--", "--json"], ["lab1"]):
        assert invoke("run", *words).returncode == 3
    assert seen == [("--", "grep", "-r", "a b", ""), ("lab1", "--", "--json"), ("lab1",)]


def test_a_group_of_commands_is_listed_alone() -> None:
    done = invoke("--list", "local")
    assert "local.up" in done.stdout
    assert "launch-from-ami" not in done.stdout


# Invoke itself -----------------------------------------------------------------------------------

# What bake/cli/parser.py calls, and what it replaces. When one of these fails, compare Invoke's new
# source with the old one, adapt that file if needed, and then put the new digest here.
CALLED: list[tuple[type[Any], str, str]] = [
    (ParseMachine, "see_positional_arg", "4dcdc855472a"),
    (ParseMachine, "waiting_for_flag_value", "fedbd91fa509"),
    (Argument, "set_value", "dd275fc32f2b"),
    (Task, "__init__", "05a6b02e29f9"),
    (Task, "__call__", "24bfa4401571"),
    (Task, "arg_opts", "88569ea97266"),
    (Task, "get_arguments", "c675fe47d25e"),
    (Collection, "task_names", "5b94b8357c9c"),
    (Program, "run", "dc937b3b137c"),
    (Program, "parse_cleanup", "42d2fc1e11dd"),
    (Program, "core_args", "3ef2a9aa9f96"),
    (Program, "create_config", "13e4cbe5d64e"),
    (Program, "update_config", "de1808ee820e"),
    (Program, "parse_core", "edb34b05ae1c"),
    (Program, "parse_core_args", "acb15ada5376"),
    (Program, "execute", "4deb01dfed69"),
    (Program, "initial_context", "3b775c957949"),
]
REPLACED: list[tuple[type[Any], str, str]] = [
    (ParseMachine, "handle", "9b12c763da45"),
    (ParseMachine, "complete_flag", "ce03ebb3c767"),
    (ParseMachine, "complete_context", "fba382f0b198"),
    (Program, "parse_tasks", "c27cd8667d4f"),
    (Program, "list_tasks", "ebff78dad2ef"),
]


def digest_of(method: Callable[..., Any]) -> str:
    return hashlib.sha256(inspect.getsource(method).encode()).hexdigest()[:12]


@pytest.mark.parametrize(("owner", "name", "digest"), CALLED)
def test_invoke_has_not_changed_under_the_parser(owner: type[Any], name: str, digest: str) -> None:
    method = inspect.getattr_static(owner, name)
    assert digest_of(method.fget if isinstance(method, property) else method) == digest


@pytest.mark.parametrize(("owner", "name", "digest"), REPLACED)
def test_a_method_that_is_replaced_calls_invokes_own(
    owner: type[Any], name: str, digest: str
) -> None:
    replaced = getattr(owner, name)
    assert replaced.__module__ == parser.__name__
    assert digest_of(inspect.getclosurevars(replaced).nonlocals[name]) == digest


def test_setup_cfg_limits_invoke_to_the_versions_that_were_compared() -> None:
    config = configparser.ConfigParser()
    config.read(REPOSITORY / "setup.cfg")
    (line,) = [
        line for line in config["options"]["install_requires"].splitlines() if "invoke" in line
    ]
    specifier = Requirement(line).specifier
    assert metadata.version("invoke") in specifier
    assert "2.1.4" not in specifier
    assert "4.0.0" not in specifier


def test_nothing_else_changes_invoke() -> None:
    for path in (REPOSITORY / "bake").rglob("*.py"):
        text = path.read_text()
        internal = "invoke.parser" in text or "invoke.program" in text
        assert not internal or path.name == "parser.py", path


@pytest.mark.parametrize("columns", [80, 40])
@pytest.mark.parametrize(
    ("words", "whole"),
    [
        (["run", "lab1", "hostname"], "invoke run lab1 -- hostname`"),
        (["put", "nosuch", "lab1:"], "invoke put LOCAL lab1:`"),
        (["bake", "mxnet-cu101", "--instance-type", "p2.xlarge"], "--instance-type:"),
        (["terminate", "--local=yes"], "--local"),
        (["--list", "nosuch"], "invoke --list"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_refused_request_is_readable_in_a_terminal(
    words: list[str], whole: str, columns: int
) -> None:
    code, terminal = in_terminal(*words, columns=columns)
    assert code == 2
    assert any(whole in line for line in terminal.lines), terminal.text
    assert all("`" in line for line in terminal.broken()), terminal.text  # a command is whole
