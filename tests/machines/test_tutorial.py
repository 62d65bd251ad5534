"""The commands of docs/tutorial.md do what the page says, as they stand, in an empty folder."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.documented import blocks, command_lines
from tests.support.environment import REPOSITORY

TUTORIAL = REPOSITORY / "docs" / "tutorial.md"
# What the page's own sections say about these is tested elsewhere.
ELSEWHERE = ("git clone", "make ", "source ", "bake connect")
FIRST, WITH_GPU = (2, 3, 4, 5), 6


@dataclass
class Reader:
    """A reader of the page, with a shell in a folder."""

    folder: Path

    def run(self, line: str) -> subprocess.CompletedProcess[str]:
        if line.startswith("cd "):
            self.folder /= shlex.split(line)[1]
            assert self.folder.is_dir()
        return subprocess.run(
            ["bash", "-c", line if not line.startswith("cd ") else "true"],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=500,
        )

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def reader(tmp_path: Path, local_cloud: Path, monkeypatch: pytest.MonkeyPatch) -> Reader:
    programs = Path(sys.executable).parent
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("BAKE_BUILDS")
    return Reader(tmp_path)


def section(number: int) -> list[str]:
    """Return the commands of a section, in their order."""
    text = re.split(r"^## ", TUTORIAL.read_text(), flags=re.MULTILINE)[number]
    assert text.startswith(f"{number}. ")
    known = command_lines(TUTORIAL)
    shown = [line.removeprefix("$ ") for line in text.splitlines() if line.startswith("$ ")]
    return [line for line in shown if line in known and not line.startswith(ELSEWHERE)]


def block(language: str, containing: str) -> str:
    """Return the block of the page that contains a text."""
    [found] = [text for text in blocks(TUTORIAL, language) if containing in text]
    return found


def test_the_recipe_that_the_page_shows_is_the_one_that_init_writes() -> None:
    template = REPOSITORY / "bake" / "cli" / "template" / "manifests" / "hello.toml"
    shown = tomllib.loads(block("toml", 'name = "hello"'))
    assert shown.items() <= tomllib.loads(template.read_text()).items()


@pytest.mark.timeout(600)
def test_the_tutorial_works_on_the_local_cloud(reader: Reader) -> None:
    failed, plans = [], []
    for number in FIRST:
        if number == 5:
            reader.write("scripts/stages/tools.sh", block("bash", "#!/usr/bin/env bash"))
            reader.write("files/tools/greet", block("sh", "#!/bin/sh"))
        for line in section(number):
            done = reader.run(line)
            if done.returncode:
                failed.append((line, done.stdout + done.stderr))
            if line.startswith("bake plan"):
                plans.append(done.stdout)
            if line.startswith("bake run"):
                assert done.stdout.startswith("Welcome\n")
    [(line, said)] = failed  # the mistake in the stage
    assert line == "bake build hello --local"
    assert "greet prints: Hello, friends!" in said
    assert re.search("The next bake resumes from snap-[0-9a-f]+: base, motd\n", said)
    _first, greeting, package, stage = plans
    assert states(greeting) == {"base": "from checkpoint", "motd": "to run", "seal": "to run"}
    assert states(package)["base"] == "to run"
    assert states(stage)["tools"] == "to run"


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_the_recipe_with_a_gpu_is_rehearsed_as_the_page_says(reader: Reader) -> None:
    for line in section(2)[:2]:
        assert reader.run(line).returncode == 0
    reader.write("manifests/lab.toml", block("toml", 'name = "lab"'))
    for line in section(WITH_GPU):
        done = reader.run(line)
        assert done.returncode == 0, (line, done.stdout, done.stderr)


def states(plan: str) -> dict[str, str]:
    """Return the state of each stage in a plan."""
    found = re.findall(r"^([a-z0-9-]+) +(to run|from checkpoint|done) ", plan, re.MULTILINE)
    return dict(found)
