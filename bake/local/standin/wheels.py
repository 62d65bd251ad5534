"""A Python package index: real wheels, downloaded once, and stand-ins for those that need a GPU.

The downloaded versions are those that the machine's Python would select, not this computer's. uv
resolves for another Python and platform, markers included; pip would use the markers of its own
interpreter.
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
from urllib.parse import quote

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from bake import catalog
from bake.errors import Finding, LocalCloudError, RecipeError
from bake.files import on_machine, write_file
from bake.local.machines.os_images import underneath

# For some releases of MXNet, the CPU build has another version. [PyPI's list of files]
_CPU_BUILDS = {"1.7.0": "1.7.0.post2"}

# The wheels of these frameworks have hundreds of megabytes, also for the CPU. So small programs
# replace them. The value is the program, if the wheel has one, and what it needs.
_PROGRAMS = {
    "torch": ("torch", ("numpy",)),
    "torchvision": ("torchvision", ("numpy", "pillow")),
    "tensorflow": ("tensorflow", ("numpy",)),
    "tensorflow-cpu": ("tensorflow", ("numpy",)),
    "jax": ("jax", ("numpy",)),
    "jaxlib": ("", ()),
    "vllm": ("vllm", ()),
}
_EPOCH = (2026, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Target:
    """The machine for which wheels are chosen: the versions of its Python and of its glibc."""

    python: str = "3.11"
    glibc: tuple[int, int] = (2, 36)


DEBIAN_12 = Target()


def target_of(os_id: str) -> Target:
    """Return the target of a stand-in machine: that of the Debian underneath."""
    system = underneath(catalog.load().os_image(os_id))
    major, minor = system.glibc.split(".")
    return Target(system.python, (int(major), int(minor)))


@dataclass(frozen=True)
class StandInWheel:
    """A wheel with a name, a version and requirements. `module` is its only file, or empty."""

    name: str
    version: str
    requires: tuple[str, ...] = ()
    module: str = ""

    @property
    def file_name(self) -> str:
        return f"{self.name.replace('-', '_')}-{self.version}-py3-none-any.whl"

    def build(self) -> bytes:
        info = f"{self.name.replace('-', '_')}-{self.version}.dist-info"
        lines = ["Metadata-Version: 2.1", f"Name: {self.name}", f"Version: {self.version}"]
        lines.append(f"Summary: stand-in for {self.name}: no GPU code inside")
        lines += [f"Requires-Dist: {requirement}" for requirement in self.requires]
        wheel = "Wheel-Version: 1.0\nGenerator: bake\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        files = {f"{self.module}.py": self._program()} if self.module else {}
        files |= {f"{info}/METADATA": "\n".join(lines) + "\n", f"{info}/WHEEL": wheel}
        record = [f"{name},sha256={_digest(text)},{len(text)}" for name, text in files.items()]
        files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,"]) + "\n"
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, text in files.items():
                archive.writestr(zipfile.ZipInfo(name, _EPOCH), text)
        return buffer.getvalue()

    def _program(self) -> str:
        release = f"{Version(self.version).public}+stand.in"
        program = on_machine("bake.local.standin").joinpath(f"{self.module}.py").read_text()
        return program.replace("@VERSION@", release)


def stand_in_for(requirement: Requirement) -> StandInWheel | None:
    """Return the stand-in for a GPU build, or None if the real wheel is used."""
    name = canonicalize_name(requirement.name)
    if name not in _PROGRAMS and not re.fullmatch(r"mxnet-cu\d+|nvidia-.+-cu\d+", name):
        return None
    version = next((s.version for s in requirement.specifier if s.operator == "=="), "")
    if not version:
        raise LocalCloudError(
            f"No exact version of {name} in the requirement {requirement}",
            hint=f"Write {name}==VERSION: its stand-in needs the version",
        )
    if name in _PROGRAMS:
        module, requires = _PROGRAMS[name]
        return StandInWheel(name, version, requires, module)
    if name.startswith("nvidia-"):
        return StandInWheel(name, version)
    return StandInWheel(name, version, (f"mxnet=={_CPU_BUILDS.get(version, version)}",))


def provide(root: Path, requirements: Iterable[str], target: Target = DEBIAN_12) -> None:
    """Write an index at `root` that satisfies these requirements of pip on this machine.

    The network is used only for requirements that are new. Raises RecipeError for one that the
    index does not have, and LocalCloudError if a package has no wheel for the machine's Python.
    """
    real, stand_ins, unsure = _separate(requirements, target)
    files = root / "files"
    files.mkdir(parents=True, exist_ok=True)
    for wheel in stand_ins:
        path, data = files / wheel.file_name, wheel.build()
        if not path.exists() or path.read_bytes() != data:
            path.with_suffix(".sha256").unlink(missing_ok=True)
            write_file(path, data)
    parts: list[object] = [real, unsure] if unsure else list(real)
    key = json.dumps(parts if target == DEBIAN_12 else [*parts, target.python])
    lock = root / "locks" / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.txt"
    if not lock.exists():
        if unsure:
            _resolve(unsure, target, "--no-deps")
        resolved = _resolve(real, target)
        _fetch(resolved, files, target)
        lock.parent.mkdir(exist_ok=True)
        write_file(lock, resolved)
    _write_index(root)


def _separate(
    lines: Iterable[str], target: Target = DEBIAN_12
) -> tuple[list[str], list[StandInWheel], list[str]]:
    """Return the requirements to download from PyPI, and the stand-ins for the others.

    The third part are the requirements of stand-ins that no fact names: PyPI must have them.
    """
    real: dict[str, None] = {"pip": None}
    stand_ins: list[StandInWheel] = []
    facts = {line for build in catalog.load().builds for line in build.requirements}
    unsure: list[str] = []
    environment = {key: str(value) for key, value in default_environment().items()}
    environment |= {"python_version": target.python, "python_full_version": f"{target.python}.2"}
    for line in lines:
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate(environment):
            continue
        wheel = stand_in_for(requirement)
        if wheel is None:
            real[line] = None
        else:
            stand_ins.append(wheel)
            real.update(dict.fromkeys(wheel.requires))
            unsure += [line] if line not in facts else []
    return sorted(real), stand_ins, unsure


# `uv pip compile --help`, --python-platform: no newer one than this.
NEWEST_GLIBC_OF_UV = (2, 40)


def _resolve(lines: Iterable[str], target: Target, *options: str) -> str:
    settings = _pip_settings()
    command = [sys.executable, "-m", "uv", "pip", "compile", "-", "--quiet", "--no-header"]
    command += ["--no-annotate", "--no-cache", "--only-binary", ":all:", "--no-config"]
    command += ["--python-version", target.python, "--index-strategy", "unsafe-best-match"]
    major, minor = min(target.glibc, NEWEST_GLIBC_OF_UV)
    command += ["--python-platform", f"x86_64-manylinux_{major}_{minor}"]
    if index := settings.get("index-url"):
        command += ["--default-index", index]
    for index in settings.get("extra-index-url", "").split():
        command += ["--index", index]
    command += options
    environment = {"SSL_CERT_FILE": settings["cert"]} if "cert" in settings else {}
    lines = list(lines)
    try:
        return _run(command, "\n".join(lines), "resolved for the stand-in machines", environment)
    except LocalCloudError as error:
        if missing := _missing("\n".join(error.details), lines):
            finding = Finding("packages.pip", f"the package index has no {missing}")
            raise RecipeError("These packages cannot be rehearsed", findings=[finding]) from None
        raise


def _missing(said: str, lines: Iterable[str]) -> str:
    """Return which of the requirements uv did not find, or "" if it names none of them."""
    named = re.search(r"Because ([\w.-]+) was not found|no version of ([\w.-]+)\S* and", said)
    if named is None:
        return ""
    wanted = canonicalize_name(named[1] or named[2])
    found = [line for line in lines if canonicalize_name(Requirement(line).name) == wanted]
    return "" if not found else f"package {wanted}" if named[1] else found[0]


def _fetch(resolved: str, folder: Path, target: Target) -> None:
    major, newest = target.glibc
    platforms = [f"manylinux_{major}_{minor}_x86_64" for minor in range(newest, 4, -1)]
    platforms += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]
    lock = folder / ".lock.txt"
    lock.write_text(resolved)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input"]
    command += ["--only-binary", ":all:", "--python-version", target.python]
    command += ["--implementation", "cp"]
    for platform in platforms:
        command += ["--platform", platform]
    command += ["--disable-pip-version-check", "--requirement", str(lock), "--dest", str(folder)]
    try:
        _run(command, "", "fetched from the package index", {})
    finally:
        lock.unlink()


def _pip_settings() -> dict[str, str]:
    """Return the settings of this computer's pip, from its files and the environment."""
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
            hint=_hint(done.stderr),
            details=done.stderr.strip().splitlines()[-10:],
        )
    return done.stdout


def _hint(said: str) -> str:
    """Return what to do. uv and pip name an index that answers, but has no such packages."""
    if "No solution found" in said or "No matching distribution" in said:
        return (
            "No versions fit together that have wheels for the Python of the stand-in machines: "
            "change packages.pip in the recipe, or bake it without --stand-in"
        )
    return "The first bake with stand-ins needs PyPI, or the index in pip's configuration"


def _write_index(root: Path) -> None:
    """Write the pages of the simple repository API (PEP 503): `simple`, and `pytorch/cu126`.

    As upstream, the builds of PyTorch for one CUDA (2.9.1+cu126) are not in PyPI's index.
    """
    projects: dict[Path, list[Path]] = {}
    for path in sorted((root / "files").glob("*.whl")):
        name, version, *_ = parse_wheel_filename(path.name)
        index = root / "pytorch" / version.local if version.local else root / "simple"
        projects.setdefault(index / name, []).append(path)
    for folder, wheels in projects.items():
        folder.mkdir(parents=True, exist_ok=True)
        files = "/".join(".." for _ in folder.relative_to(root).parts) + "/files"
        page = "\n".join(["<!DOCTYPE html>", *_links(wheels, files)])
        write_file(folder / "index.html", f"{page}\n")


def _links(wheels: Iterable[Path], files: str) -> Iterator[str]:
    for wheel in wheels:
        kept = wheel.with_suffix(".sha256")
        if not kept.exists():
            with wheel.open("rb") as stream:
                write_file(kept, hashlib.file_digest(stream, "sha256").hexdigest())
        link = f"{files}/{quote(wheel.name)}#sha256={kept.read_text()}"
        yield f'<a href="{link}">{wheel.name}</a>'


def _digest(text: str) -> str:
    """Return the digest in the form of RECORD: URL-safe base64 without padding."""
    digest = hashlib.sha256(text.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
