"""Versions are compared as numbers, and the nearest one is suggested for an unknown one."""

from __future__ import annotations

import pytest

from bake.catalog import distance, nearest, numbers, runs_on


@pytest.mark.parametrize(
    ("code", "capability", "runs"),
    [
        (["7.0"], "7.5", True),
        (["7.5"], "7.0", False),
        (["8.0"], "8.9", True),
        (["8.6"], "9.0", False),
        ([], "7.5", False),
    ],
)
def test_code_runs_on_later_gpus_of_the_same_generation(
    code: list[str], capability: str, runs: bool
) -> None:
    assert runs_on(code, capability) is runs


def test_versions_compare_as_numbers() -> None:
    assert numbers("10.10") > numbers("10.9")
    assert numbers("418.87.00") < numbers("418.113")


def test_the_nearest_version_is_the_nearest_number() -> None:
    known = ["10.0", "10.1", "10.2", "11.0", "11.8", "12.4"]
    assert min(known, key=lambda version: distance(version, "10.9")) == "10.2"
    assert min(known, key=lambda version: distance(version, "9.2")) == "10.0"
    assert min(known, key=lambda version: distance(version, "13.0")) == "12.4"
    assert nearest("10.4", known) == "Did you mean 10.2 or 10.1?"


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("g4dn.nosuch", "Known: g4dn.xlarge, g4dn.metal"),
        ("t3.micro", "Known families: g4dn, p3, g5, g6"),
        ("nosuch", "Known families: g4dn, p3, g5, g6"),
        ("g4dn.xlarg", "Did you mean g4dn.xlarge or g6.xlarge or g5.xlarge?"),
    ],
)
def test_a_hint_never_lists_more_names_than_one_can_read(word: str, hint: str) -> None:
    sizes = [
        f"{family}.{size}xlarge" for family in ("g5", "g6") for size in ("", 2, 4, 8, 12, 16, 24)
    ]
    assert nearest(word, ["g4dn.xlarge", "g4dn.metal", "p3.16xlarge", *sizes]) == hint


def test_a_hint_without_families_says_how_many_more_there_are() -> None:
    hint = nearest("xyz", [f"stage{number}" for number in range(24)])
    assert hint.startswith("Known: stage0, stage1, ")
    assert hint.endswith(", stage15 and 8 more")
