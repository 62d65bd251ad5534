"""Stand-ins for the container toolkit, DCGM, NCCL and EFA: tiny packages that say so."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from bake.catalog import Cuda, Installer
from bake.files import on_machine, write_file
from bake.local.standin.archive import Package, Sign, write_flat_repository
from bake.local.standin.trust import Trust

_CONTAINER_TOOLKIT = "1.20.1"
_DCGM = "4.7.0"
_NCCL = "2.30.7"


def write_container_toolkit(root: Path, sign: Sign, trust: Trust) -> None:
    """Write the repository of NVIDIA's Container Toolkit, with its key."""
    folder = root / "nvidia-container-toolkit"
    runtime = b"#!/bin/sh\necho This is a stand-in for NVIDIA\\'s container runtime >&2\nexit 1\n"
    tools = {"nvidia-ctk": _program("nvidia-ctk"), "nvidia-container-runtime": runtime}
    version = f"{_CONTAINER_TOOLKIT}-1"
    packages = [
        Package("nvidia-container-toolkit", version, "nvidia-container-toolkit-base"),
        Package(
            "nvidia-container-toolkit-base",
            version,
            files={f"/usr/bin/{name}": content for name, content in tools.items()},
        ),
    ]
    write_flat_repository(folder / "stable/deb/amd64", sign, packages, label="NVIDIA Container")
    write_file(folder / "gpgkey", trust.public_key)


def dcgm() -> Iterator[Package]:
    """Yield the packages of DCGM, as in NVIDIA's repository: one for each CUDA, and their core."""
    core, version = "datacenter-gpu-manager-4-core", f"1:{_DCGM}-1"
    yield Package(core, version, files={"/usr/bin/dcgmi": _program("dcgmi")})
    for cuda in (11, 12, 13):
        yield Package(f"datacenter-gpu-manager-4-cuda{cuda}", version, core)


def nccl(releases: Iterable[Cuda]) -> Iterator[Package]:
    """Yield the builds of NCCL: one for each release of CUDA, of which apt takes the newest."""
    for cuda in releases:
        version = f"{_NCCL}-1+cuda{cuda.version}"
        library = {"/usr/lib/x86_64-linux-gnu/libnccl.so.2": b"stand-in\n"}
        yield Package("libnccl2", version, files=library)
        yield Package("libnccl-dev", version, f"libnccl2 (= {version})")


def efa_installer(installer: Installer) -> bytes:
    """Return the archive of AWS's installer: a script that installs a stand-in for libfabric."""
    program = _program("efa_installer.sh").replace(b"@VERSION@", installer.version.encode())
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        entry = tarfile.TarInfo("aws-efa-installer/efa_installer.sh")
        entry.size, entry.mode = len(program), 0o755
        archive.addfile(entry, io.BytesIO(program))
    return buffer.getvalue()


def _program(name: str) -> bytes:
    return (on_machine("bake.local.standin") / name).read_bytes()
