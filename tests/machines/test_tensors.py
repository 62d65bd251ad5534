"""The tensor program with real frameworks on this computer."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bake.verify import Expectation, prove
from bake.verify.check import Failed
from bake.verify.tensors import compute, judge
from tests.support.frameworks import Here, environment, expectation
from tests.support.proved_machine import DRIVER, Machine

# ---- the program, for real ----


@pytest.fixture(scope="session")
def with_mxnet() -> Expectation:
    if sys.version_info >= (3, 12):
        pytest.skip("MXNet 1.x needs numpy 1.23, which Python 3.12 does not have")
    prefix = environment("mxnet-1.9.1", "mxnet==1.9.1", "numpy==1.23.5")
    return expectation(prefix, "mxnet", "1.9.1")


def test_mxnet_computes_right_on_the_cpu(with_mxnet: Expectation) -> None:
    tensors = compute(Here(), with_mxnet)
    detail = judge(tensors, gpus=0)
    assert detail.startswith("right on the CPU, largest relative error ")
    assert (tensors.version, tensors.numpy, tensors.gpus) == ("1.9.1", "1.23.5", 0)
    assert all(result.error < 1e-5 for result in tensors.devices[0].results[1:])


WRONG = {
    "one number among a million": "result[3, 5] += 1",
    "all of them": "result *= 1.01",
    "another function's": "result = mxnet.np.zeros_like(result)",
    "a NaN": "result[0, 0] = float('nan')",
    "an infinity": "result[0, 0] = float('inf')",
    "half precision": "result = (result / 8).astype('float16').astype('float32') * 8.02",
}


@pytest.mark.parametrize("fault", WRONG.values(), ids=WRONG)
def test_a_wrong_number_is_found_whatever_it_is(with_mxnet: Expectation, fault: str) -> None:
    code = f"""
import mxnet, mxnet.numpy
right = mxnet.np.dot
def wrong(*arguments):
    result = right(*arguments)
    {fault}
    return result
mxnet.np.dot = wrong
"""
    tensors = compute(Here(code), with_mxnet)
    with pytest.raises(Failed, match=r"the CPU computes wrong results: product 1024×1024×1024"):
        judge(tensors, gpus=0)


def test_memory_that_does_not_hold_zeros_is_found(with_mxnet: Expectation) -> None:
    code = """
import mxnet
zeros = mxnet.np.zeros
mxnet.np.zeros = lambda *given, **more: zeros(*given, **more) + 1e-30
"""
    with pytest.raises(Failed, match="zeros 1024×1024: relative error 1e-30"):
        judge(compute(Here(code), with_mxnet), gpus=0)


def test_a_build_without_cuda_on_a_machine_with_gpus_is_found(with_mxnet: Expectation) -> None:
    with pytest.raises(Failed, match="the framework finds 0 GPUs, but the machine has 2"):
        judge(compute(Here(), with_mxnet), gpus=2)


def test_a_gpu_that_cannot_be_used_is_named_with_the_reason(with_mxnet: Expectation) -> None:
    code = "import mxnet.numpy_extension as npx\nnpx.num_gpus = lambda: 1\n"
    with pytest.raises(Failed, match=r"the computation on GPU 0 failed: .* was built without CUDA"):
        judge(compute(Here(code), with_mxnet), gpus=1)


def test_a_framework_that_does_not_import_is_explained(with_mxnet: Expectation) -> None:
    code = "import sys; sys.modules['mxnet'] = None\n"
    with pytest.raises(Failed, match=r"the framework does not start: .*ModuleNotFoundError"):
        judge(compute(Here(code), with_mxnet), gpus=0)
    code = "raise OSError('libcudart.so.10.1: cannot open shared object file')\n"
    with pytest.raises(Failed, match="belongs to the CUDA toolkit"):
        compute(Here(code), with_mxnet)


def test_a_program_that_dies_is_no_pass(with_mxnet: Expectation) -> None:
    code = "import os; os.kill(os.getpid(), 11)\n"
    with pytest.raises(Failed, match="the tensor test was ended by signal 11"):
        compute(Here(code), with_mxnet)


@pytest.mark.soak
@pytest.mark.parametrize(
    ("framework", "version", "requirements"),
    [
        ("pytorch", "2.13.0", ("torch==2.13.0", "numpy")),
        ("tensorflow", "2.21.0", ("tensorflow-cpu==2.21.0",)),
        ("jax", "0.10.2", ("jax==0.10.2", "jaxlib==0.10.2")),
    ],
)
def test_the_real_wheels_of_each_framework_compute_right_on_the_cpu(
    framework: str, version: str, requirements: tuple[str, ...]
) -> None:
    prefix = environment(f"{framework}-{version}", *requirements)
    tensors = compute(Here(), expectation(prefix, framework, version))
    assert judge(tensors, gpus=0).startswith("right on the CPU")
    assert tensors.version is not None
    assert tensors.version.startswith(version)


NO_GPU = (
    "/sys/bus/pci/devices/0000:00:02.0/vendor:0x8086\n"
    "/sys/bus/pci/devices/0000:00:02.0/class:0x030000\n"
)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_without_a_gpu_the_real_framework_proves_the_cpu_and_no_more(
    machine: Machine, with_mxnet: Expectation
) -> None:
    machine.probe = NO_GPU + DRIVER
    proof = prove(machine, with_mxnet)
    outcomes = {check.name: check.outcome for check in proof.checks}
    assert proof.verified == "cpu"
    assert outcomes["framework"] == outcomes["tensors"] == outcomes["Python"] == "passed"
    skipped = [name for name, outcome in outcomes.items() if outcome == "skipped"]
    assert skipped[:3] == ["GPU present", "nvidia-smi", "GPU models"]
    assert all(check.detail for check in proof.checks)
    assert not any("nvidia-smi" in command for command in machine.commands)
