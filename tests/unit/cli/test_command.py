"""Optional positionals, exit codes and signals of the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from invoke import Collection, task
from invoke.exceptions import Exit
from invoke.parser import Parser

from bake.cli.command import Command, running
from bake.console.console import Console
from bake.errors import CloudError, Finding, RecipeError
from tests.support.environment import REPOSITORY


@task(klass=Command, auto_shortflags=False, positional=["recipe"], help={"recipe": "which"})
def cook(_context: Any, recipe: Any = None, cuda: str | None = None, json: bool = False) -> None:
    """Cook it."""


@task(klass=Command, auto_shortflags=False)
def serve(_context: Any) -> None:
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
def test_a_positional_may_be_given_never_once_or_often(words: list[str], recipe: Any) -> None:
    assert parse(*words)[0][1]["recipe"] == recipe


def test_a_command_without_positionals_can_be_followed_by_another() -> None:
    assert [name for name, _ in parse("serve", "cook")] == ["serve", "cook"]


def test_every_option_is_explained() -> None:
    contexts = Collection(cook).to_contexts()
    assert dict(contexts[0].help_tuples())["--json"].startswith("one JSON document")
    assert dict(contexts[0].help_tuples())["--recipe=STRING"] == "which"


@pytest.mark.parametrize(
    ("error", "code"),
    [(RecipeError("bad"), 2), (CloudError("refused"), 1), (KeyboardInterrupt(), 130)],
)
def test_a_failure_becomes_words_and_an_exit_code(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Exit) as exit_, running(Console()):
        raise error
    assert exit_.value.code == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err


def test_our_own_mistake_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), running(Console()):
        _ = 1 / 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_interrupts_and_a_second_one_does_not_break_the_cleaning_up(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    cleaned = []
    with pytest.raises(Exit) as exit_, running(Console()):
        try:
            os.kill(os.getpid(), number)
        finally:
            os.kill(os.getpid(), number)
            cleaned.append(True)
    assert exit_.value.code == 130
    assert cleaned == [True]
    assert "Still cleaning up" in capsys.readouterr().err
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)


def test_a_signal_that_is_ignored_stays_ignored_as_nohup_means() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with running(Console()):
        os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_a_failure_says_what_happened_why_and_what_to_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    error = CloudError(
        "No machine could be started",
        hint="Try another region",
        code="InsufficientInstanceCapacity",
        reason="We do not have enough capacity.",
        details=["us-east-1a: none", "us-east-1b: none"],
    )
    Console().failure(error)
    shown = capsys.readouterr().err.splitlines()
    assert shown == [
        "✘ No machine could be started",
        "  AWS says: InsufficientInstanceCapacity: We do not have enough capacity.",
        "  us-east-1a: none",
        "  us-east-1b: none",
        "→ Try another region",
    ]


def test_with_json_a_failure_is_one_document_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    findings = [Finding("cuda.version", "10.1 is a number", 'Write "10.1"')]
    Console(json=True).failure(RecipeError("1 error in x.toml", findings=findings))
    document = json.loads(capsys.readouterr().out)
    assert document["error"] == "RecipeError"
    assert document["details"] == ['cuda.version: 10.1 is a number. Write "10.1"']


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["bake", "--jobs", "many"], "--jobs takes a whole number, not many"),
        (["rebuild", "--give-up-after", "x"], "--give-up-after takes a whole number, not x"),
        (["bake", "--cudda"], "There is no option --cudda here"),
        (["bake", "mxnet-cu101", "--jobs", "0"], "--jobs 0: at least one machine is needed"),
        (["rebuild", "--give-up-after", "0"], "nothing would ever be tried"),
        (["rebuild", "--summary", "nowhere/to/be"], "cannot be written to nowhere/to/be"),
        (["bake", "--all", "mxnet-cu101"], "--all means all recipes"),
        (["bake", "mxnet-cu100", "mxnet-cu101", "--name", "x"], "--name is for one image"),
        (["bake", "mxnet-cu100", "mxnet-cu101", "--cuda", "11.2"], "are for one recipe"),
        (["bake", "--cuda", "10.1", "--shell-on-failure"], "is for one recipe, in a terminal"),
        (["bake", "mxnet-cu101", "--cuda", "11.2"], "mxnet 1.7.0 has no wheel for CUDA 11.2"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else "",
)
def test_what_does_not_go_together_is_refused_before_anything_is_asked(
    words: list[str], says: str
) -> None:
    invoke = Path(sys.executable).parent / "invoke"
    run = subprocess.run(
        [invoke, *words],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert run.returncode == 2, run.stderr
    assert says in run.stderr
    assert "Traceback" not in run.stderr
