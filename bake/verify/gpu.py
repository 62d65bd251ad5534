"""Whether the GPUs and their driver are those that were asked for, and in good health."""

from __future__ import annotations

import re

from bake.catalog import numbers
from bake.verify.check import Failed
from bake.verify.diagnosis import ANOTHER_MACHINE, FAULTS, Diagnosis, diagnose
from bake.verify.expectation import Expectation
from bake.verify.hardware import Hardware
from bake.verify.nvidia_smi import GpuState, SmiReport

# What nvidia-smi prints is less than EC2's figure by what ECC and the firmware keep (Tesla K80:
# 11441 of 12288 MiB), or more where EC2's is in GB (A10G: 23028 of 22888). Half a GPU is neither.
_LEAST_MEMORY, _MOST_MEMORY = 0.85, 1.10

_BRANDS = {"nvidia", "tesla", "grid", "quadro"}
_FABRIC_UP = {"Completed", "Completed Success"}


def is_model(name: str, model: str) -> bool:
    """Whether nvidia-smi's name is of the model: "Tesla T4" is one of T4, and "NVIDIA T4G" not."""
    words = [word for word in re.split(r"[\s-]+", name.lower()) if word]
    while words and words[0] in _BRANDS:
        del words[0]
    wanted = model.lower().split()
    return words[: len(wanted)] == wanted


def check_models(gpus: tuple[GpuState, ...], hardware: Hardware, expectation: Expectation) -> str:
    """Model, count and memory, of every GPU."""
    faults = []
    count = expectation.gpu_count or len(hardware.gpus)
    wanted = expectation.gpu_model
    if wanted:
        faults += [
            Diagnosis(f"GPU {gpu.index} is a {gpu.name or 'GPU without a name'}, not a {wanted}")
            for gpu in gpus
            if not gpu.faulty and not is_model(gpu.name, wanted)
        ]
    if len(gpus) != count:
        faults.append(
            Diagnosis(
                f"the driver shows {len(gpus)} GPUs, the machine should have {count}",
                f"on its bus: {', '.join(hardware.gpus)}",
                "`sudo dmesg | grep NVRM` says what became of the others. " + ANOTHER_MACHINE,
            )
        )
    if expected := expectation.gpu_memory_mib:
        faults += [
            Diagnosis(
                f"GPU {gpu.index} has {gpu.memory_mib} MiB of memory, and about {expected} expected"
            )
            for gpu in gpus
            if gpu.memory_mib is None
            or not expected * _LEAST_MEMORY <= gpu.memory_mib <= expected * _MOST_MEMORY
        ]
    if faults:
        raise Failed(*faults)
    kinds = dict.fromkeys(f"{gpu.name}, {gpu.memory_mib} MiB" for gpu in gpus)
    return f"{len(gpus)} × {'; '.join(kinds)}"


def check_health(gpus: tuple[GpuState, ...]) -> str:
    """No error that means a fault; what else is unreadable is named."""
    if faults := [fault for gpu in gpus for fault in _faults(gpu)]:
        raise Failed(*faults)
    unread = sorted({path for gpu in gpus for path in gpu.errors})
    return f"sound; not readable: {', '.join(unread)}" if unread else "sound"


def _faults(gpu: GpuState) -> list[Diagnosis]:
    name = f"GPU {gpu.index} ({gpu.bus_id})"
    faults = []
    if gpu.faulty:
        faults.append(
            Diagnosis(
                f"{name} does not answer",
                f"nvidia-smi reads an error in the place of {', '.join(gpu.errors)}",
                ANOTHER_MACHINE,
            )
        )
    if gpu.uncorrectable:
        faults.append(
            Diagnosis(
                f"{name} has had {gpu.uncorrectable} memory errors that could not be corrected",
                what_to_do=ANOTHER_MACHINE,
            )
        )
    if gpu.remap_failed:
        faults.append(
            Diagnosis(f"{name} has run out of spare memory rows", what_to_do=ANOTHER_MACHINE)
        )
    elif gpu.remap_pending:
        faults.append(
            Diagnosis(
                f"{name} waits to put faulty memory out of use",
                what_to_do="Reboot the machine. " + ANOTHER_MACHINE,
            )
        )
    if gpu.recovery:
        faults.append(
            Diagnosis(
                f"{name} is in a bad state",
                f"the driver asks for this: {gpu.recovery}",
                ANOTHER_MACHINE,
            )
        )
    if gpu.mig:
        faults.append(
            Diagnosis(
                f"{name} is divided (MIG)",
                "a program sees one slice of it at most",
                "`sudo nvidia-smi -mig 0`, and reboot.",
            )
        )
    if gpu.fabric and gpu.fabric not in _FABRIC_UP:
        faults.append(
            Diagnosis(
                f"{name} has not joined the NVSwitch fabric",
                f"its state is {gpu.fabric}; CUDA will say 802, system not ready",
                "`systemctl status nvidia-fabricmanager`: it must run, in the driver's very "
                "version.",
            )
        )
    return faults


def check_driver(report: SmiReport, hardware: Hardware, expectation: Expectation) -> str:
    """New enough for the toolkit, of the recipe's branch, and one version everywhere."""
    module = hardware.module_version or report.driver_version
    faults = []
    if numbers(module) < numbers(expectation.min_driver):
        release = expectation.cuda_release
        toolkit = f"CUDA {release}" if release else "the recipe's CUDA"
        faults.append(
            Diagnosis(
                f"driver {module} is too old for {toolkit}",
                f"it needs {expectation.min_driver} or newer",
                "Choose a newer driver branch in the recipe.",
            )
        )
    branch = expectation.driver_branch
    if branch and numbers(module)[0] != int(branch):
        faults.append(Diagnosis(f"driver {module} is not of branch {branch}"))
    others = {
        **hardware.library_versions,
        "nvidia-smi's driver": report.driver_version,
    }
    faults += [
        Diagnosis(
            f"the loaded module is {module}, {place} is {version}",
            "both must be of one version",
            "Reboot, if the driver was upgraded; else look for a second driver.",
        )
        for place, version in others.items()
        if numbers(version) != numbers(module)
    ]
    if faults:
        raise Failed(*faults)
    libraries = len(hardware.library_versions)
    return f"{module}, module and {libraries} libraries" if libraries else module


def check_kernel_log(log: str) -> str:
    """The driver's own lines in the kernel's log, since the machine was started."""
    if faults := diagnose(log, FAULTS):
        raise Failed(*faults)
    return f"{len(log.splitlines())} lines of the driver, none of a fault"
