"""The recipes of a project: one by its name, all of them, or the one for a CUDA release."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bake.catalog import numbers
from bake.errors import Finding, RecipeError
from bake.recipe.extends import EXTENDS, Document, extended
from bake.recipe.project import Project
from bake.recipe.recipe import DEFAULT_FRAMEWORK, Recipe, cuda_of, framework_of, validated
from bake.recipe.recipe_files import (
    SUFFIX,
    RecipeFile,
    duplicate_name,
    is_path,
    named_file,
    read_file,
    recipe_files,
)


@dataclass(frozen=True)
class BrokenRecipe:
    """A file that is not a valid recipe, or whose recipe has the name of another one.

    `name` is the name of the file without `.toml`.
    """

    name: str
    error: RecipeError


def load(path: Path, project: Project) -> Recipe:
    """Read a recipe's file; RecipeError with every finding.

    The recipe that it extends is one of the project.
    """
    return _load(read_file(path), project)


def find(name: str, project: Project) -> Recipe:
    """Find the recipe with this name, else the one in the file of this name, without `.toml`.

    A name that ends with `.toml` is the path of a file. Errors in the files of other recipes are
    ignored.
    """
    if is_path(name):
        return load(Path(name), project)
    try:
        file = named_file(name, recipe_files(project), project.manifests)
    except RecipeError as error:
        if project.is_installed:  # only because no project of the user's was found
            here = "Neither this folder nor one above it has manifests/*.toml"
            error.hint = f"{error.hint}. {here}, so only the built-in recipes are known"
        raise
    return _load(file, project)


def read_all(project: Project) -> tuple[list[Recipe], list[BrokenRecipe]]:
    """Read all recipes of a project, its own first. A broken one does not affect the others."""
    return _read_files(recipe_files(project), project)


def read_own(project: Project) -> tuple[list[Recipe], list[BrokenRecipe]]:
    """Read the project's own recipes, without those of the project below."""
    return _read_files([read_file(path) for path in project.own_recipes], project)


def all_recipes(project: Project) -> list[Recipe]:
    """Read all recipes; RecipeError with the findings of every file if one is broken."""
    recipes, broken = read_all(project)
    problems = [
        Finding(f"{each.name}{SUFFIX}: {finding.place}", finding.message, finding.hint)
        for each in broken
        for finding in each.error.findings or (Finding("", each.error.message, each.error.hint),)
    ]
    if problems:
        raise RecipeError(f"Recipes in {project.manifests} are not valid", findings=problems)
    return recipes


def choose(
    project: Project,
    *,
    name: str | None = None,
    cuda: str | None = None,
    framework: str | None = None,
) -> Recipe:
    """Return the recipe with this name, or the default one for this CUDA and framework.

    The project's own recipes are preferred, and then MXNet. With a name, `cuda` and `framework` are
    ignored here: `override` changes the recipe to them. Without a name, broken recipes are left
    out.
    """
    if name is not None:
        return find(name, project)
    recipes, _ = read_all(project)
    names = ", ".join(recipe.name for recipe in recipes) or "none"
    if cuda is None and framework is None:
        raise RecipeError("No recipe is named", hint=f"Name one, or give --cuda. Recipes: {names}")
    fitting = [
        recipe
        for recipe in recipes
        if cuda in (None, cuda_of(recipe)) and framework in (None, framework_of(recipe))
    ]
    if not fitting:
        requested = " and ".join(filter(None, (cuda and f"CUDA {cuda}", framework)))
        releases = {recipe.cuda.version for recipe in recipes if recipe.cuda}
        available = ", ".join(sorted(releases, key=numbers))
        raise RecipeError(
            f"No recipe for {requested}",
            hint=f"There are recipes for CUDA {available}; `invoke recipes` lists them",
        )
    own = {recipe.name for recipe in read_own(project)[0]}
    fitting = [recipe for recipe in fitting if recipe.name in own] or fitting
    fitting = [recipe for recipe in fitting if recipe.default] or fitting
    fitting = [r for r in fitting if framework_of(r) == DEFAULT_FRAMEWORK] or fitting
    if len(fitting) > 1:
        several = ", ".join(recipe.name for recipe in fitting)
        raise RecipeError(f"Several recipes match: {several}", hint="Name one of them")
    return fitting[0]


def place_in_files(recipe: Recipe, project: Project) -> Callable[[str], str]:
    """Return the function that completes the place of a finding about a recipe of the project.

    If the recipe takes the value there from another one, that one's file is put in front.
    """
    if recipe.extends:
        with suppress(RecipeError):  # a recipe that was named by its path
            file = named_file(recipe.name, recipe_files(project), project.manifests)
            return _document(file, project).place
    return str


def _read_files(
    files: Iterable[RecipeFile], project: Project
) -> tuple[list[Recipe], list[BrokenRecipe]]:
    read: dict[Path, Recipe] = {}
    broken: list[BrokenRecipe] = []
    for file in files:
        try:
            read[file.path] = _load(file, project)
        except RecipeError as error:
            broken.append(BrokenRecipe(file.path.stem, error))
    places: dict[str, list[Path]] = {}
    for path, recipe in read.items():
        places.setdefault(recipe.name, []).append(path)
    for name, paths in places.items():
        if len(paths) > 1:
            broken += [BrokenRecipe(path.stem, duplicate_name(name, paths)) for path in paths]
    return [recipe for recipe in read.values() if len(places[recipe.name]) == 1], broken


def _load(file: RecipeFile, project: Project) -> Recipe:
    document = _document(file, project)
    return validated(document.values, f"The recipe {file.path} is not valid", document.place)


def _document(file: RecipeFile, project: Project) -> Document:
    return extended(file.document(), lambda child, name: _parent(child, name, project))


def _parent(child: Document, name: str, project: Project) -> Document:
    """Return the document of the recipe that another one extends.

    A recipe of the project below knows only that project. One that extends a recipe of its own
    name means that of the project below.
    """
    layer = next(
        (p for p in project.layers if child.path.absolute().parent == p.manifests), project
    )
    own_name = name == child.values.get("name")
    if layer.below and own_name:
        layer = layer.below
    files = recipe_files(layer)
    try:
        if own_name and all(file.name != name for file in files):
            raise RecipeError("is the recipe itself", hint="Name another recipe")
        return named_file(name, files, layer.manifests).document()
    except RecipeError as error:
        finding = Finding(EXTENDS, error.message, error.hint)
        raise RecipeError(f"The recipe {child.path} is not valid", findings=[finding]) from error
