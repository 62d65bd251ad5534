"""What is installed on a machine, read from its own package managers."""

from __future__ import annotations

import json
import shlex
from typing import Protocol

from pydantic import BaseModel, ConfigDict


class Answer(Protocol):
    @property
    def stdout(self) -> str: ...
    @property
    def exit_status(self) -> int: ...


class Shell(Protocol):
    """`bake.remote`'s connection, or anything like it."""

    def run(
        self, command: str, *, check: bool = True, timeout_s: float | None = None
    ) -> Answer: ...


class Inventory(BaseModel):
    """Versions by package name. `driver` and `cuda` are "" where there is none to ask."""

    model_config = ConfigDict(frozen=True)

    os: str
    kernel: str
    driver: str
    cuda: str
    apt: dict[str, str]
    python: dict[str, str]


# A package that is removed and not purged is still listed: only what is installed counts.
_APT = "dpkg-query --show --showformat '${db:Status-Abbrev}\\t${binary:Package}\\t${Version}\\n'"
_TIMEOUT_S = 120.0


def inventory(shell: Shell, environment_prefix: str) -> Inventory:
    """`environment_prefix` is the Python environment's folder. Raises RemoteError."""

    def ask(command: str, *, check: bool = True) -> str:
        answer = shell.run(command, check=check, timeout_s=_TIMEOUT_S)
        return answer.stdout.strip() if answer.exit_status == 0 else ""

    python = shlex.quote(f"{environment_prefix}/bin/python")
    listed = ask(f"{python} -m pip list --disable-pip-version-check --format json")
    rows = [line.split("\t") for line in ask(_APT).splitlines()]
    return Inventory(
        os=ask('. /etc/os-release && echo "$PRETTY_NAME"'),
        kernel=ask("uname --kernel-release"),
        driver=ask("cat /sys/module/nvidia/version", check=False),
        cuda=ask("nvcc --version | sed -n 's/.*release .*, V//p'", check=False),
        apt={package: version for status, package, version in rows if status.startswith("ii")},
        python={package["name"]: package["version"] for package in json.loads(listed)},
    )
