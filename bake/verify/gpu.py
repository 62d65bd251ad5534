"""The checks that the GPUs and their driver are the expected ones, and healthy."""

from __future__ import annotations

import re
from collections.abc import Iterator

from bake.catalog import numbers
from bake.verify.check import Failed
from bake.verify.diagnosis import ANOTHER_MACHINE, FAULTS, READ_THE_LOG, REBOOT, Diagnosis, diagnose
from bake.verify.expectation import Expectation
from bake.verify.hardware import Hardware
from bake.verify.nvidia_smi import GpuState, SmiReport

# nvidia-smi prints less than EC2's figure, because ECC and the firmware reserve memory (Tesla K80:
# 11441 of 12288 MiB), or more if EC2 counts in GB (A10G: 23028 of 22888). A slice of a GPU is
# outside of these limits.
_LEAST_MEMORY, _MOST_MEMORY = 0.85, 1.10

_BRANDS = {"nvidia", "tesla", "grid", "quadro"}
_FABRIC_UP = {"Completed", "Completed Success"}


def is_model(name: str, model: str) -> bool:
    """Return True if nvidia-smi's name is this model's: "Tesla T4" is a T4, "NVIDIA T4G" is not."""
    words = [word for word in re.split(r"[\s-]+", name.lower()) if word]
    while words and words[0] in _BRANDS:
        del words[0]
    wanted = model.lower().split()
    return words[: len(wanted)] == wanted


def check_models(gpus: tuple[GpuState, ...], hardware: Hardware, expectation: Expectation) -> str:
    """Check model, number and memory of the GPUs, and describe them. Failed names every fault."""
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
                f"the driver found {len(gpus)} GPUs, but this instance type has {count}",
                f"on the PCI bus: {', '.join(hardware.gpus)}",
                f"{READ_THE_LOG} {ANOTHER_MACHINE}",
            )
        )
    if expected := expectation.gpu_memory_mib:
        faults += [
            Diagnosis(
                f"GPU {gpu.index} has {gpu.memory_mib} MiB of memory, not about {expected} MiB"
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
    """Check that no GPU reports a fault, and name the elements that cannot be read."""
    if faults := [fault for gpu in gpus for fault in _faults(gpu)]:
        raise Failed(*faults)
    unread = sorted({path for gpu in gpus for path in gpu.errors})
    return f"healthy; not readable: {', '.join(unread)}" if unread else "healthy"


def _faults(gpu: GpuState) -> list[Diagnosis]:
    """Return every fault that one GPU reports: of its hardware, then of its settings."""
    name = f"GPU {gpu.index} ({gpu.bus_id})"
    return [*_hardware_faults(gpu, name), *_setting_faults(gpu, name)]


def _hardware_faults(gpu: GpuState, name: str) -> Iterator[Diagnosis]:
    if gpu.faulty:
        yield Diagnosis(
            f"{name} does not respond",
            f"nvidia-smi could not read {', '.join(gpu.errors)}",
            ANOTHER_MACHINE,
        )
    if gpu.uncorrectable:
        yield Diagnosis(
            f"{name} has had {gpu.uncorrectable} memory errors that could not be corrected",
            what_to_do=ANOTHER_MACHINE,
        )
    if gpu.remap_failed:
        yield Diagnosis(f"{name} has run out of spare memory rows", what_to_do=ANOTHER_MACHINE)
    elif gpu.remap_pending:
        yield Diagnosis(f"{name} must be reset to take faulty memory out of use", what_to_do=REBOOT)
    if gpu.recovery:
        yield Diagnosis(
            f"{name} must be recovered",
            f"the driver requests this action: {gpu.recovery}",
            ANOTHER_MACHINE,
        )


def _setting_faults(gpu: GpuState, name: str) -> Iterator[Diagnosis]:
    if gpu.mig:
        yield Diagnosis(
            f"{name} is divided (MIG)",
            "a program can use only one slice of it",
            "Run `sudo nvidia-smi -mig 0` on the machine, and reboot it.",
        )
    if gpu.fabric and gpu.fabric not in _FABRIC_UP:
        yield Diagnosis(
            f"{name} has not joined the NVSwitch fabric",
            f"its state is {gpu.fabric}; CUDA will report error 802, system not ready",
            "Run `systemctl status nvidia-fabricmanager` on the machine. It must run, in exactly "
            "the driver's version.",
        )


def check_driver(report: SmiReport, hardware: Hardware, expectation: Expectation) -> str:
    """Check the driver's version, and return it.

    It must be new enough for the CUDA toolkit, belong to the recipe's branch, and be the same in
    the kernel module, the libraries and nvidia-smi. Failed names every fault.
    """
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
        faults.append(Diagnosis(f"driver {module} does not belong to branch {branch}"))
    others = {
        **hardware.library_versions,
        "the driver that nvidia-smi reports": report.driver_version,
    }
    faults += [
        Diagnosis(
            f"the loaded kernel module is {module}, but {place} is {version}",
            "both must have the same version",
            "Reboot the machine if the driver was upgraded. Otherwise find the second driver: "
            "`dpkg --list '*nvidia*'` lists the packages.",
        )
        for place, version in others.items()
        if numbers(version) != numbers(module)
    ]
    if faults:
        raise Failed(*faults)
    libraries = len(hardware.library_versions)
    return f"{module}, module and {libraries} libraries" if libraries else module


def check_kernel_log(log: str) -> str:
    """Check the driver's lines in the kernel's log, since the machine was started, for faults."""
    if faults := diagnose(log, FAULTS):
        raise Failed(*faults)
    return f"{len(log.splitlines())} lines of the driver, none reports a fault"
