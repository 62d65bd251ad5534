"""How fast this computer's GPU is, by the program that measures machines, with a real framework.

    pytest -m gpu tests/gpu/test_speed_on_gpu.py -rA

Left out of every other run. `BAKE_TEST_PYTHON` names the Python with the framework (default: the
one that runs the test); no cloud, no SSH and no network is needed. The page is in `.artifacts`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bake.cli.views.bench_page import write_page
from bake.machine.bench.figures import Bench, Figure, Measured, format_quartiles, format_value
from bake.machine.bench.judge import Judge
from bake.machine.bench.measure import QUICK, THOROUGH
from tests.support.environment import REPOSITORY

PROGRAM = REPOSITORY / "bake" / "machine" / "bench" / "on_machine"
# Read before the tests' environment is scrubbed.
PYTHON = os.environ.get("BAKE_TEST_PYTHON") or sys.executable
OUT = Path(os.environ.get("OUT") or REPOSITORY / ".artifacts" / "speed").resolve()

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not shutil.which("nvidia-smi"), reason="there is no nvidia-smi here"),
]


def measured(how: dict[str, Any]) -> Measured:
    wish = json.dumps({**how, "limit_s": 600})
    done = subprocess.run(
        [PYTHON, str(PROGRAM / "measure.py"), wish], stdout=subprocess.PIPE, text=True
    )
    assert done.returncode == 0
    answer = Judge()
    for line in done.stdout.splitlines():
        if figure := answer.take(line):
            value = format_value(figure.value, figure.unit)
            print(f"{figure.name:<24} {value:>16}  {format_quartiles(figure):<16} {figure.size}")
            print(f"    off by {figure.error}, {figure.took_s:.1f} s, {figure.watched}")
            print(f"    {figure.failure}" if figure.failure else "", end="")
    assert answer.ended
    assert not answer.machine.failure, answer.machine.failure
    return Measured(
        instance_type="this computer", machine=answer.machine, figures=tuple(answer.figures)
    )


@pytest.fixture(scope="module")
def here() -> Measured:
    found = measured(THOROUGH)
    bench = Bench(
        run="gpu",
        recipe=found.machine.framework or "",
        machines=(found,),
        started_at=datetime.now(UTC),
    )
    OUT.mkdir(parents=True, exist_ok=True)
    bench.write(OUT)
    write_page(bench, OUT)
    return found


def test_every_figure_is_a_gpu_s_and_right(here: Measured) -> None:
    assert here.on_gpu
    assert [(each.name, each.failure) for each in here.figures if each.failure] == []
    assert {each.device for each in here.figures} == {"gpu"}
    counted = Counter(each.what for each in here.figures)
    assert counted["multiply"] >= 2, "fp32 and fp16 at least"
    assert {what for what in counted if what != "multiply"} == {
        *("copy", "add", "to-device", "from-device", "train")
    }
    print(here.warnings)


def test_the_driver_has_told_who_it_is(here: Measured) -> None:
    gpu = here.machine.gpus[0]
    print(gpu)
    assert here.machine.driver_sees == len(here.machine.gpus)
    assert gpu.name
    assert gpu.driver
    assert gpu.memory_mib
    looks = [each.watched for each in here.figures]
    assert all(each is not None and each.looks for each in looks), "it was looked at meanwhile"


def value(here: Measured, *which: Any) -> float:
    found: Figure | None = here.figure(*which)
    assert found is not None, which
    assert found.value is not None
    return found.value


def test_figures_stand_to_each_other_as_the_hardware_does(here: Measured) -> None:
    """A clock that is read before the device has ended shows here: that is faster than can be."""
    fp32 = value(here, "multiply", "fp32")
    assert 1e11 < fp32 < 1e15
    if (here.machine.gpus[0].capability or (0, 0)) >= (7, 0):
        assert value(here, "multiply", "fp16") > 2 * fp32, "tensor cores"
    if here.figure("multiply", "tf32"):
        assert value(here, "multiply", "tf32") > 1.5 * fp32
        assert value(here, "multiply", "fp16") > value(here, "multiply", "tf32")
    copied = value(here, "copy")
    assert 5e10 < copied < 2e13
    assert 0.6 < value(here, "add") / copied < 1.6
    # The way to the host is a bus: a tenth of the memory's speed, or less.
    for way in ("to-device", "from-device"):
        assert 1e9 < value(here, way) < copied


def test_a_second_time_is_as_fast(here: Measured) -> None:
    again = measured(QUICK)
    for figure in again.figures:
        if figure.what in ("multiply", "copy", "add") and figure.value:
            before = value(here, figure.what, figure.precision)
            print(f"{figure.name}: {figure.value / before:.3f} of the first")
            assert 0.4 < figure.value / before < 1.5


def test_memory_that_runs_out_is_a_figure_that_failed(here: Measured) -> None:
    fault = f"""
import sys
sys.path.insert(0, {str(PROGRAM)!r})
import figure
def largest(on, wish):
    return on.normal((2**20, 2**20), "fp32", on.select_device(0)).shape
figure.WHAT["multiply"] = largest
figure.main({{"what": "multiply"}})
"""
    done = subprocess.run([PYTHON, "-c", fault], stdout=subprocess.PIPE, text=True)
    reason = json.loads(done.stdout.splitlines()[-1])["failure"]
    print(reason)
    assert "memory" in reason.lower()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_wrong_product_has_no_speed(here: Measured, precision: str) -> None:
    fault = f"""
import sys
sys.path.insert(0, {str(PROGRAM)!r})
import figure
on = figure.framework()
right = on.multiply
def wrong(a, b, out):
    right(a, b, out)
    out[-1] = 0
on.multiply = wrong
figure.main({{"what": "multiply", "precision": {precision!r}, "device": 0, "largest": 2048,
             "pace": {QUICK["pace"]!r}}})
"""
    done = subprocess.run([PYTHON, "-c", fault], stdout=subprocess.PIPE, text=True)
    said = json.loads(done.stdout.splitlines()[-1])
    line = {"line": "figure", "what": "multiply", "precision": precision, "device": 0, **said}
    found = Judge().take(json.dumps(line))
    assert found is not None
    assert found.value is None
    assert "the result is wrong" in (found.failure or "")
