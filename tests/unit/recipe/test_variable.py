"""The names that the environment variables of a stage may have."""

from __future__ import annotations

import pytest

from bake.recipe.variable import is_free


@pytest.mark.parametrize("name", ["TOKEN", "A", "A1_B", "PATHS", "MY_PATH", "HOMEPAGE", "BAKE"])
def test_a_name_in_capitals_that_nothing_uses_is_free(name: str) -> None:
    assert is_free(name)


@pytest.mark.parametrize("name", ["", "token", "1A", "_A", "A-B", "A B", "A\n", "Ä", "A=B"])
def test_an_invalid_name_is_not_free(name: str) -> None:
    assert not is_free(name)


@pytest.mark.parametrize(
    "name", ["PATH", "HOME", "BAKE_LIB", "BASH_ENV", "BASHOPTS", "LD_PRELOAD", "LC_ALL", "LANG",
             "MALLOC_ARENA_MAX", "EPOCHSECONDS", "IFS", "ENV"],
)  # fmt: skip
def test_a_name_that_the_shell_the_loader_or_the_c_library_uses_is_not_free(name: str) -> None:
    assert not is_free(name)
