"""Recipes of one small stage, which are baked in seconds."""

from __future__ import annotations

from pathlib import Path

RECIPE = """
name = "{name}"
description = "for a test"
base = "ubuntu-18.04"
stages = ["{name}", "seal"]
builder.instance_types = ["g4dn.xlarge"]
"""
STAGE = """#!/usr/bin/env bash
# {name}.
# Needs:
# Inputs:
set -o errexit -o nounset -o pipefail
source "${{BAKE_LIB:?}}"
{body}
"""


def add_recipe(project: Path, name: str, body: str) -> None:
    """Write a recipe and its stage, which runs `body`."""
    (project / "manifests" / f"{name}.toml").write_text(RECIPE.format(name=name))
    script = project / "scripts" / "stages" / f"{name}.sh"
    script.write_text(STAGE.format(name=name, body=body))
