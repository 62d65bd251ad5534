"""The proof on a real GPU: this computer's, with the PyTorch of the Python that runs the test.

    pytest -m gpu tests/gpu -rA

Left out of every other run. No cloud, no SSH and no network is needed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bake.errors import VerificationError
from bake.verify import Expectation, prove
from bake.verify.nvidia_smi import COMMAND, parse
from bake.verify.tensors import compute, judge

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not shutil.which("nvidia-smi"), reason="there is no nvidia-smi here"),
]


class Here:
    """This computer as the machine; `fault` is Python that runs before the tensor test."""

    def __init__(self, fault: str = "", **environment: str) -> None:
        self.fault = fault
        self.environment = {**os.environ, **environment}

    def run(
        self,
        command: str,
        *,
        check: bool = True,
        stdin: bytes | str | None = None,
        timeout_s: float | None = None,
    ) -> Any:
        given = None if stdin is None else self.fault.encode() + bytes(stdin)  # type: ignore[arg-type]
        done: Any = subprocess.run(
            ["bash", "-c", command], input=given, capture_output=True, env=self.environment
        )
        done.exit_status = done.returncode
        done.stdout, done.stderr = done.stdout.decode(), done.stderr.decode()
        return done


@pytest.fixture(autouse=True)
def no_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the checks of what an image boots and upgrades: no bake has made this computer."""
    for check in ("gpu.check_persistence", "system.check_kernel", "system.check_upgrades"):
        monkeypatch.setattr(f"bake.verify.{check}", lambda *_: "not an image")


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch")


@pytest.fixture
def expectation(torch: Any) -> Expectation:
    return Expectation(
        gpu="required",
        gpu_count=torch.cuda.device_count(),
        min_driver="525.60.13",
        cuda_release=torch.version.cuda if shutil.which("nvcc") else None,
        cuda_libraries=False,
        framework="pytorch",
        framework_version=torch.__version__,
        python="{}.{}".format(*sys.version_info[:2]),
        environment=Path(sys.prefix).name,
        environment_prefix=sys.prefix,
    )


def test_this_machine_is_proved_on_its_gpus(expectation: Expectation, torch: Any) -> None:
    proof = prove(
        Here(), expectation, on_check=lambda c: print(f"{c.outcome:8} {c.seconds:6.2f} s  {c}")
    )
    for device in proof.tensors.devices if proof.tensors else ():
        for result in device.results:
            print(
                f"{device}: {result}: {result.error:.1e} {result.worst:.1e} {result.seconds:.3f} s"
            )
    assert proof.verified == "gpu"
    assert [gpu.name for gpu in proof.gpus] == [
        torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())
    ]


def test_nvidia_smi_says_what_the_framework_sees(torch: Any) -> None:
    report = parse(Here().run(COMMAND).stdout)
    print(report)
    for gpu in report.gpus:
        seen = torch.cuda.get_device_properties(gpu.index)
        assert gpu.memory_mib is not None
        assert 0.9 < seen.total_memory / 2**20 / gpu.memory_mib <= 1.01
    assert report.cuda_version is not None


def test_another_model_than_asked_for_is_refused(expectation: Expectation) -> None:
    with pytest.raises(VerificationError, match="GPU models"):
        prove(Here(), replace(expectation, gpu_model="K520"))


def test_a_driver_older_than_asked_for_is_refused(expectation: Expectation) -> None:
    with pytest.raises(VerificationError, match="driver"):
        prove(Here(), replace(expectation, min_driver="9999.1"))


WRONG = {
    "one number": "result[3, 5] += 1",
    "a NaN": "result[0, 0] = float('nan')",
    "all": "result *= 1.01",
    "the CPU's": "result = result.cpu()",
}


@pytest.mark.parametrize("fault", WRONG.values(), ids=WRONG)
def test_a_wrong_number_on_the_gpu_is_refused(expectation: Expectation, fault: str) -> None:
    code = f"""
import torch
right = torch.Tensor.__matmul__
def wrong(a, b):
    result = right(a, b)
    {fault}
    return result
torch.Tensor.__matmul__ = wrong
"""
    with pytest.raises(VerificationError, match="tensors"):
        prove(Here(code), expectation)


def test_gpus_that_are_hidden_are_missed(expectation: Expectation) -> None:
    with pytest.raises(VerificationError, match="tensors"):
        prove(Here(CUDA_VISIBLE_DEVICES=""), expectation)


def test_what_tensor_cores_round_off_is_let_pass(expectation: Expectation, torch: Any) -> None:
    """Where the tolerance comes from: TF32 has 10 bits behind the point."""
    code = "import torch; torch.backends.cuda.matmul.allow_tf32 = True\n"
    tensors = compute(Here(code), expectation)
    print(judge(tensors, gpus=torch.cuda.device_count()))
    if torch.cuda.get_device_capability(0) >= (8, 0):
        assert 1e-5 < tensors.devices[0].results[1].error < 1e-3
