"""The project that a command uses, and the recipes, stages and facts that it finds there."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bake import catalog
from bake.cli.completion.candidate import Candidate
from bake.cli.completion.line import Option, Syntax, complete
from bake.cli.environment import project, project_of, use_project
from bake.cli.options import RecipeOptions
from bake.cli.recipes import Chosen, chosen_recipes
from bake.console.console import Console
from bake.errors import RequestError
from bake.recipe.project import Project, built_in
from tests.support.commands import invoke
from tests.support.environment import REPOSITORY
from tests.support.projects import FAMILY, RECIPE, add_recipe, add_stage, new_project


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder in which the program `bake` runs: it loads no tasks.py."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delitem(sys.modules, "tasks", raising=False)
    yield folder
    use_project(str(REPOSITORY))
    use_project(None)


def chosen(*names: str, **options: object) -> Chosen:
    return chosen_recipes(Console(), RecipeOptions(recipe=names, **options), local=True)  # type: ignore[arg-type]


def details(*names: str) -> list[str]:
    with pytest.raises(RequestError) as caught:
        chosen(*names)
    return list(caught.value.details)


def test_the_option_is_preferred_to_the_variable_and_that_to_the_nearest_folder(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert project() == built_in()
    new_project(tmp_path, "above")
    assert project().folder == tmp_path
    variable, option = tmp_path / "variable", tmp_path / "option"
    for folder in (variable, option):
        new_project(folder, "mine")
    monkeypatch.setenv("BAKE_PROJECT", "../variable")
    assert [path.stem for path in project().own_recipes] == ["mine"]
    assert project().folder.samefile(variable)
    use_project(str(option))
    assert project() == Project(option, below=built_in())
    use_project(None)
    assert project().folder.samefile(variable)


def test_in_a_folder_that_was_removed_the_built_in_recipes_are_used(here: Path) -> None:
    here.rmdir()
    assert project() == built_in()


def test_a_folder_that_was_named_wrongly_is_refused_by_every_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = invoke("machines", "--project", str(tmp_path), "--json")
    assert ended.returncode == 2
    assert "has no recipes" in json.loads(ended.stdout)["error"]["message"]
    monkeypatch.setenv("BAKE_PROJECT", str(tmp_path))
    ended = invoke("recipes")
    assert ended.returncode == 2
    assert "BAKE_PROJECT" in ended.stderr


def test_a_folder_of_another_user_is_refused_where_its_recipes_are_used(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_project(here, "mine")
    (here / "catalog").mkdir()
    (here / "catalog" / "instances.toml").write_text(FAMILY)
    monkeypatch.setattr("os.getuid", lambda: here.stat().st_uid + 1)
    use_project(None)
    assert "g9.xlarge" not in catalog.load().instance_types
    with pytest.raises(RequestError, match="another user"):
        chosen("mine")


def test_all_and_rebuild_mean_the_recipes_of_the_project_only(here: Path) -> None:
    new_project(here, "mine", "yours")
    assert [each.name for each in chosen(all=True).recipes] == ["mine", "yours"]
    assert [each.name for each in chosen("mxnet-cu101").recipes] == ["mxnet-cu101"]


def test_facts_of_the_project_are_used_until_another_one_is_chosen(here: Path) -> None:
    new_project(here)
    add_recipe(here, "mine", RECIPE.format(name="mine").replace("g4dn", "g9"))
    (here / "catalog").mkdir()
    (here / "catalog" / "instances.toml").write_text(FAMILY)
    assert "g9.xlarge" not in catalog.load().instance_types
    use_project(None)
    assert chosen("mine").recipes[0].machines[0].name == "g9.xlarge"
    use_project(str(REPOSITORY))
    assert "g9.xlarge" not in catalog.load().instance_types


def test_the_list_tells_which_recipes_are_the_users(tmp_path: Path) -> None:
    new_project(tmp_path, "mine", "mxnet-cu100")
    ended = invoke("recipes", "--project", str(tmp_path), "--json")
    entries = {each["name"]: each for each in json.loads(ended.stdout)["recipes"]}
    assert [name for name, each in entries.items() if not each["is_built_in"]] == [
        "mine",
        "mxnet-cu100",
    ]
    assert [name for name, each in entries.items() if each["replaces_built_in"]] == ["mxnet-cu100"]
    lines = invoke("recipes", "--project", str(tmp_path)).stdout.splitlines()
    assert lines[1].startswith("mine ")
    assert lines[1].endswith("; yours")
    assert lines[2].endswith("; yours, in place of the built-in one")
    assert not lines[3].endswith("yours")
    everything = json.loads(invoke("recipes", "--json").stdout)["recipes"]
    assert all(each["is_built_in"] and not each["replaces_built_in"] for each in everything)


# stages ------------------------------------------------------------------------------------------


def test_a_stage_with_a_built_in_name_must_declare_that_it_is_meant_so(here: Path) -> None:
    new_project(here, "mine")
    add_stage(here, "base")
    [finding] = details("mine")
    assert finding.startswith("base.sh: the project's stage has the name of a built-in one. ")
    assert "Replaces: built-in" in finding
    add_stage(here, "base", header="Replaces: built-in")
    [resolved] = chosen("mine").recipes
    assert resolved.name == "mine"


def test_a_built_in_recipe_uses_the_stage_of_the_project_too(here: Path) -> None:
    new_project(here, "mine")
    add_stage(here, "base")
    assert details("mxnet-cu101")[0].startswith("base.sh: the project's stage has the name")


def test_a_stage_that_replaces_nothing_must_not_declare_it(here: Path) -> None:
    add_recipe(here, "mine", RECIPE.format(name="mine").replace('"base", ', '"base", "motd", '))
    add_stage(here, "motd", header="Replaces: built-in")
    [finding] = details("mine")
    assert finding.startswith(
        "motd.sh: header: Replaces: built-in, and no built-in stage is called"
    )


def test_a_finding_about_an_inherited_value_names_the_file_that_gives_it(here: Path) -> None:
    new_project(here)
    text = RECIPE.format(name="parent") + 'packages.apt = ["htop"]\npackages.pip = ["attrs"]\n'
    add_recipe(here, "parent", text)
    text = 'name = "mine"\nextends = "parent"\nstages = ["seal"]\npackages.pip = ["cowsay"]\n'
    add_recipe(here, "mine", text)
    assert [finding.partition(": no stage")[0] for finding in details("mine")] == [
        "parent.toml: packages.apt",
        "packages.pip",
    ]


# recipes by path ---------------------------------------------------------------------------------


def test_a_recipe_by_its_path_has_the_stages_of_its_own_project(here: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    text = RECIPE.format(name="mine").replace('"base", ', '"base", "motd", ')
    path = add_recipe(other, "mine", text)
    add_stage(other, "motd")
    new_project(here, "mine")
    found = chosen(str(path))
    assert (found.project.folder, found.recipes[0].recipe.stages) == (
        other,
        ("base", "motd", "seal"),
    )
    assert project().folder == other


def test_a_recipe_outside_of_projects_uses_the_one_of_the_folder(
    here: Path, tmp_path: Path
) -> None:
    loose = tmp_path / "loose.toml"
    loose.write_text('name = "loose"\nextends = "mine"\n')
    new_project(here, "mine")
    assert chosen("../loose.toml").recipes[0].name == "loose"
    assert project_of([str(loose)]).folder == here


def test_recipes_of_two_projects_cannot_be_baked_together(here: Path, tmp_path: Path) -> None:
    paths = [add_recipe(tmp_path / name, name, RECIPE.format(name=name)) for name in ("a", "b")]
    with pytest.raises(RequestError, match="belong to several projects"):
        chosen(*map(str, paths))
    use_project(str(here.parent / "a"))
    assert [each.name for each in chosen(*map(str, paths)).recipes] == ["a", "b"]


def test_two_files_of_one_recipe_name_cannot_be_baked_together(here: Path) -> None:
    new_project(here, "mine")
    (here / "mine.toml").write_text(RECIPE.format(name="mine"))
    with pytest.raises(RequestError, match="Two of these recipes have the name mine"):
        chosen("mine", "mine.toml")
    assert len(chosen("mine", "mine")) == 1


# messages ----------------------------------------------------------------------------------------


def test_hints_name_the_project_that_was_named(tmp_path: Path) -> None:
    new_project(tmp_path / "my images", "mine")
    ended = invoke("lock", "mine", "--project", str(tmp_path / "my images"))
    assert ended.returncode == 2
    said = " ".join(ended.stderr.split())
    assert "bake mine --no-lock --fresh --project '" in said


def test_recipes_of_the_project_in_the_line_are_candidates(here: Path, tmp_path: Path) -> None:
    new_project(tmp_path / "other", "mine")
    option = Option("project", ["--project"], True, "")
    commands = {"plan": Syntax("", [option], "recipe", repeated=True)}
    line = f"bake plan --project {tmp_path / 'other'} "
    found = complete(line, commands, Syntax("", []))
    assert Candidate("mine") in found.candidates
    assert "mxnet-cu101" in [each.name for each in found.candidates]
    found = complete("bake plan ", commands, Syntax("", []))
    assert "mine" not in [each.name for each in found.candidates]
    assert complete("bake plan --project ", commands, Syntax("", [])).files
