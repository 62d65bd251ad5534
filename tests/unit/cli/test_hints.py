"""Commands in messages can be pasted: they have the program's path, and the cloud's options."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from invoke.parser import Parser

import tasks
from bake.cli.command import completion
from bake.cli.hints import COMMAND, complete_commands, complete_pages
from bake.cli.options import CommonOptions
from bake.console.console import Console
from bake.errors import RequestError
from tests.support.environment import REPOSITORY

FLAGS = ("--local", "--region eu-west-1")


@pytest.mark.parametrize(
    ("message", "complete"),
    [
        ("invoke start lab1", "bin/invoke start lab1 --local --region eu-west-1"),
        (
            "Run invoke start lab1, then wait. Done",
            "Run bin/invoke start lab1 --local --region eu-west-1, then wait. Done",
        ),
        (
            "It is full (`invoke images` lists it)",
            "It is full (`bin/invoke images --local --region eu-west-1` lists it)",
        ),
        (
            "Copy it: invoke copy ami-1 --region b --to c. Or not",
            "Copy it: bin/invoke copy ami-1 --region b --to c --local. Or not",
        ),
        (
            "`invoke run lab1 -- 'a; b'`",
            "`bin/invoke run lab1 --local --region eu-west-1 -- 'a; b'`",
        ),
        ("bin/invoke start lab1 and wait", "bin/invoke start lab1 and wait"),
        ("They invoke nothing.", "They invoke nothing."),
    ],
)
def test_a_command_in_a_message_is_completed_once(message: str, complete: str) -> None:
    def flags_of(name: str) -> tuple[str, ...]:
        return FLAGS

    done = message
    for _ in range(2):
        if "nothing" not in message:
            done = complete_commands(done, "bin/invoke", flags_of)
    assert done == complete


@pytest.fixture
def activated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the program as in an activated environment: it is called `invoke`."""
    monkeypatch.setattr(sys, "argv", ["invoke"])


@pytest.mark.usefixtures("activated")
def test_each_command_gets_the_options_that_it_takes() -> None:
    complete = completion(CommonOptions(local=True, region="eu-west-1"))
    assert complete("invoke start lab1").endswith("invoke start lab1 --local --region eu-west-1")
    assert complete("invoke launch-from-ami").endswith("--local --region eu-west-1")
    assert complete("invoke recipes").endswith("invoke recipes")
    assert completion(CommonOptions())("invoke start lab1").endswith("invoke start lab1")


@pytest.mark.usefixtures("activated")
def test_a_suggested_bake_in_the_local_cloud_is_a_rehearsal() -> None:
    local = CommonOptions(local=True)
    bake = "invoke bake mxnet-cu101"
    assert completion(local)(bake).endswith(f"{bake} --local --stand-in")
    assert completion(local, chooses_payload=True)(bake).endswith(f"{bake} --local")
    assert completion(CommonOptions())(bake).endswith(bake)


@pytest.mark.usefixtures("activated")
def test_messages_of_all_kinds_are_completed(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(complete=completion(CommonOptions(local=True)))
    console.note("Note: invoke machines")
    console.warn("Warning: invoke machines")
    console.table(["a"], [], empty="None: invoke machines")
    console.named("x").failure(RequestError("No", hint="Hint: invoke machines"))
    shown = capsys.readouterr()
    assert (shown.out + shown.err).count("invoke machines --local\n") == 4


def texts(tree: ast.AST) -> Iterator[str]:
    """Yield the strings of a module, with X in the place of values; no docstrings, no examples."""
    if isinstance(tree, ast.JoinedStr):
        yield "".join(each.value if isinstance(each, ast.Constant) else "X" for each in tree.values)
        return
    if isinstance(tree, ast.Expr) and isinstance(tree.value, ast.Constant):
        return
    if isinstance(tree, ast.keyword) and tree.arg == "examples":
        return
    if isinstance(tree, ast.Constant) and isinstance(tree.value, str):
        yield tree.value
    for inner in ast.iter_child_nodes(tree):
        yield from texts(inner)


MESSAGES = [
    (path.relative_to(REPOSITORY), text)
    for path in sorted((REPOSITORY / "bake").rglob("*.py"))
    for text in texts(ast.parse(path.read_text()))
    if re.search(r"\binvoke [a-z]", text)
]


@pytest.mark.parametrize(("path", "text"), MESSAGES, ids=str)
def test_commands_in_messages_are_valid_and_no_prose_is_taken_for_a_part(
    path: Path, text: str
) -> None:
    known = tasks.namespace.task_names
    contexts = tasks.namespace.to_contexts()
    for found in COMMAND.finditer(text):
        words, _, _ = (found["quoted"] or found["bare"]).partition(" -- ")
        name, *rest = words.split()
        if name == "X" or name not in known:
            assert name == "X" or name.isupper(), (path, text)
            continue
        arguments = [word for word in rest if not word.startswith("[") and word != "…"]
        # A value that is appended to an option is a flag of its own, or nothing.
        arguments = [w.rstrip("X") if w.startswith("-") else w for w in arguments]
        Parser(contexts=contexts).parse_argv([name, *arguments])
        prose = [word for word in arguments if re.fullmatch("[a-z]+", word)]
        assert not prose, (path, text)


def test_pages_are_named_by_their_path() -> None:
    text = "See docs/accounts.md, (docs/iam-policy.json) and a/docs/own.md"
    assert complete_pages(text, Path("/x/docs")) == (
        "See /x/docs/accounts.md, (/x/docs/iam-policy.json) and a/docs/own.md"
    )
