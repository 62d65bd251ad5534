"""A Python package index: real wheels, fetched once, and stand-ins for what needs a GPU.

What is fetched is what the machine's Python would choose, and not this computer's: uv resolves for
another Python and platform, markers included (pip reads those of the interpreter it runs in).
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from bake.errors import LocalCloudError

# A stand-in machine is Debian 12, whatever its recipe says.
PYTHON = "3.11"
GLIBC = (2, 36)
_MACHINE = {"python_version": PYTHON, "python_full_version": f"{PYTHON}.2"}

# Not every release of MXNet has a CPU build of the same number. [PyPI's list of files]
_CPU_BUILDS = {"1.7.0": "1.7.0.post2"}
_EPOCH = (2026, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class StandInWheel:
    """A stand-in wheel: a name, a version, what it requires, and nothing inside."""

    name: str
    version: str
    requires: tuple[str, ...] = ()

    @property
    def file_name(self) -> str:
        return f"{self.name.replace('-', '_')}-{self.version}-py3-none-any.whl"

    def build(self) -> bytes:
        info = f"{self.name.replace('-', '_')}-{self.version}.dist-info"
        lines = ["Metadata-Version: 2.1", f"Name: {self.name}", f"Version: {self.version}"]
        lines.append(f"Summary: stand-in for {self.name}: no GPU code inside")
        lines += [f"Requires-Dist: {requirement}" for requirement in self.requires]
        wheel = "Wheel-Version: 1.0\nGenerator: bake\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        files = {f"{info}/METADATA": "\n".join(lines) + "\n", f"{info}/WHEEL": wheel}
        record = [f"{name},sha256={_digest(text)},{len(text)}" for name, text in files.items()]
        files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,"]) + "\n"
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, text in files.items():
                archive.writestr(zipfile.ZipInfo(name, _EPOCH), text)
        return buffer.getvalue()


def stand_in_for(requirement: Requirement) -> StandInWheel | None:
    """The wheel that takes the place of a GPU build, or None for one that is real."""
    name = canonicalize_name(requirement.name)
    if not re.fullmatch(r"mxnet-cu\d+|nvidia-.+-cu\d+", name):
        return None
    version = next((s.version for s in requirement.specifier if s.operator == "=="), "")
    if not version:
        raise LocalCloudError(f"The stand-in for {name} must know its version: {requirement}")
    if name.startswith("nvidia-"):
        return StandInWheel(name, version)
    return StandInWheel(name, version, (f"mxnet=={_CPU_BUILDS.get(version, version)}",))


def provide(root: Path, requirements: Iterable[str]) -> None:
    """Have the index at `root` satisfy these pip lines. Without the network when it did before.

    Raises LocalCloudError when something cannot be had as a wheel for the machine's Python.
    """
    real, stand_ins = _separate(requirements)
    files = root / "files"
    files.mkdir(parents=True, exist_ok=True)
    for wheel in stand_ins:
        (files / wheel.file_name).write_bytes(wheel.build())
    lock = root / "locks" / f"{hashlib.sha256(json.dumps(real).encode()).hexdigest()[:16]}.txt"
    if not lock.exists():
        resolved = _resolve(real)
        _fetch(resolved, files)
        lock.parent.mkdir(exist_ok=True)
        lock.write_text(resolved)
    _write_index(root / "simple", files)


def _separate(lines: Iterable[str]) -> tuple[list[str], list[StandInWheel]]:
    """The lines to ask PyPI for, and the stand-ins."""
    real: dict[str, None] = {"pip": None}
    stand_ins: list[StandInWheel] = []
    environment = {key: str(value) for key, value in {**default_environment(), **_MACHINE}.items()}
    for line in lines:
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate(environment):
            continue
        if requirement.name == "torch":
            raise LocalCloudError(
                f"There is no stand-in for {requirement}",
                hint="PyPI has no CPU build of torch for Linux. Rehearse an MXNet recipe, or bake "
                "this one with --local and no --stand-in",
            )
        wheel = stand_in_for(requirement)
        if wheel is None:
            real[line] = None
        else:
            stand_ins.append(wheel)
            real.update(dict.fromkeys(wheel.requires))
    return sorted(real), stand_ins


def _resolve(lines: Iterable[str]) -> str:
    settings = _pip_settings()
    command = [sys.executable, "-m", "uv", "pip", "compile", "-", "--quiet", "--no-header"]
    command += ["--no-annotate", "--no-cache", "--only-binary", ":all:", "--no-config"]
    command += ["--python-version", PYTHON, "--index-strategy", "unsafe-best-match"]
    command += ["--python-platform", f"x86_64-manylinux_{GLIBC[0]}_{GLIBC[1]}"]
    if index := settings.get("index-url"):
        command += ["--default-index", index]
    for index in settings.get("extra-index-url", "").split():
        command += ["--index", index]
    environment = {"SSL_CERT_FILE": settings["cert"]} if "cert" in settings else {}
    return _run(command, "\n".join(lines), "resolved for the stand-in machines", environment)


def _fetch(resolved: str, folder: Path) -> None:
    platforms = [f"manylinux_{GLIBC[0]}_{minor}_x86_64" for minor in range(GLIBC[1], 4, -1)]
    platforms += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]
    lock = folder / ".lock.txt"
    lock.write_text(resolved)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input"]
    command += ["--only-binary", ":all:", "--python-version", PYTHON, "--implementation", "cp"]
    for platform in platforms:
        command += ["--platform", platform]
    command += ["--disable-pip-version-check", "--requirement", str(lock), "--dest", str(folder)]
    try:
        _run(command, "", "fetched from the package index", {})
    finally:
        lock.unlink()


def _pip_settings() -> dict[str, str]:
    """What this computer's pip is told by its files and its environment, the stronger last."""
    listing = _run([sys.executable, "-m", "pip", "config", "list"], "", "read from pip", {})
    found: dict[str, dict[str, str]] = {"global": {}, "download": {}, ":env:": {}}
    for line in listing.splitlines():
        if match := re.fullmatch(r"([^.]+)\.(\S+)='(.*)'", line):
            found.setdefault(match[1], {})[match[2]] = match[3]
    return {**found["global"], **found["download"], **found[":env:"]}


def _run(command: list[str], stdin: str, purpose: str, environment: Mapping[str, str]) -> str:
    done = subprocess.run(
        ["env", *(f"{name}={value}" for name, value in environment.items()), *command],
        input=stdin, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise LocalCloudError(
            f"The Python packages could not be {purpose}",
            hint="The first stand-in bake needs PyPI, or the index that pip is set to",
            details=done.stderr.strip().splitlines()[-10:],
        )
    return done.stdout


def _write_index(folder: Path, files: Path) -> None:
    """The pages of the simple repository API (PEP 503)."""
    projects: dict[str, list[Path]] = {}
    for path in sorted(files.glob("*.whl")):
        projects.setdefault(parse_wheel_filename(path.name)[0], []).append(path)
    for name, wheels in projects.items():
        page = folder / name / "index.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text("<!DOCTYPE html>\n" + "\n".join(_links(wheels)) + "\n")


def _links(wheels: Iterable[Path]) -> Iterator[str]:
    for wheel in wheels:
        kept = wheel.with_suffix(".sha256")
        if not kept.exists():
            with wheel.open("rb") as stream:
                kept.write_text(hashlib.file_digest(stream, "sha256").hexdigest())
        yield f'<a href="../../files/{wheel.name}#sha256={kept.read_text()}">{wheel.name}</a>'


def _digest(text: str) -> str:
    """As RECORD wants it: URL-safe base64 without padding."""
    digest = hashlib.sha256(text.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
