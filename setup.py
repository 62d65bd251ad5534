"""What setup.cfg cannot express: the recipes, stages and pages that the installed package needs."""

from __future__ import annotations

from pathlib import Path
from shutil import copy, rmtree

from setuptools import setup
from setuptools.command.build_py import build_py

# bake/recipe/project.py finds them in `bake/builtin/`. MANIFEST.in names them for the sdist.
BUILT_IN = (
    "manifests/*",
    "scripts/lib.sh",
    "scripts/stages/*",
    "scripts/checks/*",
    "docs/*",
    "docs/recipes/*",
)


class BuildWithBuiltIn(build_py):
    """Copy the folders of the checkout into the package. An editable one uses the checkout."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        folder = Path(self.build_lib, "bake", "builtin")
        rmtree(folder, ignore_errors=True)  # of an earlier build
        for pattern in BUILT_IN:
            for source in filter(Path.is_file, sorted(Path().glob(pattern))):
                target = folder / source
                target.parent.mkdir(parents=True, exist_ok=True)
                copy(source, target)


setup(cmdclass={"build_py": BuildWithBuiltIn})
