"""Where recipes, stages and checks are found: in the user's project, then in the built-in one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import bake
from bake.errors import RequestError
from bake.recipe.project import (
    Project,
    built_in,
    docs,
    named_project,
    nearest_project,
    project_in,
)
from tests.support.environment import REPOSITORY
from tests.support.projects import add_stage, new_project


def test_a_checkout_is_the_built_in_project() -> None:
    project = built_in()
    assert (project.folder, project.is_installed) == (REPOSITORY, False)
    assert (project.manifests / "mxnet-cu101.toml").is_file()
    assert project.lib.is_file()
    assert (docs() / "iam-policy.json").is_file()
    assert project_in(REPOSITORY / "bake" / "..") == project


def test_an_installed_package_has_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Beside it may be folders of other packages.
    (tmp_path / "manifests").mkdir()
    (tmp_path / "bake" / "builtin").mkdir(parents=True)
    monkeypatch.setattr(bake, "__file__", str(tmp_path / "bake" / "__init__.py"))
    project = built_in()
    assert (project.folder, project.is_installed) == (tmp_path / "bake" / "builtin", True)


def test_a_project_has_its_own_stages_and_checks_and_the_built_in_ones(tmp_path: Path) -> None:
    project = new_project(tmp_path, "mine")
    own = [add_stage(tmp_path, "drivers"), add_stage(tmp_path, "motd")]
    (tmp_path / "scripts" / "checks").mkdir()
    (tmp_path / "scripts" / "checks" / "motd.sh").touch()
    stages = project.stages()
    assert [stages["drivers"], stages["motd"]] == own
    assert stages["base"] == REPOSITORY / "scripts" / "stages" / "base.sh"
    assert set(stages) == {*built_in().stages(), "motd"}
    assert project.checks().items() >= built_in().checks().items()
    assert project.checks()["motd"].is_relative_to(tmp_path)
    assert project.lib == built_in().lib


def test_a_script_with_other_content_takes_the_place_of_a_built_in_one(tmp_path: Path) -> None:
    project = new_project(tmp_path, "mine")
    drivers, motd = add_stage(tmp_path, "drivers"), add_stage(tmp_path, "motd")
    built = REPOSITORY / "scripts" / "stages" / "drivers.sh"
    assert project.replaced_script(drivers) == built
    assert project.replaced_script(motd) is None
    assert project.replaced_script(built) is None
    drivers.write_bytes(built.read_bytes())
    assert project.replaced_script(drivers) is None, "a copy changes nothing"


def test_a_copy_of_the_built_in_project_stands_alone(tmp_path: Path) -> None:
    new_project(tmp_path, "mine")
    seal = add_stage(tmp_path, "seal")
    (tmp_path / "scripts" / "lib.sh").touch()
    project = project_in(tmp_path)
    assert project == Project(tmp_path)
    assert project.stages() == {"seal": seal}
    assert project.lib == tmp_path / "scripts" / "lib.sh"
    assert project.replaced_script(seal) is None


def test_the_nearest_project_upwards_is_found(tmp_path: Path) -> None:
    outer, inner = tmp_path / "outer", tmp_path / "outer" / "a" / "inner"
    (inner / "deep").mkdir(parents=True)
    (inner / "manifests").mkdir()
    assert nearest_project(inner) is None, "folders without recipes are no projects"
    new_project(outer, "mine")
    assert nearest_project(inner / "deep") == Project(outer, below=built_in())
    new_project(inner, "nested")
    assert nearest_project(inner / "deep") == Project(inner, below=built_in())
    assert nearest_project(outer / "a") == Project(outer, below=built_in())


def test_a_project_of_another_user_is_used_only_if_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = new_project(tmp_path, "mine")
    monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(RequestError, match="belong to another user") as caught:
        nearest_project(tmp_path)
    assert f"BAKE_PROJECT={tmp_path}" in caught.value.hint
    assert named_project(tmp_path, "--project") == project


def test_scripts_that_another_user_has_put_beside_recipes_are_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, other = new_project(tmp_path / "a", "mine").folder, tmp_path / "b"
    add_stage(mine, "motd")
    lstat = Path.lstat

    def of_another_user(path: Path) -> os.stat_result:
        about = list(lstat(path))
        about[4] += path in (mine / "scripts", other / "manifests")  # st_uid
        return os.stat_result(about)

    # A link to a folder of this user belongs to the one who has made it.
    other.mkdir()
    (other / "manifests").symlink_to(mine / "manifests")
    assert nearest_project(other)
    monkeypatch.setattr(Path, "lstat", of_another_user)
    for folder in (mine, other):
        with pytest.raises(RequestError, match="belong to another user"):
            nearest_project(folder)


@pytest.mark.parametrize(
    ("folder", "why"),
    [("nosuch", "is not a folder"), ("empty", "has no recipes"), ("file", "is not a folder")],
)
def test_a_named_folder_without_recipes_is_refused(folder: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "empty" / "manifests").mkdir(parents=True)
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match=f"--project: .*/{folder} {why}"):
        named_project(tmp_path / folder, "--project")
