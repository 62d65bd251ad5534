"""Results that are wrong, missing or computed on the wrong device never pass."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bake.verify.check import Failed
from bake.verify.tensors import judge, read
from tests.support.environment import REPOSITORY
from tests.support.tensor_reports import figures

PROGRAMS = sorted((REPOSITORY / "bake" / "verify" / "on_machine").glob("*.py"))


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.name)
def test_the_programs_are_python_3_6(program: Path) -> None:
    ast.parse(program.read_text(), feature_version=(3, 6))


def verdict(report: dict[str, Any], gpus: int = 1) -> str:
    return judge(read(json.dumps(report)), gpus=gpus)


@pytest.mark.parametrize("gpus", [1, 8])
def test_right_results_on_every_gpu_pass(gpus: int) -> None:
    assert verdict(figures(gpus), gpus).startswith("right on ")


def test_the_rounding_errors_of_tensor_cores_pass() -> None:
    report = figures()
    for result in report["devices"][0]["results"][1:]:
        result.update(error=3e-4, worst=1.6e-3)
    assert verdict(report).startswith("right on GPU 0, largest relative error 3.0e-04")


@pytest.mark.parametrize("field", ["error", "worst"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -1e-7, 0.0, 0.5])
@pytest.mark.parametrize("device", [0, 3])
def test_one_wrong_result_on_one_gpu_fails(field: str, value: float, device: int) -> None:
    report = figures(4)
    report["devices"][device]["results"][2][field] = value
    with pytest.raises(Failed, match=f"GPU {device} computes wrong results: product 1000×777×129"):
        verdict(report, 4)


Change = Callable[[dict[str, Any]], Any]
INCOMPLETE: dict[str, tuple[Change, str]] = {
    "a GPU left out": (lambda r: r["devices"].pop(), "left out a device"),
    "a GPU twice": (lambda r: r["devices"][1].update(index=0), "left out a device, or tested one"),
    "no device": (lambda r: r["devices"].clear(), "left out a device"),
    "an operation left out": (
        lambda r: r["devices"][0]["results"].pop(),
        "operation was computed on GPU 0",
    ),
    "nothing computed": (
        lambda r: r["devices"][1]["results"].clear(),
        "operation was computed on GPU 1",
    ),
    "a small product": (
        lambda r: r["devices"][0]["results"][1].update(shape=(2, 2, 2)),
        "operation was computed on GPU 0",
    ),
    "on the CPU": (
        lambda r: r["devices"][0]["results"][1].update(kind="cpu"),
        "product 1024×1024×1024 was computed on a cpu, not on GPU 0",
    ),
    "GPUs not seen": (
        lambda r: r.update(gpus=1),
        "the framework finds 1 GPUs, but the machine has 2",
    ),
    "a failure": (
        lambda r: r["devices"][1].update(failure="Error: out of memory"),
        "the computation on GPU 1 failed: .*memory is full",
    ),
    "an unknown failure": (
        lambda r: r["devices"][1].update(failure="Error: flux"),
        "the computation on GPU 1 failed: Error: flux",
    ),
    "no start": (lambda r: r.update(failure="ImportError: x"), "the framework does not start"),
}


@pytest.mark.parametrize(("change", "reason"), INCOMPLETE.values(), ids=INCOMPLETE)
def test_an_incomplete_report_fails(change: Change, reason: str) -> None:
    report = figures(2)
    change(report)
    with pytest.raises(Failed, match=reason):
        verdict(report, 2)


def test_a_verdict_of_the_program_itself_is_ignored() -> None:
    report = figures(1, error=0.7) | {"ok": True, "passed": True}
    report["devices"][0]["ok"] = True
    with pytest.raises(Failed, match="wrong results"):
        verdict(report)


def test_results_of_the_cpu_prove_nothing_about_a_gpu() -> None:
    with pytest.raises(Failed, match="finds 0 GPUs"):
        verdict(figures(0), 1)
    assert verdict(figures(0), 0).startswith("right on the CPU")


def test_faults_of_several_gpus_are_reported_at_once() -> None:
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


def test_only_the_programs_own_document_is_accepted() -> None:
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
