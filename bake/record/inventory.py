"""The inventory of an image: the software in it, and its differences from another image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

UNKNOWN = "-"

# One word of a line: printable ASCII without spaces.
Word = Annotated[str, StringConstraints(pattern=r"^[!-~]+$")]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Wheel(_Table):
    """A pip package. `file` is the wheel's file name, or its URL if it is not from the index."""

    version: Word
    sha256: Word
    file: Word


class Installed(_Table):
    """The software that one stage has installed.

    `apt` and `dnf` map each package that the stage added or upgraded to its version, `conda` each
    path in the channel to its sha256, and `files` each other download to its sha256 (a git
    repository to its commit). UNKNOWN stands for a hash that cannot be determined.
    """

    apt: Mapping[Word, Word] = {}
    dnf: Mapping[Word, Word] = {}
    conda: Mapping[Word, Word] = {}
    pip: Mapping[Word, Wheel] = {}
    files: Mapping[Word, Word] = {}


class Inventory(BaseModel):
    """Everything that is installed on a machine. It holds no path and no setting of the machine.

    `dpkg`, `rpm`, `pip` and `conda` map packages to versions. A part that is not installed is "" or
    an empty mapping. `driver` is the version of the loaded kernel module, `cuda` is nvcc's release,
    and `stages` maps each stage to the software that it has installed.
    """

    model_config = ConfigDict(frozen=True)

    os: str = ""
    kernel: str = ""
    driver: str = ""
    cuda: str = ""
    python: str = ""
    dpkg: Mapping[str, str] = {}
    rpm: Mapping[str, str] = {}
    pip: Mapping[str, str] = {}
    conda: Mapping[str, str] = {}
    stages: Mapping[str, Installed] = {}


@dataclass(frozen=True)
class Change:
    """One package or part that differs between two images; "" stands for not installed."""

    kind: str
    name: str
    before: str
    after: str


def difference(before: Inventory, after: Inventory) -> tuple[Change, ...]:
    """Return the changes: parts of the system first, then packages by kind and name."""
    tables: list[tuple[str, Mapping[str, str], Mapping[str, str]]] = [
        ("system", _parts(before), _parts(after)),
        ("apt", before.dpkg, after.dpkg),
        ("dnf", before.rpm, after.rpm),
        ("conda", before.conda, after.conda),
        ("pip", before.pip, after.pip),
    ]
    return tuple(
        Change(kind, name, old.get(name, ""), new.get(name, ""))
        for kind, old, new in tables
        for name in sorted(old.keys() | new.keys())
        if old.get(name, "") != new.get(name, "")
    )


def _parts(inventory: Inventory) -> dict[str, str]:
    return {
        "OS": inventory.os,
        "kernel": inventory.kernel,
        "driver": inventory.driver,
        "CUDA": inventory.cuda,
        "Python": inventory.python,
    }
