"""A machine is proved, or refused with all its faults; no proof claims more than was checked."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bake import catalog
from bake.errors import ConnectError, RemoteError, VerificationError
from bake.recipe import recipes
from bake.recipe.project import built_in
from bake.recipe.recipe import Recipe, environment_name
from bake.recipe.resolved import resolve
from bake.verify import Check, Expectation, accepted, expect, hardware, prove
from bake.verify.gpu import is_model
from bake.verify.software import cuda_runtime
from tests.support.nvidia_smi import document, gpu
from tests.support.proved_machine import DRIVER, LDCONFIG, NO_GPU, NVCC, T4, Machine
from tests.support.tensor_reports import figures


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def refusal(machine: Machine, **changes: Any) -> str:
    """Return the error that a person reads when the machine is refused."""
    with pytest.raises(VerificationError) as caught:
        prove(machine, machine.expectation(**changes))
    assert "No image" in caught.value.hint
    return "\n".join([caught.value.message, *caught.value.details])


# ---- machines that pass ----


def test_a_healthy_gpu_machine_is_proved_on_the_gpu(machine: Machine) -> None:
    told: list[Check] = []
    proof = prove(machine, machine.expectation(), on_check=told.append)
    assert proof.verified == "gpu"
    assert {check.outcome for check in proof.checks} == {"passed"}
    assert tuple(told) == proof.checks
    assert [found.name for found in proof.gpus] == ["Tesla T4"]
    details = {check.name: check.detail for check in proof.checks}
    assert details["GPU present"] == "0000:00:1e.0 (10de:1eb8)"
    assert details["GPU models"] == "1 × Tesla T4, 15109 MiB"
    assert details["driver"] == "470.256.02, module and 2 libraries"
    assert details["nvcc"] == "release 10.1"
    assert details["CUDA libraries"] == "/usr/local/cuda/lib64/libcudart.so.10.1"
    assert details["notebooks"] == "1 in ~/d2l-en"
    assert details["packages"] == "1 package"


def test_all_eight_gpus_are_checked(machine: Machine) -> None:
    slots = [f"1{index}" for index in range(8)]
    machine.probe = "".join(T4.format(slot=slot) for slot in slots) + DRIVER
    machine.says["nvidia-smi"] = (document(*(gpu(slot=slot) for slot in slots)), 0)
    machine.tensors = figures(8)
    proof = prove(machine, machine.expectation(gpu_count=8))
    assert proof.verified == "gpu"
    assert "right on 8 GPUs" in proof.checks[-1].detail


@pytest.mark.parametrize("policy", ["required", "if-present"])
def test_an_existing_gpu_is_proved_with_either_policy(machine: Machine, policy: str) -> None:
    assert prove(machine, machine.expectation(gpu=policy)).verified == "gpu"


def test_a_kernel_log_that_the_user_cannot_read_is_not_a_fault(machine: Machine) -> None:
    machine.says["dmesg"] = ("dmesg: read kernel buffer failed: Operation not permitted", 1)
    proof = prove(machine, machine.expectation())
    assert proof.verified == "gpu"
    assert [check.name for check in proof.checks if check.outcome == "skipped"] == ["kernel log"]


# ---- machines with and without a GPU ----


def test_a_failing_driver_on_a_machine_with_a_gpu_is_a_failure_and_never_skipped(
    machine: Machine,
) -> None:
    machine.says["nvidia-smi"] = ("couldn't communicate with the NVIDIA driver\n", 9)
    said = refusal(machine, gpu="if-present")
    assert "nvidia-smi: the NVIDIA driver is not loaded" in said
    assert "tensors" not in said


def test_no_gpu_where_one_is_required_is_a_failure(machine: Machine) -> None:
    machine.probe = NO_GPU
    machine.tensors = figures(0)
    assert "GPU present: this machine has no NVIDIA GPU" in refusal(machine)


def test_a_container_has_a_gpu_of_its_host_only_with_a_device_file(machine: Machine) -> None:
    host = T4.format(slot="1e") + DRIVER + "container\n"
    assert hardware.parse(host).gpus == ()
    assert hardware.parse(host).host_gpus == 1
    assert hardware.parse(host + "file /dev/nvidia0\n").gpus == ("/dev/nvidia0",)
    machine.probe, machine.tensors = host, figures(0)
    proof = prove(machine, machine.expectation(gpu="if-present"))
    assert proof.verified == "cpu"
    assert "the container has no access to it" in proof.checks[0].detail


def test_an_nvswitch_is_not_a_gpu() -> None:
    switch = T4.format(slot="1e").replace("0x030200", "0x068000")
    assert hardware.parse(switch).gpus == ()


def test_the_probe_runs_on_this_computer() -> None:
    done = subprocess.run(["sh", "-c", hardware._PROBE], capture_output=True, text=True)
    assert done.stderr == ""
    assert isinstance(hardware.parse(done.stdout), hardware.Hardware)


# ---- machines that fail ----

Change = Callable[[Machine], Any]


def smi(*gpus: str) -> Change:
    return lambda machine: machine.says.update({"nvidia-smi": (document(*gpus), 0)})


RUNNING = "5.4.0-1103-aws"


def kernels(*lines: str) -> Callable[[Machine], Any]:
    """Let these kernels be in /boot, with their modules."""
    said = "".join(f"{line}\n" for line in [f"running {RUNNING}", *(f"kernel {k}" for k in lines)])
    return lambda machine: setattr(machine, "kernels", said)


def program(name: str, text: str, status: int = 0) -> Change:
    return lambda machine: machine.says.update({name: (text, status)})


def answer(key: str, text: str) -> Change:
    return lambda machine: machine.python.update({key: text})


PARTIAL = "Unable to determine the device handle for GPU1: 0000:00:1f.0: Unknown Error\n"
FAULTS: dict[str, tuple[Change, str]] = {
    "another GPU": (smi(gpu("NVIDIA T4G")), "GPU models: GPU 0 is a NVIDIA T4G, not a T4"),
    "half the memory": (smi(gpu(memory="7680 MiB")), "GPU 0 has 7680 MiB of memory"),
    "one GPU too many": (smi(gpu(), gpu(slot="1f")), "the driver found 2 GPUs"),
    "no GPU in the document": (smi(), "nvidia-smi: the driver found no GPU"),
    "no devices": (program("nvidia-smi", "No devices were found\n"), "found no GPU"),
    "a GPU missing beside a table": (
        program("nvidia-smi", PARTIAL + document(gpu())),
        "nvidia-smi: a GPU does not respond (1: 0000:00:1f.0)",
    ),
    "a GPU of errors": (smi(gpu("ERR!")), "GPU health: GPU 0 (00000000:00:1E.0) does not respond"),
    "memory errors": (
        smi(
            gpu(
                more="<ecc_errors><volatile><dram_uncorrectable>3</dram_uncorrectable></volatile></ecc_errors>"
            )
        ),
        "has had 3 memory errors",
    ),
    "no spare rows": (
        smi(
            gpu(
                more="<remapped_rows><remapped_row_failure>Yes</remapped_row_failure></remapped_rows>"
            )
        ),
        "has run out of spare memory rows",
    ),
    "rows waiting": (
        smi(
            gpu(
                more="<remapped_rows><remapped_row_pending>Yes</remapped_row_pending></remapped_rows>"
            )
        ),
        "must be reset to take faulty memory out of use",
    ),
    "recovery": (
        smi(gpu(more="<gpu_recovery_action>Reboot</gpu_recovery_action>")),
        "the driver requests this action: Reboot",
    ),
    "a reset of an older driver": (
        smi(gpu(more="<gpu_reset_status><reset_required>Yes</reset_required></gpu_reset_status>")),
        "must be reset: nvidia-smi reports reset_required: Yes",
    ),
    "a repair": (
        smi(
            gpu(
                more="<ecc_errors><channel_repair_pending>Yes</channel_repair_pending></ecc_errors>"
            )
        ),
        "must be reset to repair a memory channel",
    ),
    "a fabric that lost links": (
        smi(gpu(more="<fabric><health><bandwidth>Degraded</bandwidth></health></fabric>")),
        "has a problem with the NVSwitch fabric: nvidia-smi reports bandwidth: Degraded",
    ),
    "MIG": (smi(gpu().replace("<current_mig>N/A", "<current_mig>Enabled")), "is divided (MIG)"),
    "no fabric": (
        smi(gpu(more="<fabric><state>In Progress</state></fabric>")),
        "has not joined the NVSwitch fabric",
    ),
    "persistence mode off": (
        smi(gpu(persistence="Disabled")),
        "persistence mode: persistence mode is off on GPU 0",
    ),
    "another kernel at the next boot": (
        kernels(f"{RUNNING} 470.256.02", "5.4.0-1110-aws 470.256.02"),
        "kernel: the machine runs the kernel 5.4.0-1103-aws, and its newest one is 5.4.0-1110-aws",
    ),
    "no kernel that can boot": (kernels(), "and its newest one is none of /boot"),
    "a kernel without the module": (
        kernels("5.4.0-1100-aws", f"{RUNNING} 470.256.02"),
        "the kernel 5.4.0-1100-aws has the nvidia module of no version",
    ),
    "a module of another version": (
        kernels(f"{RUNNING} 470.199.02"),
        "the nvidia module 470.199.02, and the driver's libraries are 470.256.02",
    ),
    "an upgrade of the driver": (
        program("apt-get", "Inst libnvidia-compute-470-server [1] (2)\nInst dkms [1] (2)\n"),
        "upgrades: an upgrade would change dkms, libnvidia-compute-470-server",
    ),
    "an upgrade of Debian's driver": (
        program("apt-get", "Inst libcuda1 [1] (2)\nInst libnvcuvid1 [1] (2)\n"),
        "upgrades: an upgrade would change libcuda1, libnvcuvid1",
    ),
    "an upgrade of the kernel": (
        program("apt-get", "Inst linux-image-aws [1] (2)\nInst linux-image-5.4.0-1110-aws (2)\n"),
        "upgrades: an upgrade would change linux-image-5.4.0-1110-aws, linux-image-aws",
    ),
    "an apt that fails": (
        lambda machine: machine.says.update({"apt-get": ("E: Unmet dependencies\n", 100)}),
        "upgrades: apt cannot plan an upgrade of the system: E: Unmet dependencies",
    ),
    "an old driver": (
        lambda machine: (
            program("nvidia-smi", document(gpu()).replace("470.256.02", "410.48"))(machine),
            setattr(machine, "probe", machine.probe.replace("470.256.02", "410.48")),
        ),
        "driver: driver 410.48 is too old for CUDA 10.1: it needs 418.39 or newer",
    ),
    "another branch": (
        lambda machine: (
            program("nvidia-smi", document(gpu()).replace("470.256.02", "535.1.2"))(machine),
            setattr(machine, "probe", machine.probe.replace("470.256.02", "535.1.2")),
        ),
        "driver 535.1.2 does not belong to branch 470",
    ),
    "libraries of another version": (
        lambda machine: setattr(
            machine, "probe", machine.probe.replace("ml.so.470.256.02", "ml.so.470.199.02")
        ),
        "is 470.256.02, but /usr/lib/x86_64-linux-gnu/libnvidia-ml.so.470.199.02 is 470.199.02",
    ),
    "a fault in the kernel log": (
        program("dmesg", "NVRM: Xid (PCI:0000:00:1e): 79, pid=1, GPU has fallen off the bus.\n"),
        "kernel log: a GPU has fallen off the bus (0000:00:1e): Xid 79",
    ),
    "no nvcc": (lambda machine: machine.says.update(nvcc=None), "nvcc: nvcc does not report"),
    "another nvcc": (
        program("nvcc", NVCC.replace("10.1", "10.2")),
        "nvcc: nvcc has release 10.2, not 10.1",
    ),
    "an nvcc like it": (
        program("nvcc", NVCC.replace("10.1,", "10.12,")),
        "nvcc: nvcc has release 10.12, not 10.1",
    ),
    "CUDA not for the loader": (
        program("ldconfig", LDCONFIG.replace("10.1", "10.2")),
        "CUDA libraries: the loader does not find libcudart.so.10.1: it finds libcudart.so.10.2",
    ),
    "another Python": (
        answer("sys.version_info", "3.12.1 /usr"),
        "Python: the environment's Python is 3.12.1, not 3.7",
    ),
    "a Python like it": (
        answer("sys.version_info", "3.70.1 /x"),
        "Python: the environment's Python is 3.70.1, not 3.7",
    ),
    "another framework": (
        answer("import mxnet", "1.7.0"),
        "framework: mxnet has version 1.7.0, not 1.9.1",
    ),
    "another d2l": (answer("from d2l", "1.0.3"), "d2l: d2l is 1.0.3, not 0.17.0"),
    "no kernel": (
        answer("kernelspec", '{"kernelspecs": {"ir": {"spec": {"argv": ["R"]}}}}'),
        "Jupyter: Jupyter has no kernel d2l",
    ),
    "a kernel of another Python": (
        answer("kernelspec", '{"kernelspecs": {"d2l": {"spec": {"argv": ["python3"]}}}}'),
        "its kernels are d2l → python3",
    ),
    "no Jupyter": (answer("kernelspec", "No module named jupyter"), "Jupyter: jupyter ended"),
    "wrong numbers": (
        lambda machine: setattr(machine, "tensors", figures(1, error=0.3)),
        "tensors: GPU 0 computes wrong results",
    ),
    "numbers of the CPU": (
        lambda machine: setattr(machine, "tensors", figures(0)),
        "tensors: the framework finds 0 GPUs, but the machine has 1",
    ),
}


@pytest.mark.parametrize(("change", "reason"), FAULTS.values(), ids=FAULTS)
def test_each_fault_refuses_the_machine(machine: Machine, change: Change, reason: str) -> None:
    change(machine)
    assert reason in refusal(machine)


def test_a_divided_gpu_is_the_only_fault_although_its_memory_is_hidden(machine: Machine) -> None:
    divided = gpu(memory="Insufficient Permissions").replace(
        "<current_mig>N/A", "<current_mig>Enabled"
    )
    smi(divided)(machine)
    with pytest.raises(VerificationError) as caught:
        prove(machine, machine.expectation())
    (detail,) = caught.value.details
    assert "is divided (MIG)" in detail
    assert "sudo nvidia-smi -mig 0" in detail


def test_missing_notebooks_refuse_the_machine(machine: Machine) -> None:
    run = machine.run
    machine.run = lambda command, **more: run(command.replace("d2l-en", "nowhere"), **more)  # type: ignore[method-assign]
    assert "no notebooks found" in refusal(machine)


@pytest.mark.parametrize(
    ("count", "there"), [("9" * 5000, True), ("0" * 5000, False), ("²", False)]
)
def test_any_number_of_notebooks_can_be_read(machine: Machine, count: str, there: bool) -> None:
    run = machine.run
    said = f"printf '%s' {count}"
    machine.run = lambda command, **more: run(said if "*.ipynb" in command else command, **more)  # type: ignore[method-assign]
    if there:
        assert prove(machine, machine.expectation()).verified == "gpu"
    else:
        assert "no notebooks found" in refusal(machine)


def test_all_faults_are_reported_at_once(machine: Machine) -> None:
    FAULTS["another nvcc"][0](machine)
    FAULTS["another d2l"][0](machine)
    machine.tensors = figures(1, worst=float("nan"))
    with pytest.raises(VerificationError) as caught:
        prove(machine, machine.expectation())
    assert [detail.split(":")[0] for detail in caught.value.details] == ["nvcc", "d2l", "tensors"]
    assert caught.value.message.endswith("nvcc, d2l, tensors")


def test_a_gpu_too_new_for_its_driver_is_recognised_from_the_kernel_log(machine: Machine) -> None:
    machine.says["nvidia-smi"] = ("couldn't communicate with the NVIDIA driver\n", 9)
    machine.says["dmesg"] = (
        "[    4.1] NVRM: The NVIDIA GPU 0000:00:1e.0 (PCI ID: 10de:2237)\n"
        "[    4.1] NVRM: installed in this system is not supported by the\n"
        "[    4.1] NVRM: NVIDIA 450.99.00 driver release.\n",
        0,
    )
    said = refusal(machine)
    assert "driver 450.99.00 does not support this GPU (PCI id 10de:2237)" in said
    assert "Set driver.branch in the recipe to a branch that supports the GPU" in said


def test_an_import_that_fails_is_explained(machine: Machine) -> None:
    broken = machine.folder / "broken"
    machine._program(
        broken, "echo 'OSError: libcudnn.so.8: cannot open shared object file' >&2; exit 1"
    )
    machine._write()
    run = machine.run
    python = f"{machine.prefix}/bin/python -c 'import mxnet"
    machine.run = lambda command, **more: run(  # type: ignore[method-assign]
        str(broken) if command.startswith(python) else command, **more
    )
    said = refusal(machine)
    assert "framework: libcudnn.so.8 was not found" in said
    assert "Read the log of the stage that installs the framework" in said


def test_a_program_that_hangs_is_a_fault(machine: Machine) -> None:
    run = machine.run

    def hang(command: str, **more: Any) -> Any:
        if command.startswith("nvidia-smi"):
            raise RemoteError("a command did not end")
        return run(command, **more)

    machine.run = hang  # type: ignore[method-assign]
    assert "nvidia-smi did not finish within 180 s: it hangs" in refusal(machine)


def test_a_broken_connection_is_not_a_failed_check(machine: Machine) -> None:
    def broken(command: str, **more: Any) -> Any:
        raise ConnectError("gone")

    machine.run = broken  # type: ignore[method-assign]
    with pytest.raises(ConnectError):
        prove(machine, machine.expectation())


def test_conda_is_run_as_a_user_runs_it(machine: Machine) -> None:
    machine._program(
        machine.folder / "bin" / "conda",
        f'[ "$1 $2 $3 $4" = "run -n d2l python" ] && shift 4 && {machine.prefix}/bin/python "$@"',
    )
    assert prove(machine, machine.expectation(conda=True)).verified == "gpu"
    assert "conda run -n d2l python -c 'import mxnet; print(mxnet.__version__)'" in machine.commands


def test_a_skipped_check_never_counts_as_proved_on_a_gpu(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bake.verify.check import Skipped

    def skipped(*_: object) -> str:
        raise Skipped("not today")

    monkeypatch.setattr("bake.verify.gpu.check_driver", skipped)
    assert prove(machine, machine.expectation()).verified == "no"


# ---- the kernel and upgrades ----


def detail_of(machine: Machine, name: str, **changes: Any) -> tuple[str, str]:
    checks = {check.name: check for check in prove(machine, machine.expectation(**changes)).checks}
    return checks[name].outcome, checks[name].detail


def test_kernel_and_upgrades_of_a_sound_machine(machine: Machine) -> None:
    said = "5.4.0-1103-aws, the newest one, with nvidia 470.256.02"
    assert detail_of(machine, "kernel") == ("passed", said)
    assert detail_of(machine, "upgrades") == ("passed", "1 packages, none of the driver")
    assert detail_of(machine, "persistence mode") == ("passed", "on")


def test_a_kernel_that_is_not_held_may_be_upgraded_and_toolkits_always(machine: Machine) -> None:
    names = ("linux-image-aws", "nvidia-cuda-toolkit", "libnvidia-container1")
    machine.says["apt-get"] = ("".join(f"Inst {name} [1] (2)\n" for name in names), 0)
    said = detail_of(machine, "upgrades", kernel_held=False)
    assert said == ("passed", "3 packages, none of the driver")


def test_without_package_lists_nothing_is_claimed_about_upgrades(machine: Machine) -> None:
    machine.lists = ()
    said = detail_of(machine, "upgrades")
    assert said == ("skipped", "a stage has removed apt's package lists")


def test_a_container_has_no_kernel_of_its_own(machine: Machine) -> None:
    machine.kernels = f"container\n{machine.kernels}"
    said = detail_of(machine, "kernel")
    assert said == ("skipped", "a container runs the kernel of its host")


def test_the_kernel_alone_proves_nothing_about_a_gpu_or_a_cpu(machine: Machine) -> None:
    machine.probe = NO_GPU + DRIVER
    proof = prove(machine, expected("base", "drivers", gpu="if-present"))
    passed = {check.name for check in proof.checks if check.outcome == "passed"}
    assert passed == {"kernel", "upgrades"}
    assert proof.verified == "no"
    assert proof.verified in accepted(resolve(recipe_of("base", "drivers", gpu="if-present")))


def test_a_recipe_without_a_driver_needs_no_module(machine: Machine) -> None:
    machine.kernels = "running 5.4.0-1103-aws\nkernel 5.4.0-1103-aws \n"
    said = detail_of(machine, "kernel", gpu=None)
    assert said == ("passed", "5.4.0-1103-aws, the newest one")
    names = {check.name for check in prove(machine, machine.expectation(gpu=None)).checks}
    assert names.isdisjoint({"GPU present", "driver", "upgrades"})


@pytest.mark.parametrize("stages", [("base", "cuda"), ("base", "drivers", "cuda")])
def test_the_kernel_is_held_with_the_driver(stages: tuple[str, ...]) -> None:
    assert expected(*stages).kernel_held is ("drivers" in stages)


# ---- recipes that install less ----


def recipe_of(*stages: str, gpu: Any = None) -> Recipe:
    book = recipes.find("mxnet-cu101", built_in())
    stage_of = {
        "driver": "drivers",
        "cuda": "cuda",
        "python": "conda",
        "framework": "mxnet",
        "d2l": "d2l",
    }
    unused = dict.fromkeys(section for section in stage_of if stage_of[section] not in stages)
    return book.model_copy(update={"stages": (*stages, "seal"), "gpu": gpu, **unused})


def expected(*stages: str, gpu: Any = None) -> Expectation:
    return expect(resolve(recipe_of(*stages, gpu=gpu)), "g4dn.xlarge")


def test_a_recipe_of_driver_and_toolkit_is_proved_without_python(machine: Machine) -> None:
    proof = prove(machine, expected("base", "drivers", "cuda"))
    passed = {check.name for check in proof.checks if check.outcome == "passed"}
    assert proof.verified == "gpu"
    assert passed >= {"GPU present", "nvidia-smi", "driver", "kernel log", "nvcc", "CUDA libraries"}
    # What the recipe does not have is not listed.
    names = {check.name for check in proof.checks}
    assert names.isdisjoint({"Python", "framework", "d2l", "Jupyter", "notebooks", "tensors"})
    assert not any("python" in command for command in machine.commands)


@pytest.mark.parametrize("fault", ["an old driver", "no devices", "another nvcc", "memory errors"])
def test_faults_in_the_installed_parts_refuse_the_machine(machine: Machine, fault: str) -> None:
    change, reason = FAULTS[fault]
    change(machine)
    with pytest.raises(VerificationError) as caught:
        prove(machine, expected("base", "drivers", "cuda"))
    assert any(reason in detail for detail in caught.value.details)


def test_a_driver_requires_the_gpu_that_the_recipe_requires(machine: Machine) -> None:
    machine.probe = NO_GPU + DRIVER
    with pytest.raises(VerificationError, match="GPU present"):
        prove(machine, expected("base", "drivers", gpu="required"))
    with pytest.raises(VerificationError, match="GPU present"):
        prove(machine, expected("base", "drivers"))
    proof = prove(machine, expected("base", "drivers", "cuda", gpu="if-present"))
    assert proof.verified == "cpu"
    assert [check.name for check in proof.checks if check.outcome == "passed"] == [
        "kernel",
        "upgrades",
        "nvcc",
        "CUDA libraries",
    ]
    assert prove(machine, expected("base", "drivers", gpu="if-present")).verified == "no"


def test_a_recipe_of_own_stages_proves_nothing_and_says_so(machine: Machine) -> None:
    told: list[Check] = []
    proof = prove(machine, expected("base", "ours"), on_check=told.append)
    assert proof.verified == "no"
    assert [(check.outcome, check.detail) for check in proof.checks] == [
        ("skipped", "the recipe's stages install nothing to prove")
    ]
    assert tuple(told) == proof.checks
    assert machine.commands == []


def test_a_framework_without_a_driver_is_proved_on_the_device_that_computes(
    machine: Machine,
) -> None:
    machine.probe, machine.tensors = NO_GPU, figures(0)
    wanted = replace(machine.expectation(), gpu=None, cuda_release=None)
    proof = prove(machine, wanted)
    assert proof.verified == "cpu"
    assert "GPU present" not in {check.name for check in proof.checks}
    machine.tensors = figures(0, error=0.3)
    with pytest.raises(VerificationError, match="tensors"):
        prove(machine, wanted)
    machine.tensors = figures(1)  # it finds a GPU, of which nothing else is known
    assert prove(machine, wanted).verified == "no"


@pytest.mark.parametrize(
    ("stages", "gpu", "proofs"),
    [
        (("base", "drivers", "cuda", "conda", "mxnet", "d2l"), None, {"gpu"}),
        (("base", "drivers", "cuda", "conda", "mxnet", "d2l"), "if-present", {"gpu", "cpu"}),
        (("base", "drivers", "cuda"), "required", {"gpu"}),
        (("base", "drivers"), "if-present", {"gpu", "no"}),
        (("base", "conda", "mxnet"), None, {"cpu"}),
        (("base", "conda", "mxnet"), "none", {"cpu"}),
        (("base", "ours"), None, {"no"}),
        (("base", "ours"), "required", {"gpu"}),  # the base image has the driver
    ],
)
def test_the_proofs_that_a_recipe_accepts(
    stages: tuple[str, ...], gpu: Any, proofs: set[str]
) -> None:
    assert accepted(resolve(recipe_of(*stages, gpu=gpu))) == proofs


# ---- expectations ----

NAMES = {
    "Tesla K80": "K80",
    "Tesla V100-SXM2-16GB": "V100",
    "Tesla T4": "T4",
    "NVIDIA T4G": "T4G",
    "NVIDIA A10G": "A10G",
    "A100-SXM4-40GB": "A100",
    "NVIDIA A100-SXM4-80GB": "A100",
    "NVIDIA L4": "L4",
    "NVIDIA L40S": "L40S",
    "NVIDIA H100 80GB HBM3": "H100",
    "NVIDIA H200": "H200",
    "NVIDIA B200": "B200",
    "GRID K520": "K520",
    "NVIDIA RTX PRO 6000 Blackwell Server Edition": "RTX PRO 6000",
}


@pytest.mark.parametrize("model", catalog.load().gpus)
@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_nvidia_smi_matches_only_its_model(name: str, model: str) -> None:
    assert is_model(name, model) == (NAMES[name] == model)


def test_the_expectations_of_the_projects_recipes() -> None:
    facts = catalog.load()
    for each in recipes.all_recipes(built_in()):
        for name in each.builder.instance_types:
            wanted = expect(resolve(each), name)
            assert wanted.framework == (each.framework.name if each.framework else None)
            assert wanted.environment == (environment_name(each) if each.python else None)
            assert wanted.python == (each.python.version if each.python else None)
            if each.gpu == "none":
                assert wanted.gpu is None
                continue
            assert wanted.gpu == (each.gpu or "required")
            assert wanted.gpu_model in facts.gpus
            assert wanted.gpu_count is not None
            assert wanted.gpu_count >= 1
    found = recipes.find("mxnet-cu101", built_in())
    book = expect(resolve(found), "g4dn.12xlarge")
    assert (book.gpu_model, book.gpu_count, book.gpu_memory_mib) == ("T4", 4, 16384)
    assert (book.min_driver, book.driver_branch, book.cuda_release) == ("418.39", "470", "10.1")
    assert (book.environment_prefix, book.conda) == ("/opt/conda/envs/d2l", True)


def test_python_and_libraries_of_a_stand_in_are_not_checked() -> None:
    book = recipes.find("mxnet-cu101", built_in())
    wanted = expect(resolve(book), "g4dn.xlarge", stand_in=True)
    assert wanted.python is None
    assert not wanted.cuda_libraries


@pytest.mark.parametrize(
    ("release", "file"),
    [
        ("10.1", "libcudart.so.10.1"),
        ("11.2", "libcudart.so.11.0"),
        ("11.8", "libcudart.so.11.0"),
        ("12.6", "libcudart.so.12"),
        ("13.0", "libcudart.so.13"),
    ],
)
def test_the_file_name_of_the_runtime_of_each_cuda(release: str, file: str) -> None:
    assert cuda_runtime(release) == file


def test_checks_that_are_scripts_may_prove_a_recipe_on_the_cpu_or_be_skipped() -> None:
    of_own = recipe_of("base")
    assert accepted(resolve(of_own)) == {"no"}
    assert accepted(resolve(of_own), has_checks=True) == {"no", "cpu"}
    with_driver = recipe_of("base", "drivers")
    assert accepted(resolve(with_driver), has_checks=True) == {"gpu"}
