"""Full, closed and unread streams end a command with a sentence or quietly, without a traceback."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys

import pytest

from tests.support.commands import invoke
from tests.support.environment import REPOSITORY

INVOKE = shlex.join([sys.executable, "-m", "invoke"])


def ended(command: str) -> tuple[int, str, str]:
    """Run `invoke` in a shell, and return its exit code, stdout and stderr."""
    shell = ["bash", "-c", f"{INVOKE} {command}"]
    done = subprocess.run(shell, capture_output=True, text=True, cwd=REPOSITORY)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("recipes --json >/dev/full", 1, "written to stdout: No space left on device"),
        ("recipes --json >&-", 1, "written to stdout: it is closed"),
        ("plan nothing --json >/dev/full", 2, "The error could not be written as JSON"),
    ],
)
def test_a_result_that_cannot_be_written_is_one_sentence(
    command: str, code: int, message: str
) -> None:
    status, _, shown = ended(command)
    assert status == code
    assert message in shown
    assert "Traceback" not in shown
    assert "Exception ignored" not in shown


def test_a_command_whose_reader_is_gone_ends_quietly() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "invoke", "recipes", "--json"],
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("stderr", ["2>/dev/full", "2>&-"])
def test_a_message_that_cannot_be_written_does_not_stop_the_work(stderr: str) -> None:
    status, out, _ = ended(f"recipes --json {stderr}")
    assert status == 0
    assert json.loads(out)


@pytest.mark.parametrize("columns", ["0", "", "²", "-1"])
def test_a_terminal_of_unknown_width_shows_the_table(
    columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    shown = invoke("recipes")
    assert shown.returncode == 0
    assert "mxnet-cu101" in shown.stdout


def test_the_name_of_a_file_is_written_with_its_own_bytes() -> None:
    code = "from bake.console.streams import write_stdout; write_stdout('/x/\\udcff\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=REPOSITORY)
    assert (done.stdout, done.stderr) == (b"/x/\xff\n", b"")
