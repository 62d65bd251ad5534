"""The difference between apt and dnf is in lib.sh, and not in the stages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.shell import SCRIPTS

LIB = (SCRIPTS / "lib.sh").read_text()
FUNCTIONS = set(re.findall(r"^(\w+)\(\) ", LIB, re.MULTILINE))
PARTS = {name for name in FUNCTIONS if re.match(r"(apt|dnf)_", name)} - {"apt_get"}


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*/*.sh")), ids=lambda path: path.stem)
def test_no_stage_calls_a_function_for_one_package_manager(script: Path) -> None:
    words = set(re.findall(r"[\w]+", script.read_text()))
    assert not words & PARTS


def test_each_function_that_differs_has_a_part_for_either_package_manager() -> None:
    called = set(re.findall(r'"\$\{package_manager\}_(\w+)"', LIB))
    assert called
    for name in called:
        assert {f"apt_{name}", f"dnf_{name}"} <= FUNCTIONS
