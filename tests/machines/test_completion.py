"""Completion in the real shells: Tab is pressed in a terminal, and the screen is read."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bake.cli.completion.cloud_names import WAIT_S
from tests.support.commands import invoke
from tests.support.ec2_server import ec2_server, make_image, make_machine
from tests.support.terminal import INVOKE, TAB, Terminal

CTRL_U = "\x15"
# Without the settings of the person who runs the tests, and with a prompt that can be recognised.
OPTIONS = {"bash": ["--norc", "--noprofile"], "zsh": ["--no-rcs"], "fish": ["--no-config"]}
PROMPT = {
    "bash": "PS1='> '",
    "zsh": "PS1='> '",
    "fish": "function fish_prompt; echo '> '; end; set fish_autosuggestion_enabled 0",
}
SHELLS = tuple(OPTIONS)
# README.md: in the present shell, and saved for all new shells.
PRESENT = {
    "bash": "source <(invoke completion bash)",
    "zsh": "source <(invoke completion zsh)",
    "fish": "invoke completion fish | source",
}
SAVED = {
    "bash": (".local/share/bash-completion/completions/invoke", "source {}"),
    "zsh": (".zfunc/_invoke", "fpath=(~/.zfunc $fpath); autoload -Uz compinit && compinit"),
    "fish": (".config/fish/completions/invoke.fish", "set fish_complete_path (path dirname {})"),
}


@pytest.fixture(autouse=True)
def no_remembered_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAKE_CACHE", str(tmp_path / "cache"))


class Shell(Terminal):
    """A shell in which lines are typed and completed, but not run."""

    screens = 0

    def start(self, *commands: str) -> None:
        """Run commands, and wait until the shell takes keys again, on a new screen."""
        self.screens += 1
        self.type("; ".join([*commands, "clear", f"echo scr''een {self.screens}"]) + "\r")
        self.wait_for(lambda: self.screen == [f"screen {self.screens}", ">"])

    def completed(self, line: str) -> str:
        """Type a line and Tab, and return the line that the shell has made of it."""
        self.type(f"{line}{TAB}#")  # a line that stays as it is cannot be waited for; its mark can
        self.wait_for("#")
        line = self.text.partition("> ")[2].partition("#")[0]
        self._forget_line()
        return line

    def listed(self, line: str, *expected: str) -> str:
        """Type a line and Tab twice, and return the screen once it shows what is expected."""
        self.type(f"{line}{TAB}{TAB}")
        for each in expected:
            self.wait_for(each)
        shown = self.text
        self._forget_line()
        return shown

    def _forget_line(self) -> None:
        self.type(CTRL_U)
        self.start()


@contextmanager
def shell(name: str, *commands: str, columns: int = 80) -> Iterator[Shell]:
    path = f"{Path(INVOKE).parent}:/usr/local/bin:/usr/bin:/bin"
    with Shell(OPTIONS[name], program=name, columns=columns, environment={"PATH": path}) as found:
        found.start(PROMPT[name], *commands)
        yield found


@pytest.mark.parametrize("columns", [80, 40])
@pytest.mark.parametrize("name", SHELLS)
def test_commands_options_and_values_are_completed(name: str, columns: int) -> None:
    with shell(name, PRESENT[name], columns=columns) as typed:
        assert typed.completed("invoke chec") == "invoke checkpoints "
        assert typed.completed("invoke bake --keep") == "invoke bake --keep-on-failure "
        assert typed.completed("invoke bake pytorch-cu12") == "invoke bake pytorch-cu126 "
        assert typed.completed("invoke bake --framework=p") == "invoke bake --framework=pytorch "
        assert typed.completed("invoke put READ") == "invoke put README.md "
        assert typed.completed("invoke bake READ") == "invoke bake READ"
        typed.listed("invoke bake mxnet-cu11", "xnet-cu112", "xnet-cu118")  # fish shortens


@pytest.mark.parametrize("name", SHELLS)
def test_a_value_in_quotes_that_are_still_open_is_completed(name: str) -> None:
    with shell(name, PRESENT[name]) as typed:
        for quote in "\"'":
            line = typed.completed(f"invoke plan {quote}pytorch-cu12")
            assert line.startswith(f"invoke plan {quote}pytorch-cu126"), line


@pytest.mark.parametrize("name", SHELLS)
def test_machines_and_images_of_the_account_are_completed(name: str) -> None:
    with ec2_server(), shell(name, PRESENT[name]) as typed:
        make_image(make_machine("lab1"), "bake/mxnet-cu101/20261130-deadbeef")
        # On a busy computer, a shell does not wait until AWS has answered; Tab is pressed again.
        line, ends = "", time.monotonic() + 60
        while line != "invoke stop lab1 " and time.monotonic() < ends:
            line = typed.completed("invoke stop la")
        assert line == "invoke stop lab1 "
        assert typed.completed("invoke get la") == "invoke get lab1:"
        line, whole = "", "invoke launch-from-ami --ami=bake/mxnet-cu101/20261130-deadbeef "
        while line != whole and time.monotonic() < ends:
            line = typed.completed("invoke launch-from-ami --ami=ba")
        assert line == whole


def test_an_aws_that_does_not_answer_neither_delays_nor_disturbs_the_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        with shell("zsh", PRESENT["zsh"]) as typed:
            before = time.monotonic()
            assert typed.completed("invoke stop la") == "invoke stop la"
            assert time.monotonic() - before < WAIT_S + 5  # the rest is a busy computer's


@pytest.mark.parametrize("name", SHELLS)
def test_the_line_is_not_disturbed_where_nothing_can_be_completed(
    name: str, tmp_path: Path
) -> None:
    with shell(name, PRESENT[name]) as typed:
        assert typed.completed("invoke stop la") == "invoke stop la"  # without credentials
        assert typed.completed("/nosuch/invoke stop la") == "/nosuch/invoke stop la"
        typed.start(f"cd {tmp_path}")  # no tasks.py
        assert typed.completed("invoke stop la") == "invoke stop la"


@pytest.mark.parametrize("name", SHELLS)
def test_other_projects_with_invoke_are_completed_too(name: str, tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text(
        "from invoke import task\n@task\ndef other_task(c, long_option=''): pass\n"
    )
    with shell(name, PRESENT[name], f"cd {tmp_path}") as typed:
        assert typed.completed("invoke oth") == "invoke other-task "
        assert typed.completed("invoke other-task --lo") == "invoke other-task --long-option "


@pytest.mark.parametrize("name", SHELLS)
def test_a_saved_script_works_in_a_new_shell_and_by_path(name: str) -> None:
    file, command = SAVED[name]
    path = Path.home() / file
    path.parent.mkdir(parents=True)
    path.write_text(invoke("completion", name).stdout)
    with shell(name, command.format(path)) as typed:
        assert typed.completed("invoke bake pytorch-cu12") == "invoke bake pytorch-cu126 "
        assert typed.completed(f"{INVOKE} bake pytorch-cu12") == f"{INVOKE} bake pytorch-cu126 "


@pytest.mark.parametrize("name", SHELLS)
def test_the_installed_program_is_completed_in_any_folder(name: str, tmp_path: Path) -> None:
    program = tmp_path / "bake"
    program.write_text(f"#!{sys.executable}\nfrom bake.cli.program import main\nmain()\n")
    program.chmod(0o755)
    path = f"set PATH {tmp_path} $PATH" if name == "fish" else f"PATH={tmp_path}:$PATH"
    own = PRESENT[name].replace("invoke", "bake")
    with shell(name, f"cd {tmp_path}", path, PRESENT[name], own) as typed:
        assert typed.completed("bake bui") == "bake build "
        assert typed.completed("bake build pytorch-cu12") == "bake build pytorch-cu126 "
        assert typed.completed("bake --vers") == "bake --version "
