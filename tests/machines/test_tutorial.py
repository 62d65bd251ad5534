"""The commands of docs/tutorial.md do what the page says, in a copy of the checkout."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.documented import blocks, command_lines
from tests.support.environment import REPOSITORY

TUTORIAL = REPOSITORY / "docs" / "tutorial.md"
# What the page's own sections say about these is tested elsewhere.
ELSEWHERE = ("git clone", "make ", "source ", "invoke connect", "rm -rf")
SLOW = ("invoke bake", "invoke launch-from-ami", "invoke run", "invoke put", "invoke terminate")


@pytest.fixture
def checkout(tmp_path: Path, local_cloud: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of what a bake reads, with this environment's `invoke`."""
    copy = tmp_path / "bake"
    for folder in ("manifests", "scripts"):
        shutil.copytree(REPOSITORY / folder, copy / folder)
    shutil.copy(REPOSITORY / "tasks.py", copy)
    shutil.copy(REPOSITORY / "README.md", copy)
    programs = Path(sys.executable).parent
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    return copy


def section(number: int) -> list[str]:
    """Return the commands of a section, in their order."""
    text = re.split(r"^## ", TUTORIAL.read_text(), flags=re.MULTILINE)[number]
    assert text.startswith(f"{number}. ")
    known = command_lines(TUTORIAL)
    shown = [line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ ")]
    return [line for line in shown if line in known and not line.startswith(ELSEWHERE)]


def write_the_stage(checkout: Path) -> None:
    [script] = [text for text in blocks(TUTORIAL, "bash") if text.startswith("#!")]
    (checkout / "scripts" / "stages" / "motd.sh").write_text(script)


def run(line: str, checkout: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", line], cwd=checkout, capture_output=True, text=True, timeout=500
    )


def test_the_changes_of_the_tutorial_are_planned_as_it_shows(checkout: Path) -> None:
    write_the_stage(checkout)
    plans = []
    for line in [*section(4), *section(5), *section(6)]:
        if not line.startswith(SLOW):
            done = run(line, checkout)
            assert done.returncode == 0, (line, done.stdout, done.stderr)
            if line.startswith("invoke plan"):
                plans.append(done.stdout)
    own, changed, with_stage = plans
    assert "Recipe   lab" in own
    assert "motd" not in changed
    assert re.search(r"^base +to run", changed, re.MULTILINE)
    assert re.search(r"^motd +to run", with_stage, re.MULTILINE)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_the_whole_tutorial_works_on_the_local_cloud(checkout: Path) -> None:
    failed = []
    for number in (2, 3, 4, 5, 6):
        if number == 6:
            write_the_stage(checkout)
        for line in section(number):
            if (done := run(line, checkout)).returncode:
                failed.append((line, done.stderr))
    [(line, said)] = failed  # the mistake in the stage
    assert line == "invoke bake lab --local --stand-in"
    assert "/etc/motd does not name the framework" in said
