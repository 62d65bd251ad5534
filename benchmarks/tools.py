"""The three tools, each run by the command that its user types, with its best settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.cloud import LocalCloud
from benchmarks.work import LOGIN_USER, MACHINE, Recipe

BIN = Path(sys.executable).parent
LIB = "/tmp/lib.sh"  # noqa: S108
TIMEOUT_S = 3600


class Broken(Exception):
    """A tool failed, so that nothing was measured."""


def bake(cloud: LocalCloud, folder: Path, recipes: Sequence[Recipe], *, jobs: int) -> float:
    """Return the seconds that `invoke bake` takes."""
    command = [str(BIN / "invoke"), "--search-root", str(folder), "bake", "--quiet"]
    command += [recipe.name for recipe in recipes]
    if len(recipes) > 1:
        command += ["--jobs", str(jobs)]
    environment = cloud.environment | {"BAKE_BUILDS": str(folder / "builds")}
    return _timed("bake", command, environment, folder)


def packer(cloud: LocalCloud, folder: Path, recipes: Sequence[Recipe], *, jobs: int) -> float:
    """Return the seconds that `packer build` takes; it polls every second instead of every two."""
    template = folder / "packer.json"
    template.write_text(json.dumps(_template(cloud, folder, recipes), indent=1))
    command = ["packer", "build", "-color=false", f"-parallel-builds={jobs}", str(template)]
    environment = cloud.environment | {
        "CHECKPOINT_DISABLE": "1",
        "PACKER_CONFIG_DIR": str(folder),
        "AWS_POLL_DELAY_SECONDS": "1",
        "AWS_MAX_ATTEMPTS": "3600",
    }
    return _timed("packer", command, environment, folder)


def loop(cloud: LocalCloud, folder: Path, recipes: Sequence[Recipe], *, jobs: int) -> float:
    """Return the seconds that a plain shell script with the AWS CLI and ssh takes.

    It makes no security group and checks nothing.
    """
    (recipe,) = recipes
    script = Path(__file__).with_name("loop.sh")
    scripts = [str(folder / "scripts" / "stages" / f"{name}.sh") for name in recipe.stage_names]
    environment = cloud.environment | {
        "AWS": str(BIN / "aws"),
        "AWS_PAGER": "",
        "IMAGE": cloud.base_image_id,
        "MACHINE": MACHINE,
        "LOGIN_USER": LOGIN_USER,
        "LIB": str(folder / "scripts" / "lib.sh"),
        "WORK": str(folder / "loop"),
    }
    return _timed("loop", ["bash", str(script), *scripts], environment, folder)


def _template(cloud: LocalCloud, folder: Path, recipes: Sequence[Recipe]) -> dict[str, Any]:
    builder = {
        "type": "amazon-ebs",
        "custom_endpoint_ec2": cloud.url,
        "region": cloud.region,
        "skip_region_validation": True,
        "skip_credential_validation": True,
        "skip_metadata_api_check": True,
        "source_ami": cloud.base_image_id,
        "instance_type": MACHINE,
        "ssh_username": LOGIN_USER,
        "ssh_port": cloud.ssh_port,
        "temporary_security_group_source_cidrs": ["127.0.0.1/32"],
        "encrypt_boot": False,
    }
    shell = {
        "type": "shell",
        "environment_vars": [f"BAKE_LIB={LIB}", f"LOGIN_USER={LOGIN_USER}"],
        "execute_command": "sudo env {{.Vars}} bash {{.Path}}",
    }
    lib = {"type": "file", "source": str(folder / "scripts" / "lib.sh"), "destination": LIB}
    stages = folder / "scripts" / "stages"
    return {
        "builders": [
            builder
            | {
                "name": recipe.name,
                "ami_name": f"packer/{recipe.name}/{time.time_ns()}",
                "tags": {"made-by": "packer"},
            }
            for recipe in recipes
        ],
        "provisioners": [
            lib,
            *(
                shell | {"only": [recipe.name], "script": str(stages / f"{name}.sh")}
                for recipe in recipes
                for name in recipe.stage_names
            ),
        ],
    }


def _timed(name: str, command: list[str], environment: dict[str, str], folder: Path) -> float:
    """Return the wall time of the whole process. Raises Broken with the end of its output."""
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        start = time.monotonic()
        status = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            timeout=TIMEOUT_S,
        ).returncode
        seconds = time.monotonic() - start
    if status:
        said = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
        raise Broken(f"{name} ended with status {status}:\n{said}")
    return seconds
