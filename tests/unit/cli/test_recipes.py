"""A broken recipe is reported and left out; the other recipes of the folder can be used."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bake import catalog
from bake.cli import recipes as cli_recipes
from bake.cli.options import RecipeOptions
from bake.cli.recipes import chosen_recipes
from bake.console.console import Console
from bake.errors import RecipeError
from bake.pipeline import bake as pipeline
from bake.pipeline.bake import Outcome
from bake.recipe.compatibility import accepted_unknowns
from bake.recipe.project import Project
from tests.support.commands import invoke
from tests.support.environment import REPOSITORY

BROKEN = {"syntax.toml": "name = = 1", "invalid.toml": 'name = "invalid"\n'}
ERROR = {"type", "message", "code", "reason", "details", "hint"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of recipes, two of them broken; the commands use it."""
    project = Project(tmp_path)
    monkeypatch.setenv("BAKE_PROJECT", str(tmp_path))
    project.manifests.mkdir()
    (tmp_path / "scripts").symlink_to(REPOSITORY / "scripts")
    for name, text in BROKEN.items():
        (project.manifests / name).write_text(text)
    return project.manifests


@pytest.fixture
def with_valid(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with a valid recipe, too, whose cloud is not asked."""
    shutil.copy(REPOSITORY / "manifests" / "mxnet-cu101.toml", folder)
    monkeypatch.setattr(cli_recipes, "open_cloud", lambda *_: None)
    monkeypatch.setattr(cli_recipes, "_context", lambda *_, **__: None)
    return folder


@pytest.mark.usefixtures("with_valid")
def test_recipes_lists_the_valid_ones_and_warns_of_the_broken_ones() -> None:
    run = invoke("recipes")
    assert run.returncode == 0
    assert "mxnet-cu101" in run.stdout + run.stderr
    said = " ".join(run.stderr.split())
    assert "syntax.toml is left out: " in said
    assert "invalid.toml is left out: " in said
    run = invoke("recipes", "--json")
    assert run.returncode == 0
    document = json.loads(run.stdout)
    [valid] = document["recipes"]
    assert (valid["name"], valid["cuda_version"]) == ("mxnet-cu101", "10.1")
    assert valid["settings"]["cuda"] == {"version": "10.1"}
    broken = {each["recipe"]: each["error"] for each in document["broken"]}
    assert broken.keys() == {"syntax", "invalid"}
    assert "base: is missing" in " ".join(broken["invalid"]["details"])


def test_a_version_that_is_not_known_is_refused_unless_unchecked(with_valid: Path) -> None:
    path = with_valid / "mxnet-cu101.toml"
    path.write_text(path.read_text().replace('branch = "470"', 'branch = "471"'))
    options = RecipeOptions(recipe=("mxnet-cu101",))
    with pytest.raises(RecipeError, match="is not valid") as caught:
        chosen_recipes(Console(), options, local=True)
    assert "unknown driver branch: 471" in caught.value.details[0]
    assert caught.value.hint == "To go on with what bake does not know, add --unchecked"
    try:
        chosen = chosen_recipes(Console(), replace(options, unchecked=True), local=True)
    finally:
        catalog.accept_unknown(False)
    [resolved] = chosen.recipes
    [warning] = accepted_unknowns(resolved)
    assert warning.message.startswith("bake does not know driver 471: it is treated as driver 470")


@pytest.mark.usefixtures("with_valid")
def test_cuda_selects_among_the_valid_recipes_and_warns(capsys: pytest.CaptureFixture[str]) -> None:
    chosen = chosen_recipes(Console(), RecipeOptions(cuda="10.1"), local=True)
    assert [each.name for each in chosen.recipes] == ["mxnet-cu101"]
    assert (chosen.failures, len(chosen)) == ([], 1)
    assert "syntax.toml is left out" in capsys.readouterr().err


@pytest.mark.usefixtures("with_valid")
def test_a_named_recipe_is_used_without_a_word_about_the_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    chosen = chosen_recipes(Console(), RecipeOptions(recipe=("mxnet-cu101",)), local=True)
    assert [each.name for each in chosen.recipes] == ["mxnet-cu101"]
    assert capsys.readouterr() == ("", "")


def test_all_recipes_are_baked_but_the_broken_ones_which_fail_at_the_end(
    with_valid: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (with_valid / "mxnet-cu101.toml").read_text()
    text = text.replace("mxnet-cu101", "cannot-work").replace('"10.1"', '"11.2"')
    (with_valid / "cannot-work.toml").write_text(text)

    def bake_all(requests: Any, options: Any, failures: Any) -> list[Outcome]:
        return [*failures, *(Outcome(each.name, "baked", 1) for _, each in requests)]

    monkeypatch.setattr(pipeline, "bake_all", bake_all)
    run = invoke("bake", "--all", "--json")
    assert run.returncode == 1
    documents = {each["recipe"]: each for each in json.loads(run.stdout)["bakes"]}
    assert documents["mxnet-cu101"]["status"] == "baked"
    for name in ("syntax", "invalid", "cannot-work"):
        assert documents[name]["status"] == "failed"
        assert documents[name]["error"].keys() == ERROR


def test_what_no_stage_takes_is_refused_before_the_local_cloud_is_prepared(
    with_valid: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_recipes, "_context", lambda *_, **__: pytest.fail("it has started"))
    path = with_valid / "mxnet-cu101.toml"
    text = path.read_text().replace('"d2l", "seal"', '"seal"')
    path.write_text(f'{text}\n[packages]\npip = ["cowsay"]\n')
    for command in ("bake", "plan", "rebuild"):
        run = invoke(command, "mxnet-cu101", "--local", "--stand-in")
        assert run.returncode == 2
        said = " ".join(run.stderr.split())
        assert "packages.pip: no stage of the recipe uses it. Add d2l or pip to stages" in said


def parts(command: list[str], text: str) -> list[dict[str, Any]]:
    """Return the part of each recipe in a document in which all have failed."""
    key = {"bake": "bakes", "plan": "failed", "rebuild": "recipes"}[command[0]]
    found: list[dict[str, Any]] = json.loads(text)[key]
    return found


@pytest.mark.parametrize("command", [["bake", "--all"], ["plan", "--all"], ["rebuild"]])
@pytest.mark.usefixtures("folder")
def test_each_broken_recipe_is_an_entry_of_the_document(command: list[str]) -> None:
    run = invoke(*command, "--json")
    assert run.returncode == 2  # all of them are wrong requests
    entries = parts(command, run.stdout)
    assert len(entries) == len(BROKEN)
    assert all(entry["error"].keys() == ERROR for entry in entries)
    assert "syntax" in str([entry["recipe"] for entry in entries])
    run = invoke(*command)
    assert run.returncode == 2
    assert "is not valid TOML" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_single_recipe_that_is_broken_is_a_list_of_one_with_all(folder: Path) -> None:
    (folder / "invalid.toml").unlink()
    for command in (["bake", "--all"], ["plan", "--all"], ["rebuild"]):
        run = invoke(*command, "--json")
        assert run.returncode == 2, run.stderr
        [entry] = parts(command, run.stdout)
        assert entry["error"].keys() == ERROR


@pytest.mark.usefixtures("folder")
def test_a_broken_recipe_is_a_group_of_the_matrix_so_that_its_job_fails() -> None:
    run = invoke("rebuild", "--matrix")
    assert run.returncode == 0, run.stderr
    assert "syntax" in run.stdout
    assert "invalid" in run.stdout
