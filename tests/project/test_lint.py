"""The linters are tests: what they find, `make test` finds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.environment import REPOSITORY

BIN = Path(sys.executable).parent
SHELL_SCRIPTS = [
    str(path.relative_to(REPOSITORY))
    for folder in ("bake", "benchmarks", "scripts")
    for path in sorted(REPOSITORY.glob(f"{folder}/**/*.*sh"))
    if path.suffix in (".sh", ".bash")
]
SHELL_SCRIPTS.append(".ci/run")

LINTERS = {
    "ruff check": ["ruff", "check", "."],
    "ruff format": ["ruff", "format", "--check", "."],
    "mypy": ["mypy"],
    "shellcheck": ["shellcheck", "--external-sources", "--source-path=scripts", *SHELL_SCRIPTS],
    "shfmt": ["shfmt", "--diff", "--indent", "4", "--case-indent", *SHELL_SCRIPTS],
}


@pytest.mark.parametrize("command", LINTERS.values(), ids=LINTERS.keys())
def test_linter_finds_nothing(command: list[str]) -> None:
    run = subprocess.run(
        [str(BIN / command[0]), *command[1:]], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr
