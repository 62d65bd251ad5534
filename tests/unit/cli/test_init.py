from __future__ import annotations

import json
import tomllib
from importlib import metadata
from pathlib import Path
from unittest import mock

import pytest

from bake.cli.init import source_of_bake, write_project
from bake.errors import RequestError
from bake.plan.plan import make_plan
from bake.plan.script import read_script
from bake.recipe.payload import UPSTREAM
from bake.recipe.project import project_in
from bake.recipe.recipes import find
from bake.recipe.resolved import resolve
from tests.support.commands import invoke
from tests.support.documented import blocks
from tests.support.environment import REPOSITORY

TUTORIAL = REPOSITORY / "docs" / "tutorial.md"

PARTS = {
    *("manifests/hello.toml", "scripts/stages/motd.sh", "scripts/checks/motd.sh", "files/motd.txt"),
    *("tasks.py", "README.md", ".gitignore", "recipe.schema.json"),
    ".github/workflows/rebuild.yml",
}


def files_below(folder: Path) -> set[str]:
    return {str(each.relative_to(folder)) for each in folder.rglob("*") if each.is_file()}


def test_a_project_has_all_its_parts_and_names_itself(tmp_path: Path) -> None:
    folder = tmp_path / "my-images"
    written, kept = write_project(folder, None)
    assert files_below(folder) == PARTS
    assert {str(path.relative_to(folder)) for path in written} == PARTS
    assert kept == []
    assert (folder / "README.md").read_text().startswith("# my-images\n")
    assert not (folder / "tasks.py").stat().st_mode & 0o111


def test_its_parts_belong_together(tmp_path: Path) -> None:
    write_project(tmp_path, None)
    recipe = tomllib.loads((tmp_path / "manifests" / "hello.toml").read_text())
    stage = read_script(tmp_path / "scripts" / "stages" / "motd.sh")
    assert stage.name in recipe["stages"]
    assert set(recipe["inputs"]) == set(stage.inputs)
    assert [(tmp_path / "files" / name).is_file() for name in stage.files] == [True]


def test_its_recipe_and_those_of_its_readme_and_of_the_tutorial_can_be_planned(
    tmp_path: Path,
) -> None:
    write_project(tmp_path, None)
    project = project_in(tmp_path)
    for page in (tmp_path / "README.md", TUTORIAL):
        [shown] = [text for text in blocks(page, "toml") if "extends" in text]
        name = tomllib.loads(shown)["name"]
        (tmp_path / "manifests" / f"{name}.toml").write_text(shown)
    for recipe in ("hello", "gpu", "lab"):
        plan = make_plan(
            resolve(find(recipe, project)), payload=UPSTREAM, base_image_id="", project=project
        )
        assert "motd" in {stage.name for stage in plan.stages}


def test_existing_files_are_kept(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    written, kept = write_project(tmp_path, None)
    assert kept == [tmp_path / "README.md"]
    assert kept[0] not in written
    assert kept[0].read_text() == "mine"
    assert files_below(tmp_path) == PARTS


def test_a_link_that_leads_nowhere_is_kept(tmp_path: Path) -> None:
    (tmp_path / "README.md").symlink_to("elsewhere")
    _, kept = write_project(tmp_path, None)
    assert kept == [tmp_path / "README.md"]
    assert kept[0].is_symlink()


def test_a_project_in_the_folder_above_has_the_name_of_that_folder(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    write_project(tmp_path / "below" / "..", None)
    assert (tmp_path / "README.md").read_text().startswith(f"# {tmp_path.name}\n")


def test_a_folder_with_recipes_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests" / "mine.toml").write_text("")
    with pytest.raises(RequestError, match="is a project already"):
        write_project(tmp_path, None)
    assert files_below(tmp_path) == {"manifests/mine.toml"}


def test_a_file_instead_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(RequestError, match="Cannot create the folder"):
        write_project(tmp_path / "taken", None)


def test_the_workflow_knows_where_bake_comes_from(tmp_path: Path) -> None:
    write_project(tmp_path, ("me/bake", "0" * 40))
    text = (tmp_path / ".github" / "workflows" / "rebuild.yml").read_text()
    assert "  BAKE_REPOSITORY: me/bake\n" in text
    assert f"  BAKE_COMMIT: {'0' * 40}\n" in text


@pytest.mark.parametrize(
    ("noted", "source"),
    [
        (
            {
                "url": "https://github.com/me/bake.git",
                "vcs_info": {"vcs": "git", "commit_id": "0" * 40, "requested_revision": "main"},
            },
            ("me/bake", "0" * 40),
        ),
        ({"url": "https://example.org/bake.git", "vcs_info": {"commit_id": "0"}}, None),
        ({"url": "file:///home/me/bake", "dir_info": {"editable": True}}, None),
        (None, None),
    ],
)
def test_the_source_of_bake_is_what_its_installer_has_noted(noted: object, source: object) -> None:
    distribution = mock.Mock()
    distribution.read_text.return_value = noted and json.dumps(noted)
    with mock.patch.object(metadata, "distribution", return_value=distribution):
        assert source_of_bake() == source


def test_the_command_lists_the_files_and_says_what_is_next(tmp_path: Path) -> None:
    folder = tmp_path / "two words"
    ended = invoke("init", str(folder))
    assert ended.returncode == 0
    assert {str(Path(line).relative_to(folder)) for line in ended.stdout.splitlines()} == PARTS
    assert f"Next: cd '{folder}' && " in ended.stderr.replace("\n", " ")
    document = json.loads(invoke("init", str(tmp_path / "other"), "--json").stdout)
    assert len(document["written"]) == len(PARTS)
    assert invoke("init").returncode == 2
