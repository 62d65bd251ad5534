"""The files of a project's recipes: which recipe is in which one, and where its lock is.

Nothing is validated here, so that a shell's completion is fast.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bake.catalog import nearest
from bake.errors import RecipeError
from bake.files import read_source
from bake.recipe.extends import Document
from bake.recipe.project import Project, built_in

SUFFIX = ".toml"


@dataclass(frozen=True)
class RecipeFile:
    """A file with a recipe, and its content, or the reason why that cannot be read."""

    path: Path
    content: dict[str, Any] | RecipeError

    @property
    def name(self) -> str:
        """The recipe's name; the file's without `.toml`, if it has none or cannot be read."""
        name = None if isinstance(self.content, RecipeError) else self.content.get("name")
        return name if isinstance(name, str) else self.path.stem

    @property
    def description(self) -> str:
        about = None if isinstance(self.content, RecipeError) else self.content.get("description")
        return about if isinstance(about, str) else ""

    def document(self) -> Document:
        if isinstance(self.content, RecipeError):
            raise self.content
        return Document.of_file(self.path, self.content)


def is_path(name: str) -> bool:
    """Tell whether a recipe is named by the path of its file."""
    return name.endswith(SUFFIX)


def descriptions(project: Project) -> dict[str, str]:
    """Map the names of all recipes of a project, also of broken ones, to their descriptions."""
    return {file.name: file.description for file in recipe_files(project)}


def own_names(project: Project) -> set[str]:
    """Return the names of the user's recipes; none for the built-in project."""
    own = [] if project == built_in() else project.own_recipes
    return {read_file(path).name for path in own}


def replacing_names(project: Project) -> set[str]:
    """Return the names of the user's recipes that take the place of a built-in one."""
    return own_names(project) & set(descriptions(project.below) if project.below else ())


def recipe_files(project: Project) -> list[RecipeFile]:
    """Return the files of a project, its own first.

    Of the project below it, a recipe is left out whose name one of the project's own has.
    """
    if not project.manifests.is_dir():
        raise RecipeError(f"Folder of recipes not found: {project.manifests}")
    files = [read_file(path) for path in project.own_recipes]
    taken = {file.name for file in files}
    below = recipe_files(project.below) if project.below else []
    return files + [file for file in below if file.name not in taken]


def named_file(name: str, files: Sequence[RecipeFile], folder: Path) -> RecipeFile:
    """Return the file with the recipe of this name, else the one that has the name itself."""
    for file in files:
        if file.path.stem == name and isinstance(file.content, RecipeError):
            raise file.content
    stems = {file.path.stem: file.name for file in reversed(files)}
    own = name if any(file.name == name for file in files) else stems.get(name)
    found = [file for file in files if file.name == own]
    if not found:
        hint = nearest(name, (file.name for file in files))
        raise RecipeError(f"Recipe {name} not found in {folder}", hint=hint)
    if len(found) > 1:
        raise duplicate_name(found[0].name, [file.path for file in found])
    return found[0]


def read_file(path: Path) -> RecipeFile:
    """Read a file. An error is its content."""
    try:
        text = read_source(path).decode("utf-8-sig")  # some editors write a byte-order mark
        return RecipeFile(path, tomllib.loads(text))
    except (OSError, UnicodeDecodeError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        return RecipeFile(path, RecipeError(f"The recipe {path} cannot be read: {reason}"))
    except (ValueError, RecursionError) as error:  # RecursionError: lists that are nested too deep
        return RecipeFile(path, RecipeError(f"The recipe {path} is not valid TOML: {error}"))


def duplicate_name(name: str, paths: Iterable[Path]) -> RecipeError:
    files = " and ".join(path.name for path in paths)
    return RecipeError(f"two recipes have the name {name}: {files}", hint="Give one another name")


def new_lock_path(named: str, recipe: str, project: Project) -> Path:
    """Return the path of the lock that is written for a recipe. `named` is how the user named it.

    It is beside the recipe, or in the project if the recipe is one of the project below.
    """
    folder = Path(named).parent if is_path(named) else project.manifests
    return folder / f"{recipe}.lock"


def lock_path(named: str, recipe: str, project: Project) -> Path:
    """Return the path of the lock that a recipe has, which may not exist.

    A recipe of the project below may have one there, too.
    """
    path = new_lock_path(named, recipe, project)
    if is_path(named) or project.below is None or path.exists() or recipe in own_names(project):
        return path
    return lock_path(named, recipe, project.below)
