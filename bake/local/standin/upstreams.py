"""The files that the mirror serves instead of NVIDIA, Ubuntu, Debian, conda and d2l.

They are made from the facts, so they are the same for each recipe, byte for byte. Only a recipe's
additional apt packages and Python wheels are added.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from bake import catalog
from bake.catalog import Cuda, Driver, OsImage, Toolkit, facts
from bake.files import on_machine
from bake.local.standin.archive import Package, Sign, write_archive, write_flat_repository
from bake.local.standin.trust import Trust

# The packages of the stages `base`, `venv` and `mxnet`. Version 0, so that none replaces a real
# package of the machine.
BASE_PACKAGES = (
    "build-essential", "bzip2", "ca-certificates", "curl", "git", "gnupg",
    "libgomp1", "libquadmath0", "python3-venv", "rsync",
    "unzip",
)  # fmt: skip
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


def notebooks() -> bytes:
    """Return the stand-in for the archive of the book's notebooks: a few that run.

    As upstream, one has no bytes (null). One more is text that is not a notebook.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, cells in json.loads(_file("notebooks.json")).items():
            entry = zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0))
            if isinstance(cells, list):
                archive.writestr(entry, json.dumps(_notebook(cells), indent=1) + "\n")
            else:
                archive.writestr(entry, cells or "")
    return buffer.getvalue()


def conda_packages() -> Mapping[str, bytes]:
    """Return the packages of the conda channel: versions of Python without content."""
    versions = [f"3.{minor}" for minor in range(6, 16)]
    return {
        f"python-{version}-stand_in.conda": json.dumps(
            {"name": "python", "version": version}
        ).encode()
        for version in versions
    }


def file_names() -> Mapping[str, tuple[str, ...]]:
    """Return the paths of files outside of package archives, by mirror."""
    found = catalog.load()
    names = {"notebooks": tuple(d2l.archive for d2l in found.d2l.values())}
    for installer in found.installers:
        # Each release of Miniforge has a folder of its own.
        folder = f"{installer.version}/" if installer.manager == "miniforge" else ""
        names[installer.manager] = (*names.get(installer.manager, ()), folder + installer.file)
    return names


def write(root: Path, trust: Trust, extra_packages: Iterable[str]) -> None:
    """Write all files of the mirror, unless they are up to date."""
    extra = sorted({*_extra(root), *extra_packages})
    stamp = root / "stamp"
    digest = _digest(trust, extra)
    if stamp.exists() and stamp.read_text() == digest:
        return
    for mirror, names in file_names().items():
        data = notebooks() if mirror == "notebooks" else installer()
        for name in names:
            _write(root / mirror / name, data)
    for name, data in conda_packages().items():
        _write(root / "conda/conda-forge/linux-64" / name, data)
    with trust.signer() as sign:
        _write_operating_systems(root, sign, [Package(name, "0") for name in extra])
        _write_nvidia(root, sign, trust)
    _write(root / "extra.json", json.dumps(extra).encode())
    stamp.write_text(digest)


def _write_operating_systems(root: Path, sign: Sign, extra: list[Package]) -> None:
    main = [Package(name, "0") for name in BASE_PACKAGES] + extra
    for image in catalog.load().os_images.values():
        name, codename = image.key.split("-")[0], image.codename
        nvidia = list(_packages(image, "os"))
        if name == "ubuntu":
            components = {"main": main, "restricted": nvidia, "universe": [], "multiverse": []}
            suites = [codename, f"{codename}-updates", f"{codename}-security"]
            write_archive(root / name, sign, suites, components, label="Ubuntu")
            continue
        components = {"main": main, "contrib": [], "non-free": nvidia, "non-free-firmware": []}
        nothing: dict[str, list[Package]] = {component: [] for component in components}
        suites = [codename, f"{codename}-updates"]
        write_archive(root / name, sign, suites, components, label="Debian")
        suites = [f"{codename}-security"]
        write_archive(root / f"{name}-security", sign, suites, nothing, label="Debian-Security")


def _write_nvidia(root: Path, sign: Sign, trust: Trust) -> None:
    for image in catalog.load().os_images.values():
        if image.nvidia_repository:
            folder = root / "compute/cuda/repos" / image.nvidia_repository
            write_flat_repository(folder, sign, _packages(image, "nvidia"), label=NVIDIA_LABEL)
            _write(folder / f"{trust.fingerprint[-8:].lower()}.pub", trust.public_key)


def _packages(image: OsImage, archive: str) -> Iterable[Package]:
    """Return the drivers and toolkits that the archive has for the operating system."""
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
    return {package.file_name: package for package in packages}.values()


def _driver(driver: Driver) -> Iterator[Package]:
    """Yield the driver's userland packages: a stand-in machine has no kernel of its own."""
    for name in driver.userland:
        has_tool = name == "nvidia-smi" or name.startswith("nvidia-utils")
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


def _extra(root: Path) -> list[str]:
    """Return the additional packages of earlier recipes, which are kept."""
    path = root / "extra.json"
    return list(json.loads(path.read_text())) if path.exists() else []


def _digest(trust: Trust, extra: list[str]) -> str:
    """Return the digest of everything from which the files are made, this program included."""
    digest = hashlib.sha256(json.dumps([trust.fingerprint, extra]).encode())
    for folder in (resources.files(__package__), resources.files(facts.__name__)):
        for file in sorted(folder.iterdir(), key=lambda file: file.name):
            if file.is_file():
                digest.update(file.read_bytes())
    for name in ("installer.sh", "conda.py", "nvcc", "nvidia-smi", "notebooks.json"):
        digest.update(_file(name))
    return digest.hexdigest()


def _file(name: str) -> bytes:
    return on_machine("bake.local.standin").joinpath(name).read_bytes()


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
