"""What is installed on a machine, as its own package managers list it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from functools import partial
from typing import Protocol

from pydantic import BaseModel, ConfigDict

from bake import files
from bake.errors import RemoteError
from bake.record import installed
from bake.record.installed import Installed
from bake.threads import together


class Answer(Protocol):
    @property
    def stdout(self) -> str: ...
    @property
    def exit_status(self) -> int: ...


class Shell(Protocol):
    """Whoever runs a command on the machine as the login user: `bake.ssh`'s connection."""

    def run(
        self, command: str, *, check: bool = True, timeout_s: float | None = None
    ) -> Answer: ...


class Inventory(BaseModel):
    """Package → version. `conda` and `driver` are empty where there is none.

    `driver` is the loaded kernel module's version, `cuda` nvcc's release; `stages` is what each
    of them added, by the files that it came in.
    """

    model_config = ConfigDict(frozen=True)

    os: str = ""
    kernel: str = ""
    driver: str = ""
    cuda: str = ""
    python: str = ""
    dpkg: Mapping[str, str] = {}
    pip: Mapping[str, str] = {}
    conda: Mapping[str, str] = {}
    stages: Mapping[str, Installed] = {}


_TIMEOUT_S = 300


def inventory(shell: Shell, environment_prefix: str) -> Inventory:
    """Ask the machine; RemoteError when dpkg or the environment's pip cannot answer.

    Where there is no environment, nothing is in it: that one was promised is for the proof to say.
    Versions and the names of files only: no path and no setting of the machine is in it.
    """
    python = shlex.quote(f"{environment_prefix}/bin/python")
    prefix = shlex.quote(environment_prefix)
    pip = f"! [ -e {python} ] || {python} -m pip list --format json --disable-pip-version-check"
    conda = f"! [ -d {prefix}/conda-meta ] || conda list --json --prefix {prefix}"
    dpkg = r"dpkg-query --show --showformat '${db:Status-Abbrev}\t${binary:Package}\t${Version}\n'"
    said = _said(
        shell,
        {"dpkg": dpkg, "pip": pip, "stages": installed.COMMAND},
        {
            "os": ". /etc/os-release && echo $PRETTY_NAME",
            "kernel": "uname --kernel-release",
            "driver": "cat /sys/module/nvidia/version",
            "cuda": "nvcc --version",
            "python": f"{python} -c 'import platform; print(platform.python_version())'",
            "conda": conda,
        },
    )
    return Inventory(
        os=said["os"],
        kernel=said["kernel"],
        driver=said["driver"],
        cuda=_release(said["cuda"]),
        python=said["python"],
        dpkg=_dpkg(said["dpkg"]),
        pip=_packages(said["pip"]),
        conda=_packages(said["conda"]),
        stages=installed.parse(said["stages"]),
    )


def _said(shell: Shell, needed: Mapping[str, str], optional: Mapping[str, str]) -> dict[str, str]:
    """What each command says, all asked at once: every answer is a journey, and pip's and conda's
    take a second. An optional one says nothing when the machine does not have it."""
    said: dict[str, str] = {}

    def ask(name: str, command: str) -> None:
        answer = shell.run(command, check=name in needed, timeout_s=_TIMEOUT_S)
        said[name] = answer.stdout.strip() if answer.exit_status == 0 else ""

    together(*(partial(ask, name, command) for name, command in {**needed, **optional}.items()))
    return said


def _release(nvcc: str) -> str:
    match = re.search(r"\brelease (\d+\.\d+)", nvcc)
    return match[1] if match else ""


def _dpkg(listing: str) -> dict[str, str]:
    """RemoteError when it is not what `dpkg-query` was asked for."""
    try:
        lines = [line.split("\t") for line in listing.splitlines()]
        return {name: version for state, name, version in lines if state.startswith(("ii", "hi"))}
    except ValueError:
        raise RemoteError(
            "The list of packages cannot be understood",
            hint="`dpkg-query --show` on the machine: something writes into its output",
        ) from None


def _packages(listing: str) -> dict[str, str]:
    """pip's and conda's JSON; nothing when it is none (a stand-in's conda knows no JSON)."""
    try:
        entries = files.read(listing)
        return {str(entry["name"]): str(entry["version"]) for entry in entries}
    except (ValueError, LookupError, TypeError):
        return {}
