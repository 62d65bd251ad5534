"""The folder in which recipes, their locks and their stages are found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import bake


@dataclass(frozen=True)
class Project:
    """A folder of recipes and of the scripts that they name.

    `is_installed` tells that the folder belongs to an installed package, which nothing may change.
    """

    folder: Path
    is_installed: bool = False

    @property
    def manifests(self) -> Path:
        """The folder of recipes and locks."""
        return self.folder / "manifests"

    @property
    def scripts(self) -> Path:
        """The folder of `lib.sh` and `stages/`."""
        return self.folder / "scripts"


def built_in() -> Project:
    """Return the project of bake itself: a checkout, or its copy in the installed package."""
    package = Path(str(bake.__file__)).parent
    installed = package / "builtin"  # made by setup.py
    return Project(installed, True) if installed.is_dir() else Project(package.parent)


def docs() -> Path:
    """Return the folder of the pages and policies that messages name as `docs/NAME`."""
    return built_in().folder / "docs"
