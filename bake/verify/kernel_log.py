"""Known failures in the lines that the driver writes to the kernel's log."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from bake.catalog import facts
from bake.errors import RecipeError
from bake.verify.known import ANOTHER_MACHINE, Known

# The reasons why the driver refuses a GPU, from the kernel's log.
REFUSALS = (
    Known(
        "driver {driver} no longer supports this GPU",
        "branch {branch} is the last that supports it",
        "Set driver.branch in the recipe to that branch, or choose an instance type with a newer "
        "GPU.",
        r"supported through the NVIDIA (?P<branch>\d+)\.\w+ Legacy drivers.*?"
        r"The (?P<driver>[\d.]+) NVIDIA driver will ignore this GPU",
    ),
    Known(
        "driver {driver} does not support this GPU (PCI id {id})",
        "the GPU is newer than the driver, or too old for this driver branch",
        "Set driver.branch in the recipe to a branch that supports the GPU.",
        r"\(PCI ID: (?P<id>[\da-f:]+)\) installed in this system is not supported by the "
        r"(?:NVIDIA )?(?P<driver>[\d.]+) (?:NVIDIA Linux )?driver release",
    ),
    Known(
        "the open kernel modules do not support this GPU (PCI id {id})",
        "they need a GPU with a GPU System Processor: Turing or newer",
        'Set driver.modules = "proprietary" in the recipe.',
        r"\(PCI ID: (?P<id>[\da-f:]+)\) installed in this system is not supported by "
        r"open nvidia\.ko",
    ),
    Known(
        "this GPU needs the open kernel modules (PCI id {id})",
        "the proprietary modules do not support Blackwell and newer",
        'Set driver.modules = "open" in the recipe.',
        r"\(PCI ID: (?P<id>[\da-f:]+)\) installed in this system requires use of the "
        r"NVIDIA open kernel modules",
    ),
    Known(
        "the driver's libraries have version {client}, its loaded kernel module has {module}",
        "one of them was upgraded without a reboot",
        "Reboot the machine, and hold the driver's packages with `sudo apt-mark hold`.",
        r"API mismatch: (?:the )?client (?:has the )?version (?P<client>[\d.]+).*?"
        r"kernel module (?:has the )?version (?P<module>[\d.]+)",
    ),
    Known(
        "another driver uses the GPU",
        "it was loaded before NVIDIA's; usually it is nouveau",
        "Blacklist nouveau in /etc/modprobe.d and in the initramfs, as the stage drivers does.",
        r"The NVIDIA probe routine was not called for \d+ device",
    ),
    Known(
        "Secure Boot keeps the kernel module from loading",
        "the module is not signed with a key that this machine trusts",
        "Use the distribution's signed modules (linux-modules-nvidia-*), or a base image without "
        "Secure Boot.",
        r"unsigned module loading is restricted"
        r"|Loading of (unsigned module|module with unavailable key) is rejected",
    ),
    Known(
        "the kernel module was built for another kernel",
        "the running kernel refuses to load it",
        "Run `dkms status` and `uname -r` on the machine, and install the kernel headers of the "
        "running kernel.",
        r"nvidia[\w-]*: (version magic|disagrees about version of symbol)",
    ),
)

_GPU = r"(?P<gpu>[\da-f:.]{1,20}[\da-f])"
# Older drivers leave out "PCI:". A line about a slice (MIG) also contains its number.
_XID = r"\bXid \((?:PCI:)?(?P<gpu>[^()]{1,60})\): "


def xid_faults() -> tuple[Known, ...]:
    """Return the Xids for which NVIDIA's catalog requires more than a restart of the program.

    RecipeError if a project's own ones cannot be used.
    """
    try:
        return _xid_faults(facts.read("xids"))
    except (AttributeError, KeyError, TypeError) as error:
        raise RecipeError(
            f"The facts {facts.own_path('xids')} cannot be used: {error}",
            hint="They have the format of the built-in ones: bake/catalog/facts/xids.toml",
        ) from error


def _xid_faults(table: Mapping[str, Any]) -> tuple[Known, ...]:
    return tuple(
        Known(
            f"{xid['what']} ({{gpu}})",
            f"Xid {code}, for which NVIDIA's catalog requires "
            f"{table['action'][xid['action']]['required']}",
            ANOTHER_MACHINE,
            rf"{_XID}{re.escape(code)}\b"
            + (r"[^()]{1,60}(?<![-\w])Fatal\b" if xid.get("fatal_only") else ""),
        )
        for code, xid in table["xid"].items()
    )


# Faults that a healthy GPU never reports, even if it works again afterwards.
FAULTS = (
    *xid_faults(),
    Known(
        "a GPU must be recovered ({gpu})",
        "Xid 154: the driver requests this action: {action}",
        ANOTHER_MACHINE,
        _XID + r"154, GPU recovery action changed from \w+ \([^()]*\) to \w+ "
        r"\((?!None\))(?P<action>[^()]{1,60})\)",
    ),
    Known(
        "a GPU has fallen off the bus ({gpu})",
        "the driver can no longer reach it",
        ANOTHER_MACHINE,
        rf"\bGPU {_GPU}:? (?:\(PCI ID: [\da-f:]+\) installed in this system has|GPU has) "
        r"fallen off the bus",
    ),
    Known(
        "a GPU could not be initialised ({gpu})",
        "RmInitAdapter failed: the hardware is faulty, the firmware has another version than the "
        "driver, or another machine or driver still uses the GPU",
        ANOTHER_MACHINE,
        rf"(?:\bGPU {_GPU}: )?\b(?:RmInitAdapter|rm_init_adapter) failed",
    ),
    Known(
        "a GPU must be reset",
        "the driver refuses all requests to it ({status})",
        ANOTHER_MACHINE,
        r"\b(?P<status>NV_ERR_RESET_REQUIRED|NV_ERR_GPU_IS_LOST)\b",
    ),
    Known(
        "a GPU must be reset",
        "the driver could not start its system processor",
        ANOTHER_MACHINE,
        r"GPU is likely in a bad state and may need to be reset",
    ),
    Known(
        "the machine must be rebooted",
        "the driver's memory management (UVM) reports the fatal error {error}",
        ANOTHER_MACHINE,
        r"uvm encountered global fatal error (?P<error>\w+), requiring os reboot",
    ),
    Known(
        "an NVSwitch reports a fatal error ({switch})",
        "SXid {sxid}: its links to the GPUs cannot be used",
        ANOTHER_MACHINE,
        r"\bSXid \((?:PCI:)?(?P<switch>[^()]{1,60})\): (?P<sxid>\d+), Fatal\b",
    ),
)

KERNEL_LOG = (*REFUSALS, *FAULTS)
