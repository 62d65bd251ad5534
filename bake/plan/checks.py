"""The checks that the proof of a plan's image runs: scripts in `scripts/checks`.

A check runs if the recipe has the stage of the same name, or if the recipe's list `checks` names
it. Checks are in the digest of the image, and in that of no stage.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from bake.errors import Finding, RecipeError
from bake.files import json_digest
from bake.plan.script import Script, check_replacement, hint_for_unknown, read_script
from bake.recipe.project import Project


@dataclass(frozen=True)
class PlannedCheck:
    """A check with the values of its inputs."""

    script: Script
    inputs: Mapping[str, str]

    @property
    def name(self) -> str:
        return self.script.name

    @property
    def digest(self) -> str:
        """The sha256 of its name, its script and its inputs."""
        body = hashlib.sha256(self.script.body).hexdigest()
        return json_digest({"name": self.name, "script": body, "inputs": dict(self.inputs)})


def read_checks(
    stages: Iterable[str], named: Iterable[str], project: Project
) -> tuple[list[Script], list[Finding]]:
    """Return the checks of a recipe, those of its stages first, and what is wrong with them.

    `named` is the recipe's own list.
    """
    available = project.checks()
    named, findings = list(named), list[Finding]()
    for index, name in enumerate(named):
        if name not in available:
            hint = hint_for_unknown("checks", name, available)
            findings.append(Finding(f"checks[{index}]", f"unknown check: {name}", hint))
    chosen: list[Script] = []
    for name in dict.fromkeys((*stages, *named)):
        if name in available:
            try:
                chosen.append(read_script(available[name], "check"))
                findings += check_replacement(chosen[-1], project, "check")
            except RecipeError as error:
                own = Finding(f"checks/{name}.sh", error.message, error.hint)
                findings += error.findings or [own]
    return chosen, findings
