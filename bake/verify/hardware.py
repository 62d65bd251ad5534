"""The NVIDIA GPUs and the driver of a machine, found without nvidia-smi.

A GPU is recognised by its PCI id, or by its device file if no PCI bus is visible. In a container
the visible bus is the host's: there, only a GPU with a device file belongs to the machine.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from bake.verify.check import Shell, run_command

NVIDIA = "0x10de"
DISPLAY_CLASS = "0x03"  # VGA (0300) and 3D (0302) controllers. An NVSwitch is a bridge (0680)

# Prints "container" in a container. Its engine marks it with a file, or, if /run is a file system
# of its own, only in the environment of process 1, which root alone can read.
PRINT_CONTAINER = r"""
if [ -e /run/.containerenv ] || [ -e /.dockerenv ] ||
    systemd-detect-virt --container --quiet 2>/dev/null ||
    { sudo -n cat /proc/1/environ || cat /proc/1/environ; } 2>/dev/null | tr '\0' '\n' |
        grep '^container=' >/dev/null; then echo container; fi
"""
_PROBE = r"""
grep -s . /sys/bus/pci/devices/*/vendor /sys/bus/pci/devices/*/class /sys/bus/pci/devices/*/device
for file in /dev/nvidia[0-9]*; do [ -e "$file" ] && echo "file $file"; done
for file in /proc/driver/nvidia/version /sys/module/nvidia/version; do
    [ -r "$file" ] && sed -n "1s|^|module |p" "$file"
done
{ ldconfig -p || /sbin/ldconfig -p; } 2>/dev/null |
    sed -n 's/.*\(libcuda\.so\.1\|libnvidia-ml\.so\.1\) .*=> //p' | sort -u |
    while read -r library; do echo "library $(readlink -f "$library")"; done
"""
_PROBE = f"{PRINT_CONTAINER}{_PROBE}true\n"


@dataclass(frozen=True)
class Hardware:
    """The GPUs and the driver that were found.

    `gpus` names each GPU once: by bus id and PCI id, or by its device file. `host_gpus` is the
    number of GPUs on the bus of a container's host. `libraries` are the paths of libcuda and
    libnvidia-ml that the loader finds. `module_version` is None if no kernel module is loaded.
    """

    gpus: tuple[str, ...]
    container: bool
    host_gpus: int
    module_version: str | None
    libraries: tuple[str, ...]

    @property
    def library_versions(self) -> dict[str, str]:
        """Path → version, for each path that contains one, such as libcuda.so.535.161.08."""
        found = ((path, _version(PurePosixPath(path).name)) for path in self.libraries)
        return {path: version for path, version in found if version}


def inspect(shell: Shell) -> Hardware:
    """Read the hardware of a machine."""
    return parse(run_command(shell, _PROBE, timeout_s=60).stdout)


def parse(probe: str) -> Hardware:
    """Parse the output of the probe; lines that it does not print are ignored."""
    on_the_bus: dict[str, dict[str, str]] = {}
    files, libraries, module, container = [], [], None, False
    for line in probe.splitlines():
        if match := re.fullmatch(r"/sys/bus/pci/devices/([^/]+)/(\w+):(\S+)", line):
            on_the_bus.setdefault(match[1], {})[match[2]] = match[3]
        elif line.startswith("file "):
            files.append(line.removeprefix("file "))
        elif line.startswith("library "):
            libraries.append(line.removeprefix("library "))
        elif line.startswith("module "):
            module = module or _version(line)
        elif line == "container":
            container = True
    bus = [
        f"{address} (10de:{device.get('device', '').removeprefix('0x')})"
        for address, device in sorted(on_the_bus.items())
        if device.get("vendor") == NVIDIA and device.get("class", "").startswith(DISPLAY_CLASS)
    ]
    own = files if container or not bus else bus
    return Hardware(
        gpus=tuple(own),
        container=container,
        host_gpus=len(bus) if container else 0,
        module_version=module,
        libraries=tuple(libraries),
    )


def _version(text: str) -> str | None:
    match = re.search(r"\d{2,9}\.\d{1,9}(\.\d{1,9})?(?=\s|$)", text)
    return match.group() if match else None
