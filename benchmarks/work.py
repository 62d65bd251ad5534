"""The work that is measured: stages of known length, the same bytes for each tool."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
BASE = "debian-12"
LOGIN_USER = "admin"
MACHINE = "g4dn.xlarge"
SEAL = "seal"

_SCRIPT = """\
#!/usr/bin/env bash
# Writes {megabytes:g} MB that cannot be compressed, and takes {seconds:g} s longer ({edition}).
# Needs:  {needs}
# Inputs:
set -o errexit -o nounset -o pipefail
# shellcheck source=lib.sh
source "${{BAKE_LIB:?}}"

mkdir --parents /opt/work
head --bytes={size} /dev/urandom >/opt/work/{name}
sleep {seconds:g}
say "{name} is done"
"""

_RECIPE = """\
name = "{name}"
description = "Stages of known length"
base = "{base}"
stages = [{stages}]
tags = {{ measured = "yes" }}

[builder]
instance_types = ["{machine}"]
disk_gb = 64
timeout_hours = 1
"""


@dataclass(frozen=True)
class Stage:
    """A stage of known length.

    `edition` changes the bytes of the script and nothing that it does, so that no tool can reuse
    the result of an earlier edition.
    """

    name: str
    needs: tuple[str, ...] = ()
    seconds: float = 5
    megabytes: float = 20
    edition: str = ""

    def script(self) -> str:
        return _SCRIPT.format(
            name=self.name,
            needs=" ".join(self.needs),
            seconds=self.seconds,
            megabytes=self.megabytes,
            size=round(self.megabytes * 1e6),
            edition=self.edition or "first",
        ).replace("# Needs:  \n", "# Needs:\n")


@dataclass(frozen=True)
class Recipe:
    """Stages in an order in which they can run, followed by the product's own seal stage."""

    name: str
    stages: tuple[Stage, ...]

    @property
    def stage_names(self) -> tuple[str, ...]:
        return (*(stage.name for stage in self.stages), SEAL)

    def toml(self) -> str:
        stages = ", ".join(f'"{name}"' for name in self.stage_names)
        return _RECIPE.format(name=self.name, base=BASE, stages=stages, machine=MACHINE)


def write(folder: Path, recipes: Iterable[Recipe]) -> None:
    """Write a project: the product's command line and lib.sh, with these recipes and stages.

    Replaces the recipes and stages of an earlier call.
    """
    stages, manifests = folder / "scripts" / "stages", folder / "manifests"
    for place in (stages, manifests):
        place.mkdir(parents=True, exist_ok=True)
        for old in place.iterdir():
            old.unlink()
    for link, target in (("tasks.py", "tasks.py"), ("scripts/lib.sh", "scripts/lib.sh")):
        if not (folder / link).exists():
            (folder / link).symlink_to(REPOSITORY / target)
    (stages / f"{SEAL}.sh").symlink_to(REPOSITORY / "scripts" / "stages" / f"{SEAL}.sh")
    for recipe in recipes:
        (manifests / f"{recipe.name}.toml").write_text(recipe.toml())
        for stage in recipe.stages:
            (stages / f"{stage.name}.sh").write_text(stage.script())
