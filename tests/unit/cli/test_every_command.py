"""Every command keeps the same rules: its help, what it says to a wrong request, and in which form.

Nothing here reaches a cloud. What commands do with one is in tests/machines/test_end_to_end.py.
"""

from __future__ import annotations

import json

import pytest

import tasks
from tests.support.commands import invoke

COMMANDS = sorted(tasks.namespace.task_names)
WITH_JSON = sorted(name for name in COMMANDS if "json" in tasks.namespace[name].takes)


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_behind_a_command_explains_it_and_runs_nothing(name: str, flag: str) -> None:
    ended = invoke(name, flag)
    assert (ended.returncode, ended.stderr) == (0, "")
    usage, *lines = ended.stdout.splitlines()
    assert usage.startswith(f"Usage: invoke {name}")
    assert len([line for line in lines if f"invoke {name}" in line]) >= 2, "two examples"
    assert "\x1b" not in ended.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_an_option_that_does_not_exist_is_a_wrong_request(name: str) -> None:
    ended = invoke(name, "--nosuch")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "Unknown option: --nosuch" in ended.stderr
    assert f"invoke {name} --help" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("name", WITH_JSON)
@pytest.mark.parametrize("words", [["--nosuch", "--json"], ["--json", "--nosuch"]])
def test_a_wrong_request_with_json_is_one_document_with_its_error(
    name: str, words: list[str]
) -> None:
    ended = invoke(name, *words)
    assert ended.returncode == 2
    error = json.loads(ended.stdout)["error"]
    assert "--nosuch" in error["message"]
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_an_option_without_its_value_says_which_value_it_needs(name: str) -> None:
    options = [
        f"--{argument.name.replace('_', '-')}"
        for argument in tasks.namespace[name].get_arguments()
        if not argument.positional and argument.takes_value
    ]
    for option in options:
        ended = invoke(name, option)
        assert (ended.returncode, ended.stdout) == (2, ""), option
        assert option in ended.stderr
        assert "Traceback" not in ended.stderr
