"""What nvidia-smi, the kernel and the frameworks say when something is wrong, and what to do.

`KNOWN` is a table of facts. The wordings were read in public reports and in the programs
themselves; a program's own exit status only counts where its words say nothing that we know.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

LONGEST_VERBATIM = 600


@dataclass(frozen=True)
class Diagnosis:
    what: str
    why: str = ""
    what_to_do: str = ""

    def __str__(self) -> str:
        text = f"{self.what}: {self.why}" if self.why else self.what
        return f"{text}. {self.what_to_do}" if self.what_to_do else text


@dataclass(frozen=True)
class Known:
    """`pattern` meets text on one line, without the kernel's time stamps; its named groups go
    into `what` and `why`. `exit_status` is nvidia-smi's (its manual page, RETURN VALUE)."""

    what: str
    why: str
    what_to_do: str
    pattern: str
    exit_status: int | None = None

    @cached_property
    def _compiled(self) -> re.Pattern[str]:
        return re.compile(self.pattern, re.IGNORECASE)

    def found_in(self, text: str) -> Diagnosis | None:
        match = self._compiled.search(text)
        return self._with(match.groupdict()) if match else None

    def for_status(self) -> Diagnosis:
        return self._with(dict.fromkeys(self._compiled.groupindex))

    def _with(self, groups: dict[str, str | None]) -> Diagnosis:
        found = {name: value or "unknown" for name, value in groups.items()}
        return Diagnosis(self.what.format_map(found), self.why.format_map(found), self.what_to_do)


ANOTHER_MACHINE = "Start again: that gives another machine; tell AWS when it happens again."
READ_THE_LOG = "`sudo dmesg | grep NVRM` on the machine says which."

NVIDIA_SMI = (
    Known(
        "nvidia-smi is not there",
        "the driver's tools are not installed, or not on the PATH of `ssh host command`",
        "See the log of the stage drivers.",
        r"nvidia-smi: (command )?not found|No such file or directory: '?nvidia-smi",
        exit_status=127,
    ),
    Known(
        "no driver is loaded",
        "the kernel module was not built for the running kernel, is kept out by nouveau or Secure "
        "Boot, or knows none of this machine's GPUs",
        "`dkms status`, `sudo modprobe nvidia` and `sudo dmesg | grep NVRM` on the machine say "
        "which; then choose a driver branch that builds on this kernel and knows this GPU.",
        r"couldn't communicate with the NVIDIA driver|NVML: Driver Not Loaded",
        exit_status=9,
    ),
    Known(
        "the library libnvidia-ml is not there",
        "nvidia-smi is installed, the driver's libraries are not, or the loader does not find them",
        "Install the driver's libraries in the version of its module, and run ldconfig.",
        r"couldn't find libnvidia-ml|NVML: (Shared )?Library Not Found",
        exit_status=12,
    ),
    Known(
        "a GPU has fallen off the bus ({gpu})",
        "the driver cannot reach it any more: a hardware fault, or it was reset under the driver",
        "Reboot the machine. " + ANOTHER_MACHINE,
        r"(?:handle for GPU ?(?P<gpu>[\w:.]+): )?GPU is lost",
        exit_status=15,
    ),
    Known(
        "the driver has found no GPU that it can use",
        "it is loaded, and every GPU here is unknown to it or could not be initialised",
        READ_THE_LOG,
        r"No devices were found",
        exit_status=6,
    ),
    Known(
        "the driver's module and its libraries are of different versions (library: {library})",
        "the libraries were upgraded, by unattended-upgrades say, while the older module stays "
        "loaded until the next boot",
        "Reboot, and hold the driver's packages (`apt-mark hold`), as the stage drivers does.",
        r"Driver/library version mismatch(?:\s+NVML library version: (?P<library>[\d.]+))?",
        exit_status=18,  # NVML's own number for it; the manual page does not list it
    ),
    Known(
        "the GPU cannot be reached from inside this container",
        "its access to the device files was taken away: systemd's `daemon-reload` does that to "
        "containers that were started with cgroup devices alone",
        "Start the container again, with the device files named (--device /dev/nvidia0 …).",
        r"initialize NVML: Unknown Error",
    ),
    Known(
        "a GPU does not answer ({gpu})",
        "the driver sees it on the bus and cannot open it",
        READ_THE_LOG + " " + ANOTHER_MACHINE,
        r"Unable to determine the device handle for GPU ?(?P<gpu>[\w:. ]*?[\w]): "
        r"(Unknown Error|Not Found|Not Supported)",
    ),
    Known(
        "the login user may not use the GPU",
        "the device files /dev/nvidia* are not open to this user",
        "Look at the owner and mode of /dev/nvidia*; the driver's own udev rules open them to all.",
        r"Insufficient Permissions",
        exit_status=4,
    ),
    Known(
        "the GPU is kept from this system",
        "a hypervisor, or Windows around a WSL, holds it",
        "Choose a machine that has the GPU for itself.",
        r"GPU access blocked by the operating system",
    ),
    Known(
        "a GPU needs a reset",
        "the driver says so after an error that it cannot recover from",
        "Reboot the machine. " + ANOTHER_MACHINE,
        r"GPU requires reset",
    ),
    Known(
        "a GPU's power cables are not attached as they should be",
        "nvidia-smi says so",
        ANOTHER_MACHINE,
        r"external power cables",
        exit_status=8,
    ),
    Known(
        "the kernel finds a GPU's interrupts wanting",
        "nvidia-smi says so",
        READ_THE_LOG + " " + ANOTHER_MACHINE,
        r"interrupt issue",
        exit_status=10,
    ),
    Known(
        "nvidia-smi is newer than the driver's library",
        "the library does not have a function that it asks for",
        "Install nvidia-smi and libnvidia-ml in the same version.",
        r"NVML: Function Not Found|doesn't implement this function",
        exit_status=13,
    ),
    Known(
        "a GPU's infoROM is corrupted",
        "what the board keeps about itself is damaged",
        ANOTHER_MACHINE,
        r"infoROM is corrupted",
        exit_status=14,
    ),
)

# Why the driver does not take a GPU.
REFUSALS = (
    Known(
        "driver {driver} has dropped this GPU",
        "branch {branch} is the last that knows it",
        "Choose that driver branch, or a newer GPU.",
        r"supported through the NVIDIA (?P<branch>\d+)\.\w+ Legacy drivers.*?"
        r"The (?P<driver>[\d.]+) NVIDIA driver will ignore this GPU",
    ),
    Known(
        "driver {driver} does not know this GPU (PCI id {id})",
        "the GPU is newer than the driver, or its branch has dropped it",
        "Choose a driver branch that lists the GPU.",
        r"\(PCI ID: (?P<id>[\da-f:]+)\) installed in this system is not supported by the "
        r"(?:NVIDIA )?(?P<driver>[\d.]+) (?:NVIDIA Linux )?driver release",
    ),
    Known(
        "the open kernel modules do not know this GPU (PCI id {id})",
        "they need a GPU with a system processor: Turing and newer",
        'Set driver.modules = "proprietary" in the recipe.',
        r"\(PCI ID: (?P<id>[\da-f:]+)\) installed in this system is not supported by "
        r"open nvidia\.ko",
    ),
    Known(
        "this GPU needs the open kernel modules (PCI id {id})",
        "the proprietary ones do not drive Blackwell and newer",
        'Set driver.modules = "open" in the recipe.',
        r"\(PCI ID: (?P<id>[\da-f:]+)\) installed in this system requires use of the "
        r"NVIDIA open kernel modules",
    ),
    Known(
        "the driver's libraries are {client}, its loaded module is {module}",
        "one of them was changed without a reboot",
        "Reboot, and hold the driver's packages.",
        r"API mismatch: (?:the )?client (?:has the )?version (?P<client>[\d.]+).*?"
        r"kernel module (?:has the )?version (?P<module>[\d.]+)",
    ),
    Known(
        "another driver holds the GPU",
        "nouveau as a rule, when it was loaded first",
        "Blacklist nouveau in /etc/modprobe.d and in the initramfs, as the stage drivers does.",
        r"The NVIDIA probe routine was not called for \d+ device",
    ),
    Known(
        "Secure Boot keeps the kernel module out",
        "the module is not signed with a key that this machine trusts",
        "Use the distribution's signed modules (linux-modules-nvidia-*), or an image without it.",
        r"unsigned module loading is restricted"
        r"|Loading of (unsigned module|module with unavailable key) is rejected",
    ),
    Known(
        "the kernel module was built for another kernel",
        "the kernel refuses it",
        "`dkms status` on the machine; the headers must be those of the running kernel.",
        r"nvidia: (version magic|disagrees about version of symbol)",
    ),
)

# What no sound GPU brings about, even if it answers again afterwards.
FAULTS = (
    Known(
        "a GPU has fallen off the bus ({gpu})",
        "Xid 79: the driver cannot reach it any more",
        ANOTHER_MACHINE,
        r"Xid \(PCI:(?P<gpu>[\da-f:.]+)\): 79\b",
    ),
    Known(
        "a GPU's system processor does not answer ({gpu})",
        "Xid {xid}: the firmware has crashed or hangs",
        ANOTHER_MACHINE,
        r"Xid \(PCI:(?P<gpu>[\da-f:.]+)\): (?P<xid>119|120)\b",
    ),
    Known(
        "a GPU's memory is faulty ({gpu})",
        "Xid {xid}: an error that cannot be corrected, or a spare row that could not be used",
        ANOTHER_MACHINE,
        r"Xid \(PCI:(?P<gpu>[\da-f:.]+)\): (?P<xid>48|64|95)\b",
    ),
    Known(
        "a GPU could not be initialised ({gpu})",
        "RmInitAdapter failed: faulty hardware, firmware of another driver version, or a GPU that "
        "another machine or driver still holds",
        ANOTHER_MACHINE,
        r"GPU (?P<gpu>[\da-f:.]+): RmInitAdapter failed",
    ),
)

FRAMEWORK = (
    Known(
        "{library} is not found",
        "it belongs to the driver, whose libraries are not installed",
        "See the log of the stage drivers.",
        r"(?P<library>libcuda\.so[\w.]*): cannot open shared object file",
    ),
    Known(
        "{library} is not found",
        "it belongs to the CUDA toolkit: that of another release is installed, or the loader does "
        "not know where",
        "`ldconfig -p` must list it; see the log of the stage cuda.",
        r"(?P<library>lib(?:cudart|cublas\w*|cufft|curand|cusolver|cusparse|nvrtc|nvToolsExt)"
        r"\.so[\w.]*): cannot open shared object file",
    ),
    Known(
        "{library} is not found",
        "this build of the framework has it not inside: it comes as a wheel of its own",
        "See the log of the framework's stage.",
        r"(?P<library>lib(?:cudnn\w*|nccl)\.so[\w.]*): cannot open shared object file",
    ),
    Known(
        "{library} is not found",
        "cuDNN loads its parts when they are first used, and this one is missing or not of its "
        "version",
        "Install all of cuDNN in one version.",
        r"Could not load library (?P<library>libcudnn[\w.]+)",
    ),
    Known(
        "{library} is not found",
        "it belongs to the operating system",
        "Add its package to packages.apt in the recipe.",
        r"(?P<library>lib(?!cu|nccl|nvrtc|nvToolsExt)[\w+-]+\.so[\w.]*): "
        r"cannot open shared object file",
    ),
    Known(
        "numpy is too new for this framework",
        "1.24 took np.bool away, which MXNet 1.x uses",
        "The framework's constraints hold numpy at 1.23.5 or older: what was installed past them?",
        r"module 'numpy' has no attribute '(bool|float|int|object)'",
    ),
    Known(
        "numpy is too new for this framework",
        "it was built for numpy 1",
        "Pin numpy below 2.",
        r"compiled using NumPy 1\.x cannot be run in",
    ),
    Known(
        "CUDA says 802, system not ready",
        "this machine's GPUs are joined by NVSwitches, and Fabric Manager does not run, or is of "
        "another version than the driver",
        "`systemctl status nvidia-fabricmanager`: it must be of the driver's very version.",
        r"system not yet initialized|SystemNotReady|\berror 802\b",
    ),
    Known(
        "CUDA says 803, the driver's module and its libcuda do not go together",
        "another libcuda is found first, one of a compatibility package say",
        "`ldconfig -p | grep libcuda.so` must list the driver's own.",
        r"unsupported display driver / cuda driver combination|SystemDriverMismatch",
    ),
    Known(
        "CUDA says 804, this GPU has no forward compatibility",
        "a compatibility package's libcuda is found before the driver's own",
        "Remove cuda-compat-*, or install a newer driver.",
        r"forward compatibility was attempted on non supported HW|CompatNotSupportedOnDevice",
    ),
    Known(
        "the driver is too old for this CUDA",
        "the framework's CUDA runtime asks for a newer one",
        "Choose a newer driver branch, or an older CUDA.",
        r"CUDA driver version is insufficient|NVIDIA driver on your system is too old",
    ),
    Known(
        "the framework has no code for this GPU",
        "its wheel was compiled for GPUs of other compute capabilities",
        "Choose a build for this GPU, or another machine.",
        r"no kernel image is available for execution|is not compatible with the current PyTorch",
    ),
    Known(
        "the framework sees no GPU",
        "CUDA finds none: no driver, CUDA_VISIBLE_DEVICES hides it, or MIG is on without a slice",
        "Compare with nvidia-smi.",
        r"no CUDA-capable device is detected|No CUDA GPUs are available",
    ),
    Known(
        "the framework is a build without CUDA",
        "the CPU's wheel was installed in the place of the GPU's",
        "See the log of the framework's stage.",
        r"not compiled with CUDA|USE_CUDA=1|is not implemented for GPU",
    ),
    Known(
        "a GPU is busy or in exclusive mode",
        "another process holds it",
        "`nvidia-smi -q -d COMPUTE,PIDS` says which.",
        r"devices are busy or unavailable",
    ),
    Known(
        "a GPU's memory is faulty",
        "an error that cannot be corrected (CUDA 214)",
        ANOTHER_MACHINE,
        r"uncorrectable ECC error",
    ),
    Known(
        "CUDA says 999, unknown error",
        "the module nvidia_uvm is not loaded, as a rule",
        "`sudo modprobe nvidia_uvm` on the machine.",
        r"CUDA unknown error|cudaErrorUnknown",
    ),
    Known(
        "a GPU's memory is full",
        "another process holds it, or the GPU is smaller than it should be",
        "`nvidia-smi` on the machine lists the processes.",
        r"out of memory",
    ),
)

KERNEL_LOG = (*REFUSALS, *FAULTS)
KNOWN = (*NVIDIA_SMI, *KERNEL_LOG, *FRAMEWORK)


def one_line(text: str) -> str:
    """Text as the patterns want it: no line ends, no time stamps and prefixes of the kernel."""
    lines = (re.sub(r"^\s*(\[[^\]]*\])?\s*(NVRM:)?\s*", "", line) for line in text.splitlines())
    return " ".join(" ".join(lines).split())


def diagnose(text: str, known: Iterable[Known] = KNOWN) -> tuple[Diagnosis, ...]:
    """Every known failure that the text speaks of, each once."""
    line = one_line(text)
    found = (entry.found_in(line) for entry in known)
    return tuple(dict.fromkeys(diagnosis for diagnosis in found if diagnosis))


def diagnose_failure(
    program: str, text: str, exit_status: int, *, kernel_log: str = ""
) -> tuple[Diagnosis, ...]:
    """Why a program failed; never empty. What is not known is shown as the program said it."""
    found = diagnose(text)
    if not found and program == "nvidia-smi":
        found = tuple(k.for_status() for k in NVIDIA_SMI if k.exit_status == exit_status)
    if not found:
        found = (unknown(program, text, exit_status),)
    return (*found, *diagnose(kernel_log, KERNEL_LOG))


def unknown(program: str, text: str, exit_status: int) -> Diagnosis:
    said = verbatim(text)
    ended = f"{program} ended with status {exit_status}"
    if exit_status < 0 or exit_status > 128:
        ended = f"{program} was ended by signal {abs(exit_status) % 128}"
    return Diagnosis(ended, f"it said: {said}" if said else "it said nothing")


def verbatim(text: str) -> str:
    """What a program said, on one line, the end of it when it is long."""
    said = " ".join(text.split())
    return said if len(said) <= LONGEST_VERBATIM else "… " + said[-LONGEST_VERBATIM:]
