"""Known failures of nvidia-smi, the kernel and the frameworks: their causes and remedies.

`KNOWN` is a table of facts. The wordings come from public reports and from the programs
themselves. A program's exit status is used only if its output matches no entry.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from bake.verify.kernel_log import KERNEL_LOG
from bake.verify.known import (
    ANOTHER_MACHINE,
    CUDA_LOG,
    DRIVERS_LOG,
    FRAMEWORK_LOG,
    READ_THE_LOG,
    REBOOT,
    Diagnosis,
    Known,
)

LONGEST_VERBATIM = 600

# `[   12.3] NVRM: `, or `[   12.3][  T456] NVRM: ` of a kernel that also prints the thread.
_PREFIX = re.compile(r"^\s*(\[[^\]]*\]\s*)*(NVRM:)?\s*")

NVIDIA_SMI = (
    Known(
        "nvidia-smi was not found",
        "the driver's tools are not installed, or not on the PATH of `ssh HOST COMMAND`",
        DRIVERS_LOG,
        r"nvidia-smi: (command )?not found|No such file or directory: '?nvidia-smi",
        exit_status=127,
    ),
    Known(
        "the NVIDIA driver is not loaded",
        "its kernel module was not built for the running kernel, or nouveau or Secure Boot keeps "
        "it from loading, or it supports none of this machine's GPUs",
        "To find out which, run `dkms status`, `sudo modprobe nvidia` and "
        "`sudo dmesg | grep NVRM` on the machine. Then choose a driver branch that builds on this "
        "kernel and supports this GPU.",
        r"couldn't communicate with the NVIDIA driver|NVML: Driver Not Loaded",
        exit_status=9,
    ),
    Known(
        "the library libnvidia-ml was not found",
        "nvidia-smi is installed, but the driver's libraries are not, or the loader does not find "
        "them",
        "Install the driver's libraries in the same version as its kernel module, and run "
        "`sudo ldconfig`.",
        r"couldn't find libnvidia-ml|NVML: (Shared )?Library Not Found",
        exit_status=12,
    ),
    Known(
        "a GPU has fallen off the bus ({gpu})",
        "the driver can no longer reach it: the hardware is faulty, or the GPU was reset while the "
        "driver was using it",
        REBOOT,
        r"(?:handle for GPU ?(?P<gpu>[\w:.]+): )?GPU is lost",
        exit_status=15,
    ),
    Known(
        "the driver found no GPU that it can use",
        "it is loaded, but it does not support this machine's GPUs or could not initialise them",
        READ_THE_LOG,
        r"No devices were found",
        exit_status=6,
    ),
    Known(
        "the driver's kernel module and its libraries have different versions (library: {library})",
        "the libraries were upgraded, for example by unattended-upgrades, and the old module "
        "stays loaded until the next boot",
        "Reboot the machine, and hold the driver's packages with `sudo apt-mark hold`, as the "
        "stage drivers does.",
        r"Driver/library version mismatch(?:\s+NVML library version: (?P<library>[\d.]+))?",
        exit_status=18,  # NVML's own number for it; the manual page does not list it
    ),
    Known(
        "the GPU cannot be reached from inside this container",
        "the container lost access to the device files: systemd's `daemon-reload` takes it away "
        "from containers that were started with cgroup devices only",
        "Restart the container, and name each device file: `--device /dev/nvidia0` and so on.",
        r"initialize NVML: Unknown Error",
    ),
    Known(
        "a GPU does not respond ({gpu})",
        "the driver finds it on the bus but cannot open it",
        READ_THE_LOG + " " + ANOTHER_MACHINE,
        r"Unable to determine the device handle for GPU ?(?P<gpu>[\w:. ]*?[\w]): "
        r"(Unknown Error|Not Found|Not Supported)",
    ),
    Known(
        "the login user has no permission to use the GPU",
        "this user cannot open the device files /dev/nvidia*",
        "Run `ls -l /dev/nvidia*` on the machine. The driver's own udev rules let every user open "
        "them: find out what changed their owner or mode.",
        r"Insufficient Permissions",
        exit_status=4,
    ),
    Known(
        "the operating system has no access to the GPU",
        "a hypervisor, or the Windows that runs this WSL, blocks it",
        "Choose a machine that has the GPU for itself.",
        r"GPU access blocked by the operating system",
    ),
    Known(
        "a GPU must be reset",
        "the driver reports an error from which it cannot recover",
        REBOOT,
        r"GPU requires reset",
    ),
    Known(
        "a GPU's power cables are not attached correctly",
        "nvidia-smi reports this about the hardware",
        ANOTHER_MACHINE,
        r"external power cables",
        exit_status=8,
    ),
    Known(
        "the kernel found a problem with the interrupts of a GPU",
        "nvidia-smi reports this",
        READ_THE_LOG + " " + ANOTHER_MACHINE,
        r"interrupt issue",
        exit_status=10,
    ),
    Known(
        "nvidia-smi is newer than the driver's library",
        "it calls a function that the library libnvidia-ml does not have",
        "Install nvidia-smi and libnvidia-ml in the same version.",
        r"NVML: Function Not Found|doesn't implement this function",
        exit_status=13,
    ),
    Known(
        "a GPU's infoROM is corrupted",
        "the data that the board stores about itself is damaged",
        ANOTHER_MACHINE,
        r"infoROM is corrupted",
        exit_status=14,
    ),
)

FRAMEWORK = (
    Known(
        "{library} was not found",
        "it belongs to the driver, whose libraries are not installed",
        DRIVERS_LOG,
        r"(?P<library>libcuda\.so[\w.]*): cannot open shared object file",
    ),
    Known(
        "{library} was not found",
        "it belongs to the CUDA toolkit: another release is installed, or the loader does not "
        "search its folder",
        "`ldconfig -p` must list it. " + CUDA_LOG,
        r"(?P<library>lib(?:cudart|cublas\w*|cufft|curand|cusolver|cusparse|nvrtc|nvToolsExt)"
        r"\.so[\w.]*): cannot open shared object file",
    ),
    Known(
        "{library} was not found",
        "this build of the framework does not contain it: it is installed from a wheel of its own",
        FRAMEWORK_LOG,
        r"(?P<library>lib(?:cudnn\w*|nccl)\.so[\w.]*): cannot open shared object file",
    ),
    Known(
        "{library} was not found",
        "cuDNN loads its parts when they are first used, and this part is missing or has another "
        "version",
        "Install all parts of cuDNN in one version.",
        r"Could not load library (?P<library>libcudnn[\w.]+)",
    ),
    Known(
        "{library} was not found",
        "it belongs to the operating system",
        "Add the package that contains it to packages.apt in the recipe.",
        r"(?P<library>lib(?!cu|nccl|nvrtc|nvToolsExt)[\w+-]+\.so[\w.]*): "
        r"cannot open shared object file",
    ),
    Known(
        "numpy is too new for this framework",
        "numpy 1.24 removed np.bool, which MXNet 1.x uses",
        "The framework's constraints keep numpy at 1.23.5 or older. Find out which package or "
        "stage installed a newer one without them.",
        r"module 'numpy' has no attribute '(bool|float|int|object)'",
    ),
    Known(
        "numpy is too new for this framework",
        "the framework was built for numpy 1",
        'Add "numpy<2" to packages.pip in the recipe.',
        r"compiled using NumPy 1\.x cannot be run in",
    ),
    Known(
        "CUDA reports error 802, system not ready",
        "NVSwitches connect this machine's GPUs, and Fabric Manager does not run or has another "
        "version than the driver",
        "Run `systemctl status nvidia-fabricmanager` on the machine. It must run, in exactly the "
        "driver's version.",
        r"system not yet initialized|SystemNotReady|\berror 802\b",
    ),
    Known(
        "CUDA reports error 803: the driver's kernel module and libcuda do not match",
        "the loader finds another libcuda first, for example of a compatibility package",
        "`ldconfig -p | grep libcuda.so` on the machine must list only the driver's own.",
        r"unsupported display driver / cuda driver combination|SystemDriverMismatch",
    ),
    Known(
        "CUDA reports error 804: this GPU does not support forward compatibility",
        "the loader finds the libcuda of a compatibility package before the driver's own",
        "Remove the packages cuda-compat-*, or install a newer driver.",
        r"forward compatibility was attempted on non supported HW|CompatNotSupportedOnDevice",
    ),
    Known(
        "the driver is too old for this CUDA",
        "the CUDA runtime of the framework needs a newer driver",
        "Choose a newer driver branch or an older CUDA in the recipe.",
        r"CUDA driver version is insufficient|NVIDIA driver on your system is too old",
    ),
    Known(
        "the framework contains no code for this GPU",
        "its wheel was compiled for GPUs of other compute capabilities",
        "Choose a version of the framework that supports this GPU, or another instance type.",
        r"no kernel image is available for execution|is not compatible with the current PyTorch",
    ),
    Known(
        "the framework finds no GPU",
        "CUDA finds none: the driver is missing, CUDA_VISIBLE_DEVICES hides the GPU, or MIG is "
        "enabled and no slice was created",
        "Run `nvidia-smi` on the machine and compare.",
        r"no CUDA-capable device is detected|No CUDA GPUs are available",
    ),
    Known(
        "the framework was built without CUDA",
        "the wheel for the CPU was installed instead of the wheel for the GPU",
        FRAMEWORK_LOG,
        r"not compiled with CUDA|USE_CUDA=1|is not implemented for GPU",
    ),
    Known(
        "a GPU is busy or in exclusive mode",
        "another process uses it",
        "`nvidia-smi -q -d COMPUTE,PIDS` on the machine shows which one.",
        r"devices are busy or unavailable",
    ),
    Known(
        "a GPU's memory is faulty",
        "an error could not be corrected (CUDA error 214)",
        ANOTHER_MACHINE,
        r"uncorrectable ECC error",
    ),
    Known(
        "CUDA reports error 999, unknown error",
        "usually the kernel module nvidia_uvm is not loaded",
        "Run `sudo modprobe nvidia_uvm` on the machine.",
        r"CUDA unknown error|cudaErrorUnknown",
    ),
    Known(
        "a GPU's memory is full",
        "another process uses it, or the GPU has less memory than expected",
        "`nvidia-smi` on the machine lists the processes.",
        r"out of memory",
    ),
)

KNOWN = (*NVIDIA_SMI, *KERNEL_LOG, *FRAMEWORK)


def one_line(text: str) -> str:
    """Return the text on one line, without the time stamps and prefixes of the kernel."""
    lines = (_PREFIX.sub("", line) for line in text.splitlines())
    return " ".join(" ".join(lines).split())


def diagnose(text: str, known: Iterable[Known] = KNOWN) -> tuple[Diagnosis, ...]:
    """Return each known failure that the text shows, once."""
    line = one_line(text)
    return tuple(dict.fromkeys(found for entry in known for found in entry.find_all(line)))


def diagnose_failure(
    program: str, text: str, exit_status: int, *, kernel_log: str = ""
) -> tuple[Diagnosis, ...]:
    """Return why a program failed: at least one diagnosis.

    `text` is the program's output. If it shows no known failure, the diagnosis quotes it.
    """
    diagnoses = diagnose(text)
    if not diagnoses and program == "nvidia-smi":
        diagnoses = tuple(
            known.from_exit_status() for known in NVIDIA_SMI if known.exit_status == exit_status
        )
    if not diagnoses:
        diagnoses = (unknown(program, text, exit_status),)
    return (*diagnoses, *diagnose(kernel_log, KERNEL_LOG))


def unknown(program: str, text: str, exit_status: int) -> Diagnosis:
    """Return the diagnosis of a failure that is not in the table: exit status and output."""
    output = verbatim(text)
    ended = f"{program} ended with status {exit_status}"
    if exit_status < 0 or exit_status > 128:
        ended = f"{program} was ended by signal {abs(exit_status) % 128}"
    return Diagnosis(ended, f"it printed: {output}" if output else "it printed nothing")


def verbatim(text: str) -> str:
    """Return a program's output on one line; of a long one, only the end."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_VERBATIM else "… " + line[-LONGEST_VERBATIM:]
