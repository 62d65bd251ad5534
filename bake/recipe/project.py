"""A project: the folder in which recipes, their locks, stages, checks, files and facts are found.

    manifests/NAME.toml       recipes, and their locks NAME.lock
    scripts/stages/NAME.sh    stages
    scripts/checks/NAME.sh    checks
    files/                    what stages with `Files:` are given
    catalog/NAME.toml         facts, in the format of bake/catalog/facts

A user's project has everything of the built-in project, too. Of two recipes, stages or checks with
one name, it has its own. A folder with a `scripts/lib.sh` is a copy of the built-in project, and
stands alone: stages and the lib.sh that they use belong together.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import bake
from bake.errors import RequestError


@dataclass(frozen=True)
class Project:
    """A folder, and the project below it, whose recipes, stages and checks it has, too.

    `below` is the built-in project, or None for the built-in project itself and for a copy of it.
    `is_installed` tells that the folder belongs to an installed package, which nothing may change.
    """

    folder: Path
    below: Project | None = None
    is_installed: bool = False

    @property
    def layers(self) -> tuple[Project, ...]:
        """This project and the one below it, in the order in which something is searched for."""
        return (self, *(self.below.layers if self.below else ()))

    @property
    def manifests(self) -> Path:
        """The folder of the project's own recipes and locks."""
        return self.folder / "manifests"

    @property
    def own_recipes(self) -> list[Path]:
        """The files of the project's own recipes, without those of the project below."""
        return sorted(self.manifests.glob("*.toml"))

    @property
    def catalog(self) -> Path:
        """The folder of the project's own facts, which may not exist."""
        return self.folder / "catalog"

    @property
    def lib(self) -> Path:
        """The file lib.sh, which every stage and check can read."""
        return self.layers[-1].folder / "scripts" / "lib.sh"

    def stages(self) -> Mapping[str, Path]:
        """Map the name of each stage to its script."""
        return self._scripts("stages")

    def checks(self) -> Mapping[str, Path]:
        """Map the name of each check to its script."""
        return self._scripts("checks")

    def replaced_script(self, script: Path) -> Path | None:
        """Return the script of the project below whose place this stage or check takes, if any.

        A copy with the same content takes no place.
        """
        if self.below is None or not script.is_relative_to(self.folder):
            return None
        replaced = self.below.folder / script.relative_to(self.folder)
        if not replaced.is_file() or replaced.read_bytes() == script.read_bytes():
            return None
        return replaced

    def _scripts(self, kind: str) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for layer in reversed(self.layers):
            found |= {path.stem: path for path in (layer.folder / "scripts" / kind).glob("*.sh")}
        return dict(sorted(found.items()))


def built_in() -> Project:
    """Return the project of bake itself: a checkout, or its copy in the installed package."""
    package = Path(str(bake.__file__)).parent
    installed = package / "builtin"  # made by setup.py
    if installed.is_dir():
        return Project(installed, is_installed=True)
    return Project(package.parent)


def docs() -> Path:
    """Return the folder of the pages and policies that messages name as `docs/NAME`."""
    return built_in().folder / "docs"


def project_in(folder: Path) -> Project:
    """Return the project in a folder, which may be the built-in one or a copy of it."""
    built = built_in()
    if folder.exists() and folder.samefile(built.folder):
        return built
    stands_alone = (folder / "scripts" / "lib.sh").is_file()
    return Project(folder, below=None if stands_alone else built)


def named_project(folder: Path, named_by: str) -> Project:
    """Return the project in the folder that a user has named by an option or a variable.

    RequestError if it has no recipes.
    """
    found = project_in(folder.absolute())
    if found.own_recipes:
        return found
    missing = "has no recipes in manifests/" if folder.is_dir() else "is not a folder"
    raise RequestError(
        f"{named_by}: {folder} {missing}",
        hint="Name a folder with manifests/RECIPE.toml, or make one: invoke init FOLDER",
    )


def nearest_project(start: Path) -> Project | None:
    """Return the project in a folder, or else in the nearest one above it that has recipes.

    RequestError if this folder belongs to another user, because its scripts would run on machines
    in the account of this one.
    """
    for folder in (start, *start.parents):
        found = project_in(folder)
        if found.own_recipes:
            _refuse_other_owner(found)
            return found
    return None


def _refuse_other_owner(project: Project) -> None:
    names = ("manifests", "scripts", "files", "catalog")
    own = [path for name in names if (path := project.folder / name).exists()]
    for path in (project.folder, *own):
        # Also the owner of a link: another user may lead it to a folder of this one.
        if {path.stat().st_uid, path.lstat().st_uid} != {os.getuid()}:
            raise RequestError(
                f"The recipes in {project.manifests} belong to another user, and are not used",
                hint=f"If you trust them, name their folder: BAKE_PROJECT={project.folder}",
            )
