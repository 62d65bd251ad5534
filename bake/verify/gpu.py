"""The checks that the GPUs and their driver are the expected ones, and healthy."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from bake.catalog import numbers
from bake.verify.check import Failed, Skipped
from bake.verify.diagnosis import diagnose
from bake.verify.expectation import Expectation
from bake.verify.hardware import Hardware
from bake.verify.kernel_log import FAULTS
from bake.verify.known import ANOTHER_MACHINE, READ_THE_LOG, REBOOT, Diagnosis
from bake.verify.nvidia_smi import GpuState, SmiReport

# nvidia-smi prints less than EC2's figure, because ECC and the firmware reserve memory (Tesla K80:
# 11441 of 12288 MiB), or more if EC2 counts in GB (A10G: 23028 of 22888). A slice of a GPU is
# outside of these limits.
_LEAST_MEMORY, _MOST_MEMORY = 0.85, 1.10

# The elements by which nvidia-smi reports that a GPU needs something, if they are "Yes". Found in
# documents of drivers 418 to 595 and in NVIDIA's "GPU Memory Error Management". From 575 on,
# gpu_recovery_action replaces the first two.
_NEEDS: Mapping[str, tuple[str, str]] = {
    "reset_required": ("must be reset", REBOOT),
    "drain_and_reset_recommended": ("should be reset as soon as no program uses it", REBOOT),
    "remapped_row_failure": ("has run out of spare memory rows", ANOTHER_MACHINE),
    "remapped_row_pending": ("must be reset to take faulty memory out of use", REBOOT),
    "pending_retirement": ("must be reset to take faulty memory out of use", REBOOT),
    "pending_blacklist": ("must be reset to take faulty memory out of use", REBOOT),
    "sram_threshold_exceeded": ("has had too many memory errors on its chip", ANOTHER_MACHINE),
    "channel_repair_pending": ("must be reset to repair a memory channel", REBOOT),
    "tpc_repair_pending": ("must be reset to repair a group of its processors", REBOOT),
    "unrepairable_memory": ("has memory that cannot be repaired", ANOTHER_MACHINE),
}

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
            if not (gpu.faulty or gpu.mig)  # their memory cannot be read: see check_health
            and (
                gpu.memory_mib is None
                or not expected * _LEAST_MEMORY <= gpu.memory_mib <= expected * _MOST_MEMORY
            )
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


def check_persistence(gpus: tuple[GpuState, ...]) -> str:
    """Check that persistence mode is on: else each process waits until the GPUs are initialized."""
    if off := [str(gpu.index) for gpu in gpus if gpu.persistence is False]:
        raise Failed(
            Diagnosis(
                f"persistence mode is off on GPU {', '.join(off)}",
                "the persistence daemon does not run, or has not switched it on",
                "Run `systemctl status nvidia-persistenced` on the machine.",
            )
        )
    if all(gpu.persistence is None for gpu in gpus):
        raise Skipped("nvidia-smi does not report the persistence mode")
    return "on"


def _faults(gpu: GpuState) -> list[Diagnosis]:
    """Return every fault that one GPU reports: of its hardware, then of its settings."""
    name = f"GPU {gpu.index} ({gpu.bus_id})"
    return [*_hardware_faults(gpu, name), *_setting_faults(gpu, name)]


def _hardware_faults(gpu: GpuState, name: str) -> Iterator[Diagnosis]:
    if gpu.faulty:
        yield Diagnosis(
            f"{name} does not respond",
            f"nvidia-smi could not read {', '.join(gpu.errors)} "
            f"({', '.join(dict.fromkeys(gpu.errors.values()))})",
            ANOTHER_MACHINE,
        )
    if gpu.uncorrectable:
        yield Diagnosis(
            f"{name} has had {gpu.uncorrectable} memory errors that could not be corrected",
            what_to_do=ANOTHER_MACHINE,
        )
    for flag, (need, what_to_do) in _NEEDS.items():
        if flag in gpu.flags:
            yield Diagnosis(f"{name} {need}", f"nvidia-smi reports {flag}: Yes", what_to_do)
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
    if gpu.fabric_problems:
        yield Diagnosis(
            f"{name} has a problem with the NVSwitch fabric",
            f"nvidia-smi reports {', '.join(gpu.fabric_problems)}",
            ANOTHER_MACHINE,
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
    least = expectation.min_driver
    if least and numbers(module) < numbers(least):
        release = expectation.cuda_release
        toolkit = f"CUDA {release}" if release else "the recipe's CUDA"
        faults.append(
            Diagnosis(
                f"driver {module} is too old for {toolkit}",
                f"it needs {least} or newer",
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
