"""Options that several commands have in common, and their help texts."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any


def option(default: Any, help: str) -> Any:
    """Make a field of a class of options, with its default value and its help text."""
    return field(default=default, metadata={"help": help})


def explained(options: type[Any]) -> Mapping[str, tuple[Any, str]]:
    """Map the name of each option of a class to its default value and its help text."""
    return {each.name: (each.default, each.metadata["help"]) for each in fields(options)}


@dataclass(frozen=True)
class CommonOptions:
    """The options that most commands take. One that a command does not take has its default."""

    region: str | None = option(None, "AWS region (default: your AWS configuration's)")
    local: bool = option(
        False, "the local cloud on this computer instead of AWS (started when needed)"
    )
    json: bool = option(False, "one JSON document on stdout, nothing else there")
    quiet: bool = option(False, "only warnings, failures and the result")
    verbose: bool = option(False, "every line that the machine prints")
    project: str | None = option(
        None, "folder with your recipes (default: BAKE_PROJECT, else the nearest one upwards)"
    )

    @property
    def local_flag(self) -> str:
        """` --local` if that was given, to append to a command."""
        return " --local" if self.local else ""

    @property
    def region_flag(self) -> str:
        """` --region REGION` if that was given, to append to a command."""
        return f" --region {self.region}" if self.region else ""

    @property
    def project_flag(self) -> str:
        """` --project FOLDER` if that was given, to append to a command."""
        return f" --project {shlex.quote(self.project)}" if self.project else ""

    @property
    def flags(self) -> str:
        """The options that select the same cloud, region and project, to append to a command."""
        return self.local_flag + self.region_flag + self.project_flag


@dataclass(frozen=True)
class RecipeOptions:
    """The options that select recipes and change how they are baked."""

    recipe: tuple[str, ...] = option(
        (),
        "recipes, or paths of their files (default: one, by --cuda and --framework; "
        "see invoke recipes)",
    )
    all: bool = option(False, "every recipe of your project; without one, every recipe of bake")
    cuda: str | None = option(None, "CUDA version, like 12.6 or 10.1")
    framework: str | None = option(None, "framework, like pytorch or jax")
    instance_type: str | None = option(
        None,
        "EC2 instance types in order of preference, instead of the recipe's: "
        "g4dn.xlarge,g4dn.2xlarge",
    )
    spot: bool = option(False, "a spot machine")
    no_spot: bool = option(False, "an on-demand machine, even if the recipe prefers spot")
    unchecked: bool = option(
        False,
        "go on, with a warning, where bake does not know a GPU, driver, CUDA release or framework",
    )
    no_lock: bool = option(False, "install the newest versions, not those of the recipe's lock")
    stand_in: bool = option(
        False, "with --local: small stand-ins for NVIDIA's, Anaconda's and Ubuntu's servers"
    )


MACHINE = {"machine": "id or name of a machine (default: your only one)"}
# Beside other arguments, which may also begin with the machine's name.
ALSO_MACHINE = {"machine": "id or name of a machine, if no argument names it"}
NO_BROWSER = "print Jupyter's address, with its token, instead of opening it (as --json does)"
