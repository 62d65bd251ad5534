"""A known failure is explained, with what to do; an unknown one is quoted."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bake.verify.diagnosis import KNOWN, NVIDIA_SMI, diagnose, diagnose_failure
from bake.verify.kernel_log import FAULTS
from bake.verify.known import Known

# The wordings are those of the programs; the values are invented.
NVIDIA_SMI_PRINTS = {
    "the NVIDIA driver is not loaded": (
        9,
        "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure "
        "that the latest NVIDIA driver is installed and running.\n\n",
    ),
    "libnvidia-ml was not found": (
        12,
        "NVIDIA-SMI couldn't find libnvidia-ml.so library in your system. Please make sure that "
        "the NVIDIA Display Driver is properly installed and present in your system.\n",
    ),
    r"has fallen off the bus \(0000:0A:00.0\)": (
        15,
        "Unable to determine the device handle for GPU0000:0A:00.0: GPU is lost.  Reboot the "
        "system to recover this GPU\n",
    ),
    "found no GPU that it can use": (6, "No devices were found\n"),
    r"different versions \(library: unknown\)": (
        18,
        "Failed to initialize NVML: Driver/library version mismatch\n",
    ),
    r"different versions \(library: 555.12\)": (
        18,
        "Failed to initialize NVML: Driver/library version mismatch\n"
        "NVML library version: 555.12\n",
    ),
    "from inside this container": (255, "Failed to initialize NVML: Unknown Error\n"),
    r"a GPU does not respond \(0000:0B:00.0\)": (
        255,
        "Unable to determine the device handle for GPU0000:0B:00.0: Unknown Error\n",
    ),
    r"a GPU does not respond \(0000:0C:00.0\)": (
        255,
        "Unable to determine the device handle for gpu 0000:0C:00.0: Not Found\n",
    ),
    r"a GPU does not respond \(2: 0000:0D:00.0\)": (
        255,
        "Unable to determine the device handle for GPU2: 0000:0D:00.0: Unknown Error\n",
    ),
    "no permission to use the GPU": (4, "Failed to initialize NVML: Insufficient Permissions\n"),
    "nvidia-smi was not found": (127, "bash: line 1: nvidia-smi: command not found\n"),
    "infoROM is corrupted": (14, "WARNING: infoROM is corrupted at gpu 0000:0E:00.0\n"),
    "has no access to the GPU": (
        255,
        "Failed to initialize NVML: GPU access blocked by the operating system\n",
    ),
}

KERNEL_PRINTS = {
    "driver 510.99.01 no longer supports this GPU: branch 470 is the last": """
[    4.1] NVRM: The NVIDIA Tesla K80 GPU installed in this system is
         NVRM:  supported through the NVIDIA 470.xx Legacy drivers. Please
         NVRM:  visit a page for more information.  The 510.99.01 NVIDIA
         NVRM:  driver will ignore this GPU.  Continuing probe...
""",
    r"driver 450.99.00 does not support this GPU \(PCI id 10de:2237\)": """
[    4.1] NVRM: The NVIDIA GPU 0000:00:1e.0 (PCI ID: 10de:2237)
         NVRM: installed in this system is not supported by the
         NVRM: NVIDIA 450.99.00 driver release.
""",
    r"does not support this GPU \(PCI id 10de:1eb8\)": """
[    4.1] NVRM: The NVIDIA GPU 0000:00:1e.0 (PCI ID: 10de:1eb8)
[    4.1] NVRM: installed in this system is not supported by the 304.1
[    4.1] NVRM: NVIDIA Linux driver release.  Please see 'Appendix
""",
    'driver.modules = "proprietary"': """
NVRM: The NVIDIA GPU 0000:00:1e.0 (PCI ID: 10de:1db1)
NVRM: installed in this system is not supported by open
NVRM: nvidia.ko because it does not include the required GPU
NVRM: System Processor (GSP).
""",
    'driver.modules = "open"': """
NVRM: The NVIDIA GPU 0000:00:1e.0 (PCI ID: 10de:2901)
NVRM: installed in this system requires use of the NVIDIA open kernel modules.
""",
    "libraries have version 570.2, its loaded kernel module has 570.1": (
        "NVRM: API mismatch: client version 570.2, kernel module version 570.1"
    ),
    r"fallen off the bus \(0000:0f:00\)": (
        "NVRM: Xid (PCI:0000:0f:00): 79, pid=1, name=x, GPU has fallen off the bus."
    ),
    "Xid 119": "NVRM: Xid (PCI:0000:0f:00): 119, pid=1, name=x, Timeout after 6s of waiting",
    "a GPU's memory had an error": "NVRM: Xid (PCI:0000:0f:00): 48, pid=1, name=x, Ch 8",
    r"could not be initialised \(0000:0f:00.0\)": (
        "[  9.1] NVRM: GPU 0000:0f:00.0: RmInitAdapter failed! (0x1:0x2:3)"
    ),
    # The GPU's id is left out in some lines.
    r"could not be initialised \(unknown\)": "[  9.1] NVRM: RmInitAdapter failed! (0x1:0xf:3)",
    r"could not be initialised \(0000:0e:00.0\)": (
        "NVRM: GPU 0000:0e:00.0: rm_init_adapter failed, device minor number 0"
    ),
    # Old drivers write no "PCI:"; a line about a slice (MIG) also has its number.
    r"fallen off the bus \(0000:0e:00\): Xid 79": (
        "[ 1.1][  T99] NVRM: Xid (0000:0e:00): 79, GPU has fallen off the bus."
    ),
    r"affects all programs \(0000:0d:00 GPU-I:05\): Xid 95": (
        "NVRM: Xid (PCI:0000:0d:00 GPU-I:05): 95, pid=1, Uncontained: SM (0x1)"
    ),
    r"fallen off the bus \(0000:0d:00.0\)": """
[    4.1] NVRM: The NVIDIA GPU 0000:0d:00.0
[    4.1] NVRM: (PCI ID: 10de:2330) installed in this system has
[    4.1] NVRM: fallen off the bus and is not responding to commands.
""",
    r"fallen off the bus \(0000:0c:00.0\)": ("NVRM: GPU 0000:0c:00.0: GPU has fallen off the bus."),
    r"Xid 154: the driver requests this action: Node Reboot Required": (
        "NVRM: Xid (PCI:0000:0f:00): 154, GPU recovery action changed from 0x0 (None) to 0x2 "
        "(Node Reboot Required)"
    ),
    r"NETIR\) \(0009:01:00\): Xid 149": (
        "NVRM: Xid (PCI:0009:01:00): 149, NETIR_LINK_EVT  Fatal   XC0 i0 Link 01 (0x1 0x0)"
    ),
    r"refuses all requests to it \(NV_ERR_RESET_REQUIRED\)": (
        "NVRM: nvAssertOkFailedNoLog: Assertion failed: Reset required [NV_ERR_RESET_REQUIRED] "
        "(0x00000062) returned from status @ kernel_channel.c:1"
    ),
    r"could not start its system processor": (
        "[9.6] NVRM: GPU0 _kgspBootGspRm: (the GPU is likely in a bad state\n"
        "                and may need to be reset)"
    ),
    r"the machine must be rebooted: .*\(UVM\) reports the fatal error 0x60": (
        "NVRM: nvGpuOpsReportFatalError: uvm encountered global fatal error 0x60, requiring os "
        "reboot to recover."
    ),
    r"NVSwitch reports a fatal error \(0000:a9:00.0\): SXid 20034": (
        "nvidia-nvswitch3: SXid (PCI:0000:a9:00.0): 20034, Fatal, Link 30 LTSSM Fault Up"
    ),
    "another driver uses the GPU": (
        "NVRM: The NVIDIA probe routine was not called for 1 device(s)."
    ),
    "Secure Boot": "Lockdown: modprobe: unsigned module loading is restricted; see man",
    "built for another kernel": "nvidia: version magic '5.4.0-1 SMP' should be '5.4.0-2 SMP'",
}

FRAMEWORK_PRINTS = {
    "belongs to the driver": "OSError: libcuda.so.1: cannot open shared object file: No such file",
    "belongs to the CUDA toolkit": "OSError: libcudart.so.10.1: cannot open shared object file: No",
    "from a wheel of its own": "OSError: libcudnn.so.8: cannot open shared object file: No",
    "loads its parts when they are first used": "Could not load library libcudnn_cnn_infer.so.8. E",
    "belongs to the operating system": "OSError: libgomp.so.1: cannot open shared object file: No",
    "numpy at 1.23.5": "AttributeError: module 'numpy' has no attribute 'bool'.",
    "Fabric Manager": "RuntimeError: CUDA error: system not yet initialized",
    "too old for this CUDA": "CUDA: CUDA driver version is insufficient for CUDA runtime version",
    "no code for this GPU": "no kernel image is available for execution on the device",
    "was built without CUDA": "MXNetError: Compile with USE_CUDA=1 to enable GPU usage",
    "unknown error": "RuntimeError: CUDA unknown error - this may be due to an incorrectly set up",
}


@pytest.mark.parametrize(("expected", "said"), NVIDIA_SMI_PRINTS.items())
def test_a_known_failure_of_nvidia_smi_is_explained(expected: str, said: tuple[int, str]) -> None:
    status, text = said
    (found,) = diagnose_failure("nvidia-smi", text, status)
    assert re.search(expected, str(found))
    assert found.what_to_do


@pytest.mark.parametrize(("expected", "text"), [*KERNEL_PRINTS.items(), *FRAMEWORK_PRINTS.items()])
def test_a_known_failure_in_the_kernel_log_or_of_a_framework_is_explained(
    expected: str, text: str
) -> None:
    (found,) = diagnose(text)
    assert re.search(expected, str(found))


@pytest.mark.parametrize("known", [k for k in NVIDIA_SMI if k.exit_status], ids=lambda k: k.what)
def test_the_exit_status_alone_is_enough_if_the_output_is_not_known(known: Known) -> None:
    (found,) = diagnose_failure("nvidia-smi", "in other words\n", known.exit_status or 0)
    assert found.what_to_do
    assert "{" not in str(found)


def test_the_reason_in_the_kernel_log_is_added_to_the_diagnosis_of_nvidia_smi() -> None:
    log = KERNEL_PRINTS[r"driver 450.99.00 does not support this GPU \(PCI id 10de:2237\)"]
    said = diagnose_failure("nvidia-smi", "", 9, kernel_log=log)
    assert [str(found).split(":")[0] for found in said] == [
        "the NVIDIA driver is not loaded",
        "driver 450.99.00 does not support this GPU (PCI id 10de",
    ]


def test_an_unknown_failure_is_quoted() -> None:
    (found,) = diagnose_failure("nvidia-smi", "Flux capacitor\n drained\n", 77)
    assert str(found) == "nvidia-smi ended with status 77: it printed: Flux capacitor drained"


def test_a_signal_is_named_by_its_number() -> None:
    for status in (-11, 139):
        (found,) = diagnose_failure("the tensor test", "", status)
        assert str(found) == "the tensor test was ended by signal 11: it printed nothing"


def test_only_the_end_of_a_long_output_is_quoted() -> None:
    (found,) = diagnose_failure("nvidia-smi", "x" * 5000 + " the end", 77)
    assert found.why.endswith("the end")
    assert len(found.why) < 700


@pytest.mark.parametrize(
    ("xid", "action"),
    [
        *((xid, "a reset of the GPU") for xid in (46, 62, 95, 109, 119, 136, 140, 143, 155, 158)),
        (54, "a check of the board's connections"),
        (79, "a restart of the whole machine"),
    ],
)
def test_an_xid_is_a_fault_if_nvidias_catalog_requires_more_than_a_restart_of_the_program(
    xid: int, action: str
) -> None:
    (found,) = diagnose(f"[ 9.1] NVRM: Xid (PCI:0000:53:00): {xid}, pid=7, name=x, words", FAULTS)
    assert f"(0000:53:00): Xid {xid}, for which NVIDIA's catalog requires {action}" in str(found)


def test_each_gpu_with_the_same_fault_is_named() -> None:
    log = "".join(f"NVRM: Xid (PCI:0000:{bus}:00): 79, pid=1\n" for bus in ("1b", "1c", "1b"))
    assert [found.what for found in diagnose(log)] == [
        "a GPU has fallen off the bus (0000:1b:00)",
        "a GPU has fallen off the bus (0000:1c:00)",
    ]


@pytest.mark.parametrize(
    "line",
    [
        "NVRM: Xid (PCI:0000:53:00): 31, pid=7, name=python, Ch 00000008, MMU Fault",
        "NVRM: Xid (PCI:0000:53:00): 45, pid=7, name=python, Ch 00000008",
        "NVRM: Xid (PCI:0000:53:00): 154, GPU recovery action changed from 0x1 (GPU Reset "
        "Required) to 0x0 (None)",
        "NVRM: Xid (PCI:0000:04:00): 145, RLW_CTRL Nonfatal XC0 i0 Link 00 (0x3 0x8)",
        "nvidia-nvswitch0: SXid (PCI:0000:c2:00.0): 19084, Non-fatal, Link 29 AN1 Heartbeat",
        "nvidia-nvswitch0: SXid (PCI:0000:c2:00.0): 10002, Severity 5 Engine instance 00",
    ],
)
def test_what_a_program_causes_or_the_hardware_corrects_is_not_a_fault_of_the_gpu(
    line: str,
) -> None:
    assert diagnose(f"[ 9.1] {line}") == ()


@pytest.mark.parametrize("healthy", ["", "NVRM: loading NVIDIA UNIX x86_64 Kernel Module  535.1"])
def test_output_without_a_failure_has_no_diagnosis(healthy: str) -> None:
    assert diagnose(healthy) == ()


def test_any_text_can_be_diagnosed() -> None:
    pieces = [text for _, text in NVIDIA_SMI_PRINTS.values()] + list(KERNEL_PRINTS.values())

    @given(
        st.lists(st.sampled_from(pieces) | st.text(max_size=20), max_size=6).map("".join),
        st.integers(-64, 255),
        st.text(max_size=50),
    )
    def check(text: str, status: int, log: str) -> None:
        found = diagnose_failure("nvidia-smi", text, status, kernel_log=log)
        assert found
        assert all(each.what for each in found)

    check()


def test_no_pattern_takes_long_on_a_hostile_text() -> None:
    text = (
        "The NVIDIA GPU (PCI ID: a) installed supported through the NVIDIA 1.x Legacy drivers"
        "Xid (PCI:0): 154, GPU recovery action changed from 0x0 (SXid (GPU 0000:" * 2000
    )
    start = time.thread_time()
    for known in KNOWN:
        list(known.find_all(text))
    assert time.thread_time() - start < 5
