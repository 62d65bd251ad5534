"""A recipe that extends another one, and a project's recipes over the built-in ones."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from bake.errors import Finding, RecipeError
from bake.recipe.project import Project
from bake.recipe.recipe_files import lock_path, new_lock_path
from bake.recipe.recipes import choose, find, load, read_all, read_own
from tests.support.environment import REPOSITORY
from tests.support.projects import WHOLE, add_recipe, new_project

BUILT_IN = sorted(path.stem for path in REPOSITORY.glob("manifests/*.toml"))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    add_recipe(tmp_path, "mine", WHOLE.format(name="mine"))
    return new_project(tmp_path)


def add(project: Project, name: str, *lines: str) -> Path:
    return add_recipe(project.folder, name, "\n".join([f'name = "{name}"', *lines]))


def findings(project: Project, name: str) -> list[Finding]:
    with pytest.raises(RecipeError, match=f"{name}.toml is not valid") as caught:
        find(name, project)
    return list(caught.value.findings)


# extends -----------------------------------------------------------------------------------------


def test_tables_are_joined_and_other_values_are_replaced(project: Project) -> None:
    add(
        project,
        "more",
        'extends = "mine"',
        'stages = ["base", "drivers", "seal"]',
        'builder.disk_gb = 100\npython.version = "3.8"\npackages.apt = ["htop"]',
    )
    mine, more = find("mine", project), find("more", project)
    assert more.builder == mine.builder.model_copy(update={"disk_gb": 100})
    assert more.python == mine.python.model_copy(update={"version": "3.8"})
    assert more.stages == ("base", "drivers", "seal")
    assert more.packages.apt == ("htop",)
    assert (more.name, more.base, more.driver) == ("more", mine.base, mine.driver)


def test_a_built_in_recipe_can_be_extended_but_its_default_is_not_taken(project: Project) -> None:
    add(project, "tagged", 'extends = "mxnet-cu101"', '[tags]\nteam = "book"')
    built_in, tagged = find("mxnet-cu101", project), find("tagged", project)
    assert built_in.default
    own = {"name": "tagged", "default": False, "extends": "mxnet-cu101", "tags": {"team": "book"}}
    assert tagged.model_dump() == built_in.model_dump() | own


def test_recipes_extend_each_other_over_several_steps(project: Project) -> None:
    add(project, "a", 'extends = "mine"', "builder.disk_gb = 100", 'packages.apt = ["htop"]')
    add(project, "b", 'extends = "a"', "builder.timeout_hours = 2", 'without = ["packages"]')
    b = find("b", project)
    assert (b.builder.disk_gb, b.builder.timeout_hours, b.packages.apt) == (100, 2, ())


def test_what_is_left_out_is_not_taken_but_may_be_given_anew(project: Project) -> None:
    add(project, "a", 'extends = "mine"', '[packages]\napt = ["htop"]\npip = ["attrs"]')
    add(
        project,
        "b",
        'extends = "a"',
        'without = ["packages.apt", "builder", "python.installer"]',
        'builder.instance_types = ["g5.xlarge"]\npython.manager = "venv"',
    )
    a, b = find("a", project), find("b", project)
    assert (b.packages.apt, b.packages.pip) == ((), ("attrs",))
    assert b.builder == a.builder.model_copy(update={"instance_types": ("g5.xlarge",)})
    assert (b.python.manager, b.python.version, b.python.installer) == ("venv", "3.7", "")


@pytest.mark.parametrize(
    ("lines", "place", "says"),
    [
        (['extends = "nosuch"'], "extends", "Recipe nosuch not found"),
        (['extends = "mxnet-cu102"'], "extends", "mxnet-cu101"),
        (["extends = 3"], "extends", "is not the name of a recipe"),
        (['extends = "broken"'], "extends", "not valid TOML"),
        (['without = ["d2l"]'], "without", "works only with extends"),
        (['extends = "mine"', 'without = "d2l"'], "without", "is not a list"),
        (['extends = "mine"', "without = [3]"], "without", "is not a list"),
        (['extends = "mine"', 'without = ["d2l", "dl2"]'], "without[1]", "mean d2l"),
        (['extends = "mine"', 'without = ["packages"]'], "without[0]", "mine.toml has no packages"),
        (['extends = "mine"', 'without = ["name"]'], "without[0]", "mine.toml has no name"),
        (['extends = "a"'], "extends", "is the recipe itself. Name another recipe"),
        (['extends = "c"'], "extends", "in a circle: a.toml → c.toml → d.toml → c.toml"),
    ],
)
def test_a_wrong_extends_is_a_finding_with_its_place(
    lines: list[str], place: str, says: str, project: Project
) -> None:
    add(project, "c", 'extends = "d"')
    add(project, "d", 'extends = "c"')
    add(project, "broken", "= 1")
    add(project, "a", *lines)
    with pytest.raises(RecipeError) as caught:
        find("a", project)
    [finding] = caught.value.findings
    assert finding.place == place
    assert says in str(finding)


def test_a_finding_names_the_file_that_gives_the_value(project: Project) -> None:
    add(project, "child", 'extends = "parent"', "builder.timeout_hours = 2", "tags = 1")
    text = WHOLE.format(name="parent").replace('"470"', '"471"')
    add_recipe(project.folder, "parent", text)
    places = [finding.place for finding in findings(project, "child")]
    assert places == ["parent.toml: driver.branch", "tags"]
    assert [finding.place for finding in findings(project, "parent")] == ["driver.branch"]


def test_what_no_file_gives_is_missing_in_the_recipe_itself(project: Project) -> None:
    add(project, "child", 'extends = "mine"', 'without = ["builder.instance_types"]')
    assert [finding.place for finding in findings(project, "child")] == ["builder.instance_types"]


# layers ------------------------------------------------------------------------------------------


def test_a_project_has_its_own_recipes_and_the_built_in_ones(project: Project) -> None:
    recipes, broken = read_all(project)
    assert [recipe.name for recipe in recipes] == ["mine", *BUILT_IN]
    assert broken == []
    assert [recipe.name for recipe in read_own(project)[0]] == ["mine"]


def test_a_recipe_takes_the_place_of_the_built_in_one_of_its_name_and_may_extend_it(
    project: Project,
) -> None:
    path = add(project, "mxnet-cu101", 'extends = "mxnet-cu101"', "builder.disk_gb = 100")
    path.rename(path.with_name("other.toml"))
    assert find("mxnet-cu101", project).builder.disk_gb == 100
    assert find("other", project).builder.disk_gb == 100
    names = [recipe.name for recipe in read_all(project)[0]]
    assert sorted(names) == sorted(["mine", *BUILT_IN])


def test_the_projects_own_recipe_is_preferred_to_a_built_in_default_one(project: Project) -> None:
    assert choose(project, cuda="10.1").name == "mine"
    assert choose(project, cuda="10.0").name == "mxnet-cu100"


def test_a_broken_recipe_does_not_let_the_built_in_one_of_its_name_through(
    project: Project,
) -> None:
    add(project, "mxnet-cu101", "= 1")
    with pytest.raises(RecipeError, match="not valid TOML"):
        find("mxnet-cu101", project)
    recipes, [broken] = read_all(project)
    assert broken.name == "mxnet-cu101"
    assert "mxnet-cu101" not in [recipe.name for recipe in recipes]


def test_a_built_in_recipe_extends_only_built_in_ones(tmp_path: Path) -> None:
    below = new_project(tmp_path / "below", "base")
    add(below, "child", 'extends = "base"')
    project = Project(tmp_path / "own", below=Project(below.folder))
    text = WHOLE.format(name="base").replace("g4dn.xlarge", "g5.xlarge")
    add_recipe(project.folder, "base", text)
    assert find("child", project).builder.instance_types == ("g4dn.xlarge",)
    add(project, "own", 'extends = "base"')
    assert find("own", project).builder.instance_types == ("g5.xlarge",)


def test_a_recipe_is_found_by_the_path_of_its_file(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loose = tmp_path / "elsewhere.toml"
    loose.write_text('name = "loose"\nextends = "mine"\n')
    assert find(str(loose), project).name == "loose"
    monkeypatch.chdir(tmp_path / "manifests")
    assert find("mine.toml", project) == find("mine", project)
    assert find("../elsewhere.toml", project).name == "loose"
    with pytest.raises(RecipeError, match=r"nosuch\.toml cannot be read"):
        find("nosuch.toml", project)


def test_a_recipe_by_path_may_extend_the_built_in_one_of_its_name(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(project, "mxnet-cu101", 'extends = "mxnet-cu101"')
    monkeypatch.chdir(project.folder)
    assert load(Path("manifests/mxnet-cu101.toml"), project) == find("mxnet-cu101", project)


def test_locks_are_beside_own_recipes_and_in_the_project_for_built_in_ones(
    project: Project, tmp_path: Path
) -> None:
    manifests, built_in = tmp_path / "manifests", REPOSITORY / "manifests"
    assert lock_path("mine", "mine", project) == manifests / "mine.lock"
    assert lock_path("x/a.toml", "loose", project) == Path("x/loose.lock")
    assert lock_path("mxnet-cu101", "mxnet-cu101", project) == built_in / "mxnet-cu101.lock"
    new = new_lock_path("mxnet-cu101", "mxnet-cu101", project)
    assert new == manifests / "mxnet-cu101.lock"
    new.touch()
    assert lock_path("mxnet-cu101", "mxnet-cu101", project) == new


def test_every_recipe_of_the_repository_is_a_document_of_its_own() -> None:
    for path in REPOSITORY.glob("manifests/*.toml"):
        assert tomllib.loads(path.read_text())["name"] == path.stem
