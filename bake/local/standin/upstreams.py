"""The files that the mirror serves instead of NVIDIA, Ubuntu, Debian, conda and d2l.

They are made from the facts, so they are the same for each recipe, byte for byte. Only the packages
and wheels that a recipe requests are added.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from bake import catalog
from bake.catalog import Cuda, Driver, OsImage, Toolkit, facts
from bake.files import on_machine, programs_of, write_file
from bake.local.standin import names, services
from bake.local.standin.archive import Package, Sign, write_archive, write_flat_repository
from bake.local.standin.trust import Trust
from bake.recipe.conda_spec import read_conda_spec

CHANNEL = "conda-forge"
# The packages that recipes request: those of each operating system, and the specs of conda.
Requested = Mapping[str, Iterable[str]]

# The packages of the stages `base`, `venv`, `mxnet`, `docker` and `efa`. Version 0, so that none
# replaces a real package of the machine.
BASE_PACKAGES = (
    "apparmor", "build-essential", "bzip2", "ca-certificates", "curl", "dkms", "docker.io",
    "environment-modules", "git", "gnupg", "libgomp1", "libnl-3-200", "libnl-3-dev",
    "libnl-route-3-200", "libnl-route-3-dev", "libquadmath0", "pciutils", "python3-dev",
    "python3-venv", "rsync", "tcl", "unzip",
)  # fmt: skip
# The programs of these packages, from the folder `on_machine`.
PROGRAMS = {"docker.io": "docker"}
NVIDIA_LABEL = "NVIDIA CUDA"  # the label that NVIDIA's pin file matches

# Newer versions, of another release of CUDA, beside the versions that a release needs. NVIDIA's
# repository has such versions, too. Without the pins, a machine would install them as a second
# toolkit.
TRAPS = {
    "libcublas10": ("10.2.2.89-1", "/usr/local/cuda-10.2/lib64/libcublas.so.10.2.2.89"),
    "libcublas-dev": ("10.2.2.89-1", "/usr/local/cuda-10.2/lib64/libcublas_static.a"),
}


def installer() -> bytes:
    """Return the stand-in for the installers of Miniconda and Miniforge."""
    return _file("installer.sh") + b"# ---- conda ----\n" + _file("conda.py")


def notebooks(framework: str) -> bytes:
    """Return the stand-in for an archive of the book's notebooks: a few that run.

    As upstream, one has no bytes (null). One more is text that is not a notebook.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, cells in json.loads(_file("notebooks.json"))[framework].items():
            entry = zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0))
            if isinstance(cells, list):
                archive.writestr(entry, json.dumps(_notebook(cells), indent=1) + "\n")
            else:
                archive.writestr(entry, cells or "")
    return buffer.getvalue()


def conda_channel(specs: Iterable[str]) -> Mapping[str, bytes]:
    """Return the files of the conda channel: packages without content, and an index of them.

    The packages are versions of Python, those that are facts, and one for each of the `specs`. The
    index maps each spec to the file that satisfies it.
    """
    records = [("python", f"3.{minor}") for minor in range(6, 16)]
    records += [(name, "0") for name in names.known_names("conda", CHANNEL) if name != "python"]
    wanted = {spec: _satisfying(spec) for spec in specs}
    records += wanted.values()
    files = {
        _conda_file(*record): json.dumps({"name": record[0], "version": record[1]}).encode()
        for record in records
    }
    index = {
        "packages.conda": {file: json.loads(data) for file, data in files.items()},
        "specs": {spec: _conda_file(*record) for spec, record in wanted.items()},
    }
    return {**files, "repodata.json": json.dumps(index).encode()}


def _satisfying(spec: str) -> tuple[str, str]:
    """Return the name of the package and a version that the spec allows, "0" if possible."""
    read = read_conda_spec(spec)
    named = [v for part in read.alternatives for v in re.findall(r"\d[\w.]*", ",".join(part))]
    candidates = ["0", *named, *(f"{version}.1" for version in named)]
    return read.name.lower(), next(filter(read.allows, candidates), "0")


def _conda_file(name: str, version: str) -> str:
    return f"{name}-{version}-stand_in.conda"


def single_files() -> Mapping[str, bytes]:
    """Return the files that are in no repository of packages: path (its mirror first) → content."""
    found = catalog.load()
    files = {
        f"notebooks/{d2l.archive(framework)}": notebooks(framework)
        for d2l in found.d2l.values()
        for framework in d2l.notebooks
    }
    for each in found.installers:
        # Each release of Miniforge has a folder of its own.
        folder = f"{each.version}/" if each.manager == "miniforge" else ""
        content = services.efa_installer(each) if each.manager == "efa" else installer()
        files[f"{each.manager}/{folder}{each.file}"] = content
    return files


def requested(inputs: Mapping[str, str]) -> Requested:
    """Return the packages that these inputs of stages request."""
    apt = [*inputs.get("APT_PACKAGES", "").split(), *inputs.get("DNF_PACKAGES", "").split()]
    conda = inputs.get("CONDA_PACKAGES", "").split()
    return {"conda": conda} | ({inputs["OS_ID"]: apt} if apt else {})


def write(root: Path, trust: Trust, wanted: Requested) -> None:
    """Write all files of the mirror, unless they are up to date.

    What earlier recipes requested is kept.
    """
    kept = root / "requested.json"
    earlier: Requested = json.loads(kept.read_text()) if kept.exists() else {}
    wanted = {
        archive: sorted({*earlier.get(archive, ()), *wanted.get(archive, ())})
        for archive in sorted({*earlier, *wanted})
    }
    stamp = root / "stamp"
    digest = _digest(trust, wanted)
    if stamp.exists() and stamp.read_text() == digest:
        return
    for path, data in single_files().items():
        _write(root / path, data)
    for path, data in conda_channel(wanted.get("conda", ())).items():
        _write(root / "conda" / CHANNEL / "linux-64" / path, data)
    with trust.signer() as sign:
        _write_operating_systems(
            root,
            sign,
            {
                key: list(main_packages(key, wanted.get(key, ())))
                for key, image in catalog.load().os_images.items()
                if not image.like
            },
        )
        _write_nvidia(root, sign, trust)
        services.write_container_toolkit(root, sign, trust)
    _write(kept, json.dumps(wanted).encode())
    _write(stamp, digest.encode())


def _write_operating_systems(root: Path, sign: Sign, packages: Mapping[str, list[Package]]) -> None:
    """Write the archives. `packages` are those of the component `main`, by operating system."""
    for image in map(catalog.load().os_image, packages):
        name, codename = image.key.split("-")[0], image.codename
        main = packages[image.key]
        nvidia = list(_packages(image, "os"))
        if name == "ubuntu":
            components = {"main": main, "restricted": nvidia, "universe": [], "multiverse": []}
            suites = [codename, f"{codename}-updates", f"{codename}-security"]
            write_archive(root / name, sign, suites, components, label="Ubuntu")
            continue
        if name == "amazon":  # by apt: the stand-in of Amazon Linux is a Debian
            suites = [codename, f"{codename}-updates", f"{codename}-security"]
            write_archive(root / name, sign, suites, {"main": main + nvidia}, label="Amazon Linux")
            continue
        components = {"main": main, "contrib": [], "non-free": nvidia, "non-free-firmware": []}
        nothing: dict[str, list[Package]] = {component: [] for component in components}
        suites = [codename, f"{codename}-updates"]
        write_archive(root / name, sign, suites, components, label="Debian")
        suites = [f"{codename}-security"]
        write_archive(root / f"{name}-security", sign, suites, nothing, label="Debian-Security")


def main_packages(os: str, wanted: Iterable[str]) -> Iterator[Package]:
    """Yield the packages of the stages, those that are facts, and what recipes request."""
    found = {
        (name, "0")
        for name in (*BASE_PACKAGES, *names.known_names("apt", os), *names.known_names("dnf", os))
    }
    for package in wanted:
        name, _, version = package.partition("=")
        found.add((name.partition(":")[0], version or "0"))
    for name, version in sorted(found):
        program = PROGRAMS.get(name)
        yield Package(
            name, version, files={f"/usr/bin/{program}": _file(program)} if program else {}
        )


def _write_nvidia(root: Path, sign: Sign, trust: Trust) -> None:
    for image in catalog.load().os_images.values():
        if image.nvidia_repository:
            folder = root / "compute/cuda/repos" / image.nvidia_repository
            write_flat_repository(folder, sign, _packages(image, "nvidia"), label=NVIDIA_LABEL)
            _write(folder / f"{trust.fingerprint[-8:]}.pub", trust.public_key)


def _packages(image: OsImage, archive: str) -> Iterable[Package]:
    """Return what the archive has of NVIDIA for the operating system."""
    found = catalog.load()
    packages = [
        package
        for driver in found.drivers
        if driver.os == image.key and archive == "os"
        for package in _driver(driver)
    ]
    for cuda in found.cuda.values():
        toolkit = cuda.on.get(image.key)
        if toolkit and toolkit.archive == archive:
            packages += _toolkit(cuda, toolkit)
    if archive == "nvidia":
        packages += services.dcgm()
        packages += services.nccl(cuda for cuda in found.cuda.values() if image.key in cuda.on)
    return {package.file_name: package for package in packages}.values()


def _driver(driver: Driver) -> Iterator[Package]:
    """Yield the driver's userland packages: a stand-in machine has no kernel of its own."""
    for name in driver.userland:
        has_tool = name.startswith(("nvidia-smi", "nvidia-utils", "nvidia-driver-cuda"))
        files = {"/usr/bin/nvidia-smi": _file("nvidia-smi")} if has_tool else {}
        yield Package(name, f"{driver.version}-0standin1", files=files)


def _toolkit(cuda: Cuda, toolkit: Toolkit) -> Iterator[Package]:
    nvcc = _file("nvcc").replace(b"@RELEASE@", cuda.version.encode())
    nvcc = nvcc.replace(b"@VERSION@", cuda.toolkit.encode())
    if toolkit.archive == "os":
        for name in toolkit.packages:
            yield Package(name, f"{cuda.toolkit}-0standin1", files={"/usr/bin/nvcc": nvcc})
        return
    home = f"/usr/local/cuda-{cuda.version}"
    pins = [pin.split("=") for pin in toolkit.pins]
    for name in toolkit.packages:
        files = {f"{home}/bin/nvcc": nvcc, f"{home}/lib64/stand-in": b""}
        yield Package(name, f"{cuda.toolkit}-1", ", ".join(name for name, _ in pins), files)
    for name, version in pins:
        yield Package(name, version, files={f"{home}/lib64/{name}.stand-in": b""})
        if name in TRAPS:
            newer, file = TRAPS[name]
            yield Package(name, newer, files={file: b"stand-in\n"})


def _notebook(cells: Iterable[str]) -> dict[str, Any]:
    """Return a notebook. A cell that begins with # is text, each other one is code."""
    written: list[dict[str, Any]] = []
    for number, source in enumerate(cells):
        cell: dict[str, Any] = {"id": f"cell-{number}", "metadata": {}, "source": source}
        if source.startswith("#"):
            written.append({"cell_type": "markdown", **cell})
        else:
            written.append({"cell_type": "code", "execution_count": None, "outputs": [], **cell})
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return {
        "cells": written,
        "metadata": {"kernelspec": kernel},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _digest(trust: Trust, wanted: Requested) -> str:
    """Return the digest of everything from which the files are made, this program included."""
    digest = hashlib.sha256(json.dumps([trust.fingerprint, wanted]).encode())
    for folder in (resources.files(__package__), resources.files(facts.__name__)):
        for file in sorted(folder.iterdir(), key=lambda file: file.name):
            if file.is_file():
                digest.update(file.read_bytes())
    for program in programs_of("bake.local.standin"):
        digest.update(program.read_bytes())
    return digest.hexdigest()


def _file(name: str) -> bytes:
    return on_machine("bake.local.standin").joinpath(name).read_bytes()


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, data)
