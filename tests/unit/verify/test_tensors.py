"""Numbers are judged here: wrong, missing or made on the wrong device, they never pass."""

from __future__ import annotations

import ast
import json
import math
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bake.verify.check import Failed
from bake.verify.expectation import Expectation
from bake.verify.tensors import OPERATIONS, compute, judge, read
from tests.support.environment import CACHE, REPOSITORY

PROGRAMS = sorted((REPOSITORY / "bake" / "verify" / "on_machine").glob("*.py"))


def environment(name: str, *requirements: str) -> Path:
    """A virtual environment that is made once for this computer."""
    version = "{}.{}".format(*sys.version_info[:2])
    path = CACHE / "tests" / f"{name}-python{version}"
    if not path.exists():
        new = path.with_name(f"{path.name}.new")
        venv.create(new, clear=True, with_pip=True)
        pip = [str(new / "bin/python"), "-m", "pip", "install", "--quiet", *requirements]
        subprocess.run(pip, check=True, stdin=subprocess.DEVNULL)
        new.rename(path)
    return path


@pytest.fixture(scope="session")
def with_mxnet() -> Expectation:
    if sys.version_info >= (3, 12):
        pytest.skip("MXNet 1.x needs numpy 1.23, which Python 3.12 does not have")
    prefix = environment("mxnet-1.9.1", "mxnet==1.9.1", "numpy==1.23.5")
    return expectation(prefix, "mxnet", "1.9.1")


def expectation(prefix: Path, framework: Any, version: str) -> Expectation:
    return Expectation(
        gpu="if-present",
        min_driver="418.39",
        framework=framework,
        framework_version=version,
        environment=prefix.name,
        environment_prefix=str(prefix),
    )


class Here:
    """This computer as the machine; `fault` is Python that runs before the test's program."""

    def __init__(self, fault: str = "") -> None:
        self.fault = fault

    def run(
        self,
        command: str,
        *,
        check: bool = True,
        stdin: bytes | str | None = None,
        timeout_s: float | None = None,
    ) -> Any:
        assert isinstance(stdin, bytes)
        done = subprocess.run(
            ["bash", "-c", command], input=self.fault.encode() + stdin, capture_output=True
        )
        done.exit_status = done.returncode  # type: ignore[attr-defined]
        done.stdout, done.stderr = done.stdout.decode(), done.stderr.decode()
        return done


# ---- the program, for real ----


def test_mxnet_computes_right_on_the_cpu(with_mxnet: Expectation) -> None:
    tensors = compute(Here(), with_mxnet)
    detail = judge(tensors, gpus=0)
    assert detail.startswith("right on the CPU, off by ")
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
    with pytest.raises(Failed, match=r"the CPU computes wrong numbers: product 1024×1024×1024"):
        judge(tensors, gpus=0)


def test_memory_that_does_not_hold_zeros_is_found(with_mxnet: Expectation) -> None:
    code = """
import mxnet
zeros = mxnet.np.zeros
mxnet.np.zeros = lambda *given, **more: zeros(*given, **more) + 1e-30
"""
    with pytest.raises(Failed, match="zeros 1024×1024: off by 1e-30"):
        judge(compute(Here(code), with_mxnet), gpus=0)


def test_a_build_without_cuda_on_a_machine_with_gpus_is_found(with_mxnet: Expectation) -> None:
    with pytest.raises(Failed, match="the framework sees 0 GPUs, the machine has 2"):
        judge(compute(Here(), with_mxnet), gpus=2)


def test_a_gpu_that_cannot_be_used_is_named_with_the_reason(with_mxnet: Expectation) -> None:
    code = "import mxnet.numpy_extension as npx\nnpx.num_gpus = lambda: 1\n"
    with pytest.raises(Failed, match=r"GPU 0 does not compute: .* a build without CUDA"):
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
def test_pytorch_computes_right_on_the_cpu() -> None:
    prefix = environment("torch-2.13.0", "torch==2.13.0", "numpy")
    tensors = compute(Here(), expectation(prefix, "pytorch", "2.13.0"))
    assert judge(tensors, gpus=0).startswith("right on the CPU")


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.name)
def test_the_programs_are_python_3_6(program: Path) -> None:
    ast.parse(program.read_text(), feature_version=(3, 6))


# ---- the judge ----


def figures(gpus: int = 1, **changes: Any) -> dict[str, Any]:
    """What the program says of a machine whose GPUs are right; `changes` go into every result."""

    def result(operation: str, shape: tuple[int, ...]) -> dict[str, Any]:
        off = 0.0 if operation == "zeros" else 2e-7
        given = {"operation": operation, "shape": shape, "error": off, "worst": off * 8}
        return {**given, "kind": "gpu" if gpus else "cpu", "seconds": 0.1, **changes}

    devices = [
        {"index": index, "failure": None, "results": [result(*each) for each in OPERATIONS]}
        for index in (range(gpus) if gpus else [None])
    ]
    report = {"version": "1.9.1", "numpy": "1.23.5", "python": "3.9.2", "cuda": "11.2"}
    return {**report, "gpus": gpus, "devices": devices, "failure": None}


def verdict(report: dict[str, Any], gpus: int = 1) -> str:
    return judge(read(json.dumps(report)), gpus=gpus)


@pytest.mark.parametrize("gpus", [1, 8])
def test_right_numbers_on_every_gpu_pass(gpus: int) -> None:
    assert verdict(figures(gpus), gpus).startswith("right on ")


def test_what_tensor_cores_round_off_passes() -> None:
    report = figures()
    for result in report["devices"][0]["results"][1:]:
        result.update(error=3e-4, worst=1.6e-3)
    assert verdict(report).startswith("right on GPU 0, off by 3.0e-04")


@pytest.mark.parametrize("field", ["error", "worst"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -1e-7, 0.0, 0.5])
@pytest.mark.parametrize("device", [0, 3])
def test_one_bad_figure_on_one_gpu_fails(field: str, value: float, device: int) -> None:
    report = figures(4)
    report["devices"][device]["results"][2][field] = value
    with pytest.raises(Failed, match=f"GPU {device} computes wrong numbers: product 1000×777×129"):
        verdict(report, 4)


Change = Callable[[dict[str, Any]], Any]
INCOMPLETE: dict[str, tuple[Change, str]] = {
    "a GPU left out": (lambda r: r["devices"].pop(), "left out a device"),
    "a GPU twice": (lambda r: r["devices"][1].update(index=0), "left out a device, or took one"),
    "no device": (lambda r: r["devices"].clear(), "left out a device"),
    "an operation left out": (lambda r: r["devices"][0]["results"].pop(), "GPU 0 was not asked"),
    "nothing computed": (lambda r: r["devices"][1]["results"].clear(), "GPU 1 was not asked"),
    "a small product": (
        lambda r: r["devices"][0]["results"][1].update(shape=(2, 2, 2)),
        "GPU 0 was not asked",
    ),
    "on the CPU": (
        lambda r: r["devices"][0]["results"][1].update(kind="cpu"),
        "product 1024×1024×1024 for GPU 0 was computed on a cpu",
    ),
    "GPUs not seen": (lambda r: r.update(gpus=1), "the framework sees 1 GPUs, the machine has 2"),
    "a failure": (
        lambda r: r["devices"][1].update(failure="Error: out of memory"),
        "GPU 1 does not compute: .*memory is full",
    ),
    "an unknown failure": (
        lambda r: r["devices"][1].update(failure="Error: flux"),
        "GPU 1 does not compute: Error: flux",
    ),
    "no start": (lambda r: r.update(failure="ImportError: x"), "the framework does not start"),
}


@pytest.mark.parametrize(("change", "reason"), INCOMPLETE.values(), ids=INCOMPLETE)
def test_less_than_all_of_it_fails(change: Change, reason: str) -> None:
    report = figures(2)
    change(report)
    with pytest.raises(Failed, match=reason):
        verdict(report, 2)


def test_a_program_that_calls_itself_right_is_not_believed() -> None:
    report = figures(1, error=0.7) | {"ok": True, "passed": True}
    report["devices"][0]["ok"] = True
    with pytest.raises(Failed, match="wrong numbers"):
        verdict(report)


def test_the_cpus_numbers_prove_nothing_of_a_gpu() -> None:
    with pytest.raises(Failed, match="sees 0 GPUs"):
        verdict(figures(0), 1)
    assert verdict(figures(0), 0).startswith("right on the CPU")


def test_faults_of_several_gpus_are_told_at_once() -> None:
    report = figures(3)
    for device in report["devices"]:
        device["results"][1]["error"] = 1.0
    with pytest.raises(Failed) as caught:
        verdict(report, 3)
    assert [found.what.split(" c")[0] for found in caught.value.diagnoses] == [
        "GPU 0",
        "GPU 1",
        "GPU 2",
    ]


def test_only_the_programs_own_document_is_read() -> None:
    json_values = st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(list(figures())), inner),
        max_leaves=10,
    )

    @given(json_values.map(json.dumps) | st.text(max_size=30))
    def check(line: str) -> None:
        with pytest.raises(ValueError):  # noqa: PT011 (whatever it says of the text)
            read(line)

    check()
    read(json.dumps(figures()))
