"""Recipes of one small stage, which are baked in seconds."""

from __future__ import annotations

from pathlib import Path

RECIPE = """
name = "{name}"
description = "for a test"
base = "ubuntu-18.04"
stages = ["{name}", "seal"]
builder.instance_types = ["g4dn.xlarge"]
driver.branch = "470"
cuda.version = "10.1"
python = {{ manager = "miniconda", version = "3.7", installer = "py310_24.9.2-0" }}
framework = {{ name = "mxnet", version = "1.7.0" }}
d2l.version = "0.17.0"
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
