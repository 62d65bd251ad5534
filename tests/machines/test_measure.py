"""The measuring program with real frameworks on this computer."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.support.frameworks import environment
from tests.support.measuring import SETTINGS, answer, figure, run


@pytest.fixture(scope="session")
def mxnet() -> Path:
    if sys.version_info >= (3, 12):
        pytest.skip("MXNet 1.x needs numpy 1.23, which Python 3.12 does not have")
    return environment("mxnet-1.9.1", "mxnet==1.9.1", "numpy==1.23.5") / "bin/python"


# ---- real figures ----


@pytest.mark.soak
def test_mxnet_is_measured_on_the_cpu_figure_by_figure(mxnet: Path) -> None:
    told = answer(run(mxnet, "measure.py", SETTINGS))
    assert told.ended
    assert (told.machine.framework, told.machine.version) == ("mxnet", "1.9.1")
    assert told.machine.gpus == ()
    assert [(f.name, f.failure, f.device) for f in told.figures] == [
        ("matrix product fp32", None, "cpu"),
        ("memory, copied", None, "cpu"),
        ("memory, added", None, "cpu"),
        ("training", None, "cpu"),
    ]
    for each in told.figures:
        assert 0 < (each.low or 0) <= (each.value or 0) <= (each.high or 0)
        assert len(each.runs) == 5
    # No computer multiplies 1000 times slower than this, nor does a CPU do so faster.
    assert 1e8 < (told.figures[0].value or 0) < 1e14


def test_mxnet_trains_on_several_devices_at_once(mxnet: Path) -> None:
    found = figure(mxnet, what="train", devices=2, batch=2)
    assert found.failure is None
    assert (found.devices, found.size) == (2, "2 images a device")


@pytest.mark.soak
def test_pytorch_is_measured_on_the_cpu_and_in_several_processes() -> None:
    python = environment("torch-2.13.0", "torch==2.13.0", "numpy") / "bin/python"
    told = answer(run(python, "measure.py", SETTINGS))
    assert told.ended
    assert told.machine.framework == "torch"
    assert [(f.name, f.failure) for f in told.figures] == [
        ("matrix product fp32", None),
        ("matrix product bf16", None),
        ("memory, copied", None),
        ("memory, added", None),
        ("training", None),
    ]
    together = figure(python, what="train", devices=2, batch=4)
    assert (together.failure, together.devices) == (None, 2)


@pytest.mark.soak
def test_one_process_of_several_that_dies_fails_the_figure_with_its_reason(tmp_path: Path) -> None:
    python = environment("torch-2.13.0", "torch==2.13.0", "numpy") / "bin/python"
    fault = """
import os
if '"rank": 1' in open('/proc/self/cmdline').read(): os.kill(os.getpid(), 11)
"""
    found = figure(python, fault, tmp_path, what="train", devices=2, batch=4)
    assert found.failure == "RuntimeError: GPU 1: it ended with -11"


# ---- what goes wrong ----


WRONG = {
    "one row": "out[-1] = 0",
    "all of it": "out *= 1.01",
    "a NaN": "out[-1] = float('nan')",
    "less than fp32": "out[:] = out.astype('float16').astype('float32')",
}


@pytest.mark.parametrize("fault", WRONG.values(), ids=WRONG)
def test_a_product_that_is_wrong_has_no_speed(mxnet: Path, fault: str, tmp_path: Path) -> None:
    code = f"""
import mxnet
right = mxnet.nd.dot
def wrong(a, b, out):
    right(a, b, out=out)
    {fault}
mxnet.nd.dot = wrong
"""
    found = figure(mxnet, code, tmp_path, what="multiply", precision="fp32")
    assert found.value is None
    assert "the result is wrong: relative error" in (found.failure or "")


def test_what_crashes_is_reported_and_the_rest_stands(mxnet: Path, tmp_path: Path) -> None:
    code = """
import os
words = open('/proc/self/cmdline').read()
if '"multiply"' in words: os.kill(os.getpid(), 11)
if '"add"' in words: os.kill(os.getpid(), 9)
"""
    told = answer(run(mxnet, "measure.py", SETTINGS, code, tmp_path))
    assert told.ended
    by_name = {figure.name: figure.failure for figure in told.figures}
    assert by_name == {
        "matrix product fp32": "it was ended by SIGSEGV",
        "memory, copied": None,
        "memory, added": "it was ended by SIGKILL, which the kernel sends when memory runs out",
        "training": None,
    }


def test_memory_that_runs_out_is_the_reason(mxnet: Path, tmp_path: Path) -> None:
    code = "import resource; resource.setrlimit(resource.RLIMIT_AS, (3 << 29, 3 << 29))"
    found = figure(mxnet, code, tmp_path, what="add", most_mib=1024)
    assert re.search("(?i)memory|alloc", found.failure or "")
