"""Projects of a user: a folder with recipes, stages and facts over the built-in ones."""

from __future__ import annotations

from pathlib import Path

from bake.recipe.project import Project, project_in

RECIPE = """\
name = "{name}"
base = "ubuntu-18.04"
stages = ["base", "seal"]
builder.instance_types = ["g4dn.xlarge"]
"""
# More sections than its stages use: it can be read, and not planned.
WHOLE = (
    RECIPE
    + """\
driver.branch = "470"
cuda.version = "10.1"
python = {{ manager = "miniconda", version = "3.7", installer = "py310_24.9.2-0" }}
framework = {{ name = "mxnet", version = "1.7.0" }}
d2l.version = "0.17.0"
"""
)
STAGE = """\
#!/usr/bin/env bash
# {about}
# Needs: {needs}
{header}set -o errexit -o nounset -o pipefail
source "${{BAKE_LIB:?}}"
{body}
"""


def new_project(folder: Path, *recipes: str) -> Project:
    """Make a project with recipes of these names."""
    for name in recipes:
        add_recipe(folder, name, RECIPE.format(name=name))
    return project_in(folder)


def add_recipe(folder: Path, name: str, text: str) -> Path:
    path = folder / "manifests" / f"{name}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def add_stage(
    folder: Path, name: str, *, needs: str = "", header: str = "", body: str = "true"
) -> Path:
    """Write a stage; `header` are further lines of it, such as "Files: motd"."""
    lines = "".join(f"# {line}\n" for line in header.splitlines())
    path = folder / "scripts" / "stages" / f"{name}.sh"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(STAGE.format(about=f"{name}.", needs=needs, header=lines, body=body))
    return path


# A catalog/instances.toml.
FAMILY = """\
[family.g9]
gpu = "T4"
quota = "L-DB2E81BA"
sure = "found"
source = "for a test"
[family.g9.sizes]
"xlarge" = { vcpus = 4, memory_mib = 16384, gpus = 1, gpu_memory_mib = 16384 }
"""
