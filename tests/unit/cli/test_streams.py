"""What the commands write to which stream, in a pipe and in real terminals of two widths."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Iterator

import pytest

from bake.aws.machine import Machine, find_machine
from tests.support.account_server import account_server
from tests.support.aws_in_process import Aws
from tests.support.environment import REPOSITORY
from tests.support.runs import a_builder, a_machine, a_run
from tests.support.terminal import CTRL_C, CTRL_D, INVOKE, Terminal, in_terminal

NAME = "a-machine-with-a-rather-long-name-0123456789"


@pytest.fixture(scope="module")
def account() -> Iterator[tuple[Aws, dict[str, str]]]:
    with account_server() as (aws, environment):
        yield aws, environment


@pytest.fixture(scope="module")
def machines(account: tuple[Aws, dict[str, str]]) -> list[Machine]:
    aws, _ = account
    return [a_machine(aws, NAME), a_machine(aws, "lab1"), a_builder(aws, a_run(aws))]


@pytest.fixture
def environment(account: tuple[Aws, dict[str, str]]) -> dict[str, str]:
    return account[1]


def in_pipe(
    command: str, environment: dict[str, str], **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a line of shell in which `invoke` is this one."""
    return subprocess.run(
        ["bash", "-c", f'invoke() {{ {shlex.quote(INVOKE)} "$@"; }}\n{command}'],
        cwd=REPOSITORY,
        env={**os.environ, **environment, **more},
        capture_output=True,
        text=True,
        timeout=60,
    )


# In a pipe ---------------------------------------------------------------------------------------


def test_a_result_can_be_filtered_and_counted(
    machines: list[Machine], environment: dict[str, str]
) -> None:
    assert in_pipe("invoke machines | grep --count running", environment).stdout == "3\n"
    assert in_pipe("invoke machines | wc --lines", environment).stdout == "4\n"
    assert in_pipe("invoke images | wc --lines", environment).stdout == "0\n"
    shown = in_pipe("invoke machines | awk '/^lab1 / { print $NF }'", environment)
    assert shown.stdout == f"{machines[1].instance_id}\n"
    assert "! ? means unknown: AWS refused pricing:GetProducts" in shown.stderr


@pytest.mark.parametrize("words", ["machines", "gpus --gpu t4", "--list"])
def test_without_a_terminal_nothing_is_coloured_or_wrapped_whatever_the_environment_says(
    words: str, machines: list[Machine], environment: dict[str, str]
) -> None:
    shown = in_pipe(f"invoke {words}", environment, COLUMNS="40", TERM="xterm-256color")
    assert shown.returncode == 0
    assert "\x1b" not in shown.stdout + shown.stderr
    assert max(map(len, shown.stdout.splitlines())) > 80
    assert not [line for line in shown.stderr.splitlines() if line.startswith(" ")]


# In a terminal -----------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [80, 40])
@pytest.mark.parametrize(
    "words",
    [
        ["machines"],
        ["recipes"],
        ["plan", "mxnet-cu999"],
        ["terminate", "--yes"],
    ],
    ids=" ".join,
)
def test_only_what_is_longer_than_the_terminal_is_broken(
    words: list[str], columns: int, machines: list[Machine], environment: dict[str, str]
) -> None:
    code, terminal = in_terminal(*words, columns=columns, environment=environment)
    assert code in (0, 1, 2)
    for line in terminal.broken():
        assert re.fullmatch(rf"\s*(\S+|.*invoke .*|{NAME}.*)", line), terminal.text
    for machine in machines if words == ["machines"] else ():
        assert machine.address in terminal.text.split()


@pytest.mark.parametrize("columns", [80, 40])
def test_a_machine_is_terminated_after_a_yes(
    columns: int, account: tuple[Aws, dict[str, str]]
) -> None:
    aws, environment = account
    mine = a_machine(aws, f"mine{columns}")
    with Terminal(["terminate", mine.name], columns=columns, environment=environment) as terminal:
        terminal.wait_for("[y/N]")
        assert mine.instance_id in terminal.text
        terminal.type("y\n")
        assert terminal.wait_until_ended() == 0, terminal.text
        assert not terminal.broken()
    assert find_machine(aws.cloud, mine.instance_id) is None or (
        find_machine(aws.cloud, mine.instance_id).state == "terminated"  # type: ignore[union-attr]
    )


@pytest.mark.parametrize(
    ("keys", "code", "says"),
    [
        ("n\n", 2, "! Nothing was done."),
        ("\n", 2, "! Nothing was done."),
        (CTRL_D, 2, "! Nothing was done."),
        (CTRL_C, 130, "! Interrupted"),
    ],
    ids=["no", "Enter", "Ctrl-D", "Ctrl-C"],
)
def test_a_machine_is_not_terminated_without_a_yes(
    keys: str,
    code: int,
    says: str,
    account: tuple[Aws, dict[str, str]],
    machines: list[Machine],
) -> None:
    aws, environment = account
    with Terminal(["terminate", "lab1"], environment=environment) as terminal:
        terminal.wait_for("[y/N]")
        terminal.type(keys)
        assert terminal.wait_until_ended() == code
        assert any(line.startswith(says) for line in terminal.screen), terminal.text
    found = find_machine(aws.cloud, machines[1].instance_id)
    assert found
    assert found.state == "running"
