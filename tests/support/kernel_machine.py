"""A container that looks like a machine with its own kernel, for the stage `drivers`.

apt, dpkg, kmod and the scripts are real. Its packages are small ones, with the names and the
dependencies of Ubuntu's; a module is an ELF file with nothing but a version in it.
"""

from __future__ import annotations

import io
import struct
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from bake.local import standin
from bake.local.standin.archive import Package, write_flat_repository
from bake.recipe.project import built_in
from bake.recipe.resolved import resolve
from tests.support.environment import CACHE
from tests.support.stage_machines import LIB, Machine, find, machines

KERNEL_LIB = "/run/bake/kernel-lib.sh"
# What a container cannot have: a kernel, modules that are loaded, and systemd.
LIB_WITH_KERNEL = """\
source {lib}
in_container() {{ false; }}
uname() {{ echo {kernel}; }}
modprobe() {{ :; }}
systemctl() {{ [[ $1 != show ]] || echo /lib/systemd/system/nvidia-persistenced.service; }}
"""
# Ubuntu's unit, as far as it matters here.
PERSISTENCED = b"""\
[Service]
Type=forking
ExecStart=/usr/bin/nvidia-persistenced --user nvidia-persistenced --no-persistence-mode --verbose
"""


def module(version: str) -> bytes:
    """Return a kernel module that modinfo can read, with nothing but its version."""
    contents = {
        b".modinfo": f"version={version}\0license=test\0".encode(),
        b".shstrtab": b"\0.modinfo\0.shstrtab\0.symtab\0.strtab\0",
        b".symtab": bytes(24),
        b".strtab": b"\0",
    }
    kinds, body, headers = {b".modinfo": 1, b".symtab": 2}, b"", bytes(64)
    for name, data in contents.items():
        place, kind = 64 + len(body), kinds.get(name, 3)
        symbols = (4, 1, 8, 24) if kind == 2 else (0, 0, 1, 0)  # link, info, alignment, entry size
        headers += struct.pack(
            "<IIQQQQIIQQ",
            contents[b".shstrtab"].index(name),
            kind,
            0,
            0,
            place,
            len(data),
            *symbols,
        )
        body += data + bytes(-len(data) % 8)
    counts = (64, 0, 0, 64, len(contents) + 1, 2)
    header = struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, 64 + len(body), 0, *counts)
    return b"\x7fELF\2\1\1" + bytes(9) + header + body + headers


def kernel(release: str) -> list[Package]:
    """Return the packages of one kernel, and the newest version of those that install it."""
    version = release.removesuffix("-aws").replace("-", ".")
    files = {f"/boot/vmlinuz-{release}": b"kernel", f"/lib/modules/{release}/kernel/x": b""}
    newest = f"linux-image-aws (= {version}), linux-headers-aws (= {version})"
    return [
        Package(f"linux-image-{release}", version, f"linux-modules-{release}", files),
        Package(f"linux-modules-{release}", version),
        Package(f"linux-headers-{release}", version),
        Package("linux-image-aws", version, f"linux-image-{release}"),
        Package("linux-headers-aws", version, f"linux-headers-{release}"),
        Package("linux-aws", version, newest),
    ]


def driver(branch: str, version: str, kernels: Iterable[str]) -> list[Package]:
    """Return the packages of a driver, whose module exists for these kernels."""
    modules = {f"/lib/modules/{k}/updates/dkms/nvidia.ko": module(version) for k in kernels}
    own = f"{version}-0ubuntu1"
    tool = {"/usr/bin/nvidia-smi": b"#!/bin/sh\n"}
    unit = {"/lib/systemd/system/nvidia-persistenced.service": PERSISTENCED}
    return [
        Package(
            f"nvidia-headless-no-dkms-{branch}-server",
            own,
            f"libnvidia-compute-{branch}-server, nvidia-compute-utils-{branch}-server",
        ),
        Package(f"libnvidia-compute-{branch}-server", own),
        Package(f"nvidia-compute-utils-{branch}-server", own, files=unit),
        Package(f"nvidia-utils-{branch}-server", own, files=tool),
        Package(
            f"libnvidia-encode-{branch}-server", own, f"libnvidia-decode-{branch}-server (= {own})"
        ),
        Package(f"libnvidia-decode-{branch}-server", own),
        Package(f"nvidia-dkms-{branch}-server", own, "dkms", modules),
    ]


def fabric_manager(branch: str, version: str) -> Package:
    return Package(f"nvidia-fabricmanager-{branch}", f"{version}-0ubuntu1")


def publish(machine: Machine, packages: Mapping[str, Iterable[Package]]) -> None:
    """Make these archives, by label, the only ones of the machine, and read their lists."""
    with tempfile.TemporaryDirectory() as folder:
        sources = []
        for label, contents in packages.items():
            place = label.replace(" ", "-").lower()
            root = Path(folder) / place
            write_flat_repository(root, lambda release: release, contents, label=label)
            (root / "InRelease").rename(root / "Release")  # not signed
            sources.append(f"deb [trusted=yes] file:/srv/archive/{place} /\n")
        (Path(folder) / "sources.list").write_text("".join(sources))
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            tar.add(folder, "archive")
    machine.run(
        "rm -rf /srv/archive /etc/apt/sources.list*; mkdir -p /srv /etc/apt/sources.list.d; "
        "tar -xC /srv; cp /srv/archive/sources.list /etc/apt/",
        stdin=buffer.getvalue(),
    )
    machine.read("apt-get --quiet update")


def give_kernel(machine: Machine, running: str) -> None:
    """Let the scripts take the container for a machine that runs this kernel."""
    text = LIB_WITH_KERNEL.format(lib=LIB, kernel=running)
    machine.run(f"mkdir -p /run/bake; cat > {KERNEL_LIB}", stdin=text.encode())
    # DKMS does this after it has built a module.
    machine.read(
        "echo 'DPkg::Post-Invoke { \"for k in /lib/modules/*; do depmod ${k##*/}; done 2>&-\"; };' "
        "> /etc/apt/apt.conf.d/99-depmod"
    )


def call(machine: Machine, function: str) -> subprocess.CompletedProcess[str]:
    """Call a function of lib.sh as a stage does."""
    return machine.script(f"set -euo pipefail; source {LIB}\n{function}")


def upgrades(machine: Machine, option: str = "--with-new-pkgs") -> set[str]:
    said = machine.read(f"apt-get --simulate {option} upgrade")
    return {line.split()[1] for line in said.splitlines() if line.startswith("Inst ")}


@contextmanager
def small_machines(home: Path) -> Iterator[Callable[[], Machine]]:
    """Yield a function that starts a machine; its archives are those that `publish` gives it."""
    recipe = find("mxnet-cu101")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BAKE_CACHE", str(CACHE))
        patch.setenv("BAKE_HOME", str(home))
        payload = standin.up(resolve(recipe), built_in())
        with machines() as start:
            yield lambda: start(recipe, payload)
        standin.down()
