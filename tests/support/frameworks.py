"""Real frameworks on this computer, in virtual environments that are made once."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

from bake.verify.expectation import Expectation
from tests.support.environment import CACHE


def environment(name: str, *requirements: str) -> Path:
    """Return a virtual environment, which is made once for this computer."""
    version = "{}.{}".format(*sys.version_info[:2])
    path = CACHE / "tests" / f"{name}-python{version}"
    if not path.exists():
        new = path.with_name(f"{path.name}.new")
        venv.create(new, clear=True, with_pip=True)
        pip = [str(new / "bin/python"), "-m", "pip", "install", "--quiet", *requirements]
        subprocess.run(pip, check=True, stdin=subprocess.DEVNULL)
        new.rename(path)
    return path


def expectation(prefix: Path, framework: Any, version: str) -> Expectation:
    return Expectation(
        gpu="if-present",
        min_driver="418.39",
        framework=framework,
        framework_version=version,
        environment=prefix.name,
        environment_prefix=str(prefix),
    )


class Here:
    """This computer in the place of the machine; the program runs the Python code `fault` first."""

    def __init__(self, fault: str = "") -> None:
        self.fault = fault

    def run(
        self,
        command: str,
        *,
        check: bool = True,
        stdin: bytes | str | None = None,
        timeout_s: float | None = None,
    ) -> Any:
        assert isinstance(stdin, bytes)
        done = subprocess.run(
            ["bash", "-c", command], input=self.fault.encode() + stdin, capture_output=True
        )
        done.exit_status = done.returncode  # type: ignore[attr-defined]
        done.stdout, done.stderr = done.stdout.decode(), done.stderr.decode()
        return done
