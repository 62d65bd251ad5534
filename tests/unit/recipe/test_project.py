"""Recipes and stages are found in a checkout, and in the installed package."""

from __future__ import annotations

from pathlib import Path

import pytest

import bake
from bake.recipe.project import built_in, docs
from tests.support.environment import REPOSITORY


def test_a_checkout_is_the_built_in_project() -> None:
    project = built_in()
    assert (project.folder, project.is_installed) == (REPOSITORY, False)
    assert (project.manifests / "mxnet-cu101.toml").is_file()
    assert project.lib.is_file()
    assert (docs() / "iam-policy.json").is_file()


def test_an_installed_package_has_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Beside it may be folders of other packages.
    (tmp_path / "manifests").mkdir()
    (tmp_path / "bake" / "builtin").mkdir(parents=True)
    monkeypatch.setattr(bake, "__file__", str(tmp_path / "bake" / "__init__.py"))
    project = built_in()
    assert (project.folder, project.is_installed) == (tmp_path / "bake" / "builtin", True)
