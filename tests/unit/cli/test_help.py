"""The help of the commands, their list, and suggestions for typos, as a terminal shows them."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import pytest
from invoke.parser import Parser
from invoke.parser.context import to_flag

import tasks
from bake.cli.help import command_page, suggestion
from bake.cli.parser import ParsedTask
from tests.support.commands import invoke
from tests.support.environment import REPOSITORY
from tests.support.terminal import in_terminal

COMMANDS: dict[str, ParsedTask] = {
    name: tasks.namespace[name] for name in tasks.namespace.task_names
}


@pytest.mark.parametrize("columns", [80, 40])
@pytest.mark.parametrize(
    "words", [["--list"], ["launch-from-ami", "--help"], ["bake", "-h"]], ids=" ".join
)
def test_help_and_list_fit_into_a_terminal(words: list[str], columns: int) -> None:
    code, terminal = in_terminal(*words, columns=columns)
    assert (code, terminal.broken()) == (0, [])
    assert len(terminal.lines) > 20


@pytest.mark.parametrize("columns", [80, 40])
@pytest.mark.parametrize(
    "words", [["bakke"], ["bake", "--cuda"], ["bake", "--jobs", "two"], ["quota", "--nosuch"]]
)
def test_what_is_wrong_with_a_command_line_is_in_lines_of_whole_words(
    words: list[str], columns: int
) -> None:
    code, terminal = in_terminal(*words, columns=columns)
    assert (code, terminal.broken()) == (2, []), terminal.text
    assert " ".join(terminal.lines) == invoke(*words).stderr.strip()


def test_help_and_list_are_not_wrapped_without_a_terminal() -> None:
    lines = invoke("--list").stdout.splitlines()
    assert sum("connect" in line.split()[:1] for line in lines) == 1
    explained = invoke("launch-from-ami", "--help").stdout.splitlines()
    [ami] = [line for line in explained if line.startswith("  --ami TEXT")]
    assert "the beginning of its name" in ami


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("columns", [80, 40])
def test_the_help_of_each_command_is_complete_and_fits(name: str, columns: int) -> None:
    run = invoke(name, "--help")
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith(f"Usage: invoke {name} ")
    each = COMMANDS[name]
    fitted = command_page(each.page(name), columns)
    assert max(map(len, fitted.splitlines())) <= columns, fitted
    for argument in each.get_arguments():
        if argument.positional:
            assert each.arguments
            assert "\nArguments:\n" in run.stdout
        else:
            assert f"  {to_flag(argument.name)}" in run.stdout
    assert len(each.examples) == 2


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_of_each_command_are_valid(name: str) -> None:
    for example in COMMANDS[name].examples:
        line = example.removeprefix('eval "$(').removesuffix(')"')
        program, *words = takewhile(lambda word: word not in (">", "|"), shlex.split(line))
        assert program == "invoke"
        (context,) = Parser(contexts=tasks.namespace.to_contexts()).parse_argv(words)
        assert context.name == name


@pytest.mark.parametrize(
    "words",
    [
        ["--help", "bake"],
        ["-h", "bake"],
        ["bake", "--help"],
        ["bake", "-h"],
        ["bake", "mxnet-cu101", "-h"],
        ["bake", "-h", "mxnet-cu101"],
        ["bake", "--jobs", "--help"],
        ["bake", "--cudda", "--help"],
        ["bake", "mxnet-cu101", "--jobs", "2", "--help", "--json"],
    ],
    ids=" ".join,
)
def test_help_works_before_and_anywhere_behind_a_command(words: list[str]) -> None:
    run = invoke(*words)
    assert run.returncode == 0
    assert run.stdout == invoke("bake", "--help").stdout
    assert run.stdout.startswith("Usage: invoke bake [RECIPE …] [options]\n")


def test_common_options_are_below_the_commands_own_and_defaults_are_shown() -> None:
    own, _, common = invoke("bake", "--help").stdout.partition("\nCommon options:\n")
    assert "--cuda TEXT" in own
    assert "(default: 4)" in own
    assert "--region TEXT" in common
    assert "--region" not in own


def test_each_command_is_in_one_section_of_the_list() -> None:
    listed = invoke("--list").stdout
    titles = [line for line in listed.splitlines() if line.endswith(":") and line[0] != " "]
    assert titles == [
        *("Bake images:", "Use images:", "Look after machines:", "Look after images:"),
        *("Set up:", "Local cloud:"),
    ]
    names = [line.split()[0] for line in listed.splitlines() if line[:3].strip()]
    assert {name: names.count(name) for name in COMMANDS} == dict.fromkeys(COMMANDS, 1)
    assert invoke().stdout == listed


@pytest.mark.parametrize("words", [["--list", "local"], ["--list", "--list-format=json"]])
def test_other_lists_are_invokes_own(words: list[str]) -> None:
    run = invoke(*words)
    assert run.returncode == 0
    assert "Start the local cloud" in run.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["bakke"], "Unknown command: bakke. Did you mean bake? To list the commands: "),
        (["bakke", "--help"], "Unknown command: bakke. Did you mean bake?"),
        (["--help", "bakke"], "Unknown command: bakke. Did you mean bake?"),
        (["up"], "Unknown command: up. Did you mean local.up?"),
        (["qqq"], "Unknown command: qqq. To list the commands: invoke --list"),
        (["--nosuch"], "Unknown option: --nosuch."),
        (["bake", "--cudda", "10.1"], "Unknown option: --cudda. Did you mean --cuda?"),
        (["machines", "--jsn"], "Unknown option: --jsn. Did you mean --json?"),
        (["images", "--regoin=x"], "Did you mean --region? To list the options: invoke images"),
        (["machines", "lab1"], "invoke machines does not take the argument lab1."),
        (["bake", "--cuda"], "The option --cuda needs a value (CUDA version, like 12.6 or 10.1)."),
        (["bake", "--cuda", "--json"], "The option --cuda needs a value"),
        (["bake", "--name", "--json"], "The option --name needs a value"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_word_is_reported_with_a_suggestion(words: list[str], says: str) -> None:
    run = invoke(*words)
    assert run.returncode == 2
    assert bool(run.stdout) == ("--json" in words)
    assert says in run.stderr
    assert "Argument:" not in run.stderr


def test_a_list_whose_reader_has_ended_ends_without_a_message() -> None:
    program = Path(sys.executable).with_name("invoke")
    reader, writer = os.pipe()
    os.close(reader)
    run = subprocess.run(
        [program, "--list"], cwd=REPOSITORY, stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert run.stderr == ""


@pytest.mark.parametrize(("command", "option"), [("machines", "--json"), ("bake", "--cuda")])
def test_invokes_completion_lists_the_options_of_a_command(command: str, option: str) -> None:
    run = invoke("--complete", "--", f"invoke {command} {option[:4]}")
    assert (run.returncode, run.stderr) == (0, "")
    assert option in run.stdout.split()


def test_nothing_is_suggested_that_is_not_similar() -> None:
    assert suggestion("zzz", ["bake", "plan"]) == ""
    assert suggestion("pln", ["bake", "plan"]) == " Did you mean plan?"


@pytest.mark.parametrize(
    ("command", "usage", "argument"),
    [
        ("run", "invoke run [options] [MACHINE] -- COMMAND …", "[MACHINE] -- COMMAND …"),
        ("extend", "invoke extend [MACHINE] DURATION [options]", "[MACHINE] DURATION"),
        ("connect", "invoke connect [MACHINE] [options]", "MACHINE"),
    ],
)
def test_the_usage_shows_where_arguments_and_options_belong(
    command: str, usage: str, argument: str
) -> None:
    shown = invoke(command, "--help").stdout
    assert f"Usage: {usage}\n" in shown
    assert f"\n  {argument}  " in shown
