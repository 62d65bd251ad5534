"""The program `bake`: the same commands as `invoke`, without what belongs to Invoke."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import tasks
from bake.cli import environment
from bake.cli.program import commands, main
from bake.recipe.project import Project, built_in
from tests.support.commands import Ended, invoke
from tests.support.environment import REPOSITORY


@pytest.fixture
def bake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    """A function that runs `bake WORDS` in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "tasks")

    def run(*words: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["bake", *words])
        out, err, code = io.StringIO(), io.StringIO(), 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main()
            except SystemExit as ended:
                code = int(ended.code or 0)
        return Ended(code, out.getvalue(), err.getvalue())

    return run


def test_it_has_the_commands_of_invoke(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["bake"])
    names = set(tasks.namespace.task_names)
    assert set(commands().task_names) == names - {"bake"} | {"build"}


@pytest.mark.parametrize("words", [["--help"], ["-h"], []])
def test_without_a_command_it_lists_them(words: list[str], bake: Callable[..., Ended]) -> None:
    listed = bake(*words)
    assert listed.returncode == 0
    assert "  build  " in listed.stdout
    assert "To show the version: bake --version" in listed.stdout
    assert "invoke" not in listed.stdout


@pytest.mark.parametrize("option", ["--echo", "--list", "--dry", "-f"])
def test_options_of_invoke_are_refused(option: str, bake: Callable[..., Ended]) -> None:
    refused = bake(option)
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"Unknown option: {option}.")


def test_settings_of_invoke_are_ignored(bake: Callable[..., Ended], tmp_path: Path) -> None:
    (tmp_path / "invoke.json").write_text('{"tasks": {"executor_class": "nosuch.Executor"}}')
    (Path.home() / ".invoke.json").write_text('{"tasks": {"executor_class": "nosuch.Executor"}}')
    assert bake("recipes").returncode == 0


def test_messages_name_the_program(bake: Callable[..., Ended]) -> None:
    wrong = bake("build", "nosuch", "--local", "--stand-in")
    assert wrong.returncode == 2
    assert "invoke" not in wrong.stderr
    explained = bake("build", "--help").stdout
    assert explained.startswith("Usage: bake build [RECIPE …] [options]\n")
    assert "invoke" not in explained
    document = json.loads(bake("build", "--json", "--nosuch").stdout)
    assert document["error"]["hint"] == "To list the options: bake build --help"


def test_a_command_is_found_by_its_shorter_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "environment" / "bin" / "bake"
    program.parent.mkdir(parents=True)
    program.touch(mode=0o755)
    monkeypatch.setattr(sys, "argv", [str(program), "plan"])
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert environment.this_program() == "../environment/bin/bake"
    monkeypatch.chdir("/usr/share")
    assert environment.this_program() == min(str(program), f"../..{program}", key=len), (
        "an absolute path may be shorter"
    )
    monkeypatch.setenv("PATH", str(program.parent))
    assert environment.this_program() == "bake"


def test_recipes_beside_the_loaded_tasks_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert environment.project() == Project(REPOSITORY)
    monkeypatch.setattr(tasks, "__file__", str(tmp_path / "tasks.py"))
    assert environment.project() == built_in(), "without recipes, it is another tasks.py"
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / "mine.toml").touch()
    assert environment.project() == Project(tmp_path, below=built_in())


def test_an_installed_recipe_cannot_be_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = Project(REPOSITORY, is_installed=True)
    monkeypatch.setattr("bake.cli.bake.project_of", lambda _: installed)
    refused = invoke("lock", "mxnet-cu101")
    assert refused.returncode == 2
    assert f"cannot be locked: {installed.manifests} belongs to it" in " ".join(
        refused.stderr.split()
    )
