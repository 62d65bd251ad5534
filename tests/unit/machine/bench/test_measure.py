"""The program that measures: on this computer, with real frameworks, and with faults in it."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bake.machine.bench.figures import Figure
from bake.machine.bench.judge import Judge
from tests.support.environment import REPOSITORY
from tests.unit.verify.test_tensors import environment

PROGRAM = REPOSITORY / "bake" / "machine" / "bench" / "on_machine"
PACE = {"warm_s": 0.02, "run_s": 0.01, "runs": 5, "most_s": 1.0}
WISH = {
    "limit_s": 120,
    "pace": PACE,
    "gpu": {"largest": 1024, "most_mib": 16},
    "cpu": {"largest": 1024, "most_mib": 16},
}


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, PROGRAM / f"{name}.py")
    assert spec
    assert spec.loader
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.fixture(scope="session")
def mxnet() -> Path:
    if sys.version_info >= (3, 12):
        pytest.skip("MXNet 1.x needs numpy 1.23, which Python 3.12 does not have")
    return environment("mxnet-1.9.1", "mxnet==1.9.1", "numpy==1.23.5") / "bin/python"


def run(python: Path, program: str, wish: dict[str, Any], fault: str = "", tmp: Any = None) -> str:
    """What it prints; `fault` is Python that each of its processes runs before anything else."""
    given = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    if fault:
        (tmp / "sitecustomize.py").write_text(fault)
        given["PYTHONPATH"] = str(tmp)
    done = subprocess.run(
        [str(python), str(PROGRAM / program), json.dumps(wish)],
        capture_output=True,
        text=True,
        env=given,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def answer(output: str) -> Judge:
    made = Judge()
    for line in output.splitlines():
        made.take(line)
    return made


def figure(python: Path, fault: str = "", tmp: Any = None, **wish: Any) -> Figure:
    """One figure, and what is made of it."""
    wish = {"device": None, "pace": PACE, **WISH["cpu"], **wish}  # type: ignore[dict-item]
    said = json.loads(run(python, "figure.py", wish, fault, tmp).splitlines()[-1])
    told = {key: wish[key] for key in ("what", "precision", "device", "devices") if key in wish}
    found = Judge().take(json.dumps({"line": "figure", **told, **said}))
    assert found is not None
    return found


# ---- real figures ----


@pytest.mark.soak
def test_mxnet_is_measured_on_the_cpu_figure_by_figure(mxnet: Path) -> None:
    told = answer(run(mxnet, "measure.py", WISH))
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
    told = answer(run(python, "measure.py", WISH))
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
    assert "the result is wrong: off by" in (found.failure or "")


def test_what_crashes_is_reported_and_the_rest_stands(mxnet: Path, tmp_path: Path) -> None:
    code = """
import os
words = open('/proc/self/cmdline').read()
if '"multiply"' in words: os.kill(os.getpid(), 11)
if '"add"' in words: os.kill(os.getpid(), 9)
"""
    told = answer(run(mxnet, "measure.py", WISH, code, tmp_path))
    assert told.ended
    by_name = {figure.name: figure.failure for figure in told.figures}
    assert by_name == {
        "matrix product fp32": "it was ended by SIGSEGV",
        "memory, copied": None,
        "memory, added": "it was ended by SIGKILL, as the kernel does when memory runs out",
        "training": None,
    }


def test_memory_that_runs_out_is_the_reason(mxnet: Path, tmp_path: Path) -> None:
    code = "import resource; resource.setrlimit(resource.RLIMIT_AS, (3 << 29, 3 << 29))"
    found = figure(mxnet, code, tmp_path, what="add", most_mib=1024)
    assert re.search("(?i)memory|alloc", found.failure or "")


def test_what_hangs_is_ended(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    hangs = f"import os, time; open({str(begun)!r}, 'w').write(str(os.getpid())); time.sleep(1000)"
    measure = module("measure")
    measure.FIGURE = str(tmp_path / "figure.py")
    Path(measure.FIGURE).write_text(hangs)
    found = measure.take({"what": "copy"}, 2.0)
    assert found == {"failure": "it took longer than 2 s, and was ended"}
    assert not Path("/proc", begun.read_text()).exists()


def test_whoever_ends_the_program_ends_what_it_has_started(tmp_path: Path) -> None:
    """Also with -9: a figure that goes on would disturb whatever comes next on the machine."""
    begun = tmp_path / "begun"
    program = tmp_path / "figure.py"
    waits = f"open({str(begun)!r}, 'w').write(str(os.getpid())); import time; time.sleep(1000)"
    text = (PROGRAM / "figure.py").read_text()
    program.write_text(text.replace("    main(json.loads(sys.argv[1]))", f"    {waits}"))
    (tmp_path / "measure.py").write_text((PROGRAM / "measure.py").read_text())
    wish = json.dumps(WISH)
    running = subprocess.Popen([sys.executable, str(tmp_path / "measure.py"), wish])
    assert soon(begun.exists)
    assert soon(lambda: begun.read_text())
    running.kill()
    running.wait()
    assert soon(lambda: not Path("/proc", begun.read_text()).exists())


def soon(holds: Callable[[], Any]) -> bool:
    """Within ten seconds."""
    for _ in range(200):
        if holds():
            return True
        time.sleep(0.05)
    return False


def test_without_a_framework_it_says_so() -> None:
    told = answer(run(Path(sys.executable), "measure.py", WISH))
    assert told.ended
    assert told.figures == []
    assert f"neither mxnet nor torch is installed for {sys.executable}" in (
        told.machine.failure or ""
    )


# ---- what is measured on which machine ----


@pytest.mark.parametrize(
    ("gpus", "counts"),
    [(1, [1]), (2, [1, 2]), (4, [1, 2, 4]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])],
)
def test_training_is_measured_on_one_to_all_gpus(gpus: int, counts: list[int]) -> None:
    measure = module("measure")
    machine = {"gpus": [{"index": index} for index in range(gpus)], "precisions": ["fp32", "fp16"]}
    wishes = list(measure.wishes(machine))
    assert [wish["devices"] for wish in wishes if wish["what"] == "train"] == counts
    assert [w.get("precision") for w in wishes if w["what"] == "multiply"] == ["fp32", "fp16"]
    assert {"to-device", "from-device"} < {wish["what"] for wish in wishes}
    assert {wish["device"] for wish in wishes} == {0}


def test_time_is_taken_in_runs_that_are_long_enough_after_a_warm_up() -> None:
    time_runs: Callable[..., Any] = module("figure").time_runs
    asked: list[int] = []

    def seconds(times: int) -> float:
        asked.append(times)
        return times * 1e-4 + (1.0 if len(asked) == 1 else 0.0)  # the first one compiles

    pace = {"warm_s": 2.0, "run_s": 0.1, "runs": 9, "most_s": 60}
    found = time_runs(seconds, pace)
    assert len(found["seconds"]) == 9
    assert found["seconds"] == pytest.approx([1e-4] * 9)
    assert found["times"] * 1e-4 >= 0.05
    warm = sum(times * 1e-4 for times in asked[1:-9])
    assert warm + 1.0 >= 2.0 - 0.1


def test_slow_work_is_run_five_times_and_no_more_than_the_time_allows() -> None:
    pace = {"warm_s": 1.0, "run_s": 0.25, "runs": 15, "most_s": 10}
    found = module("figure").time_runs(lambda times: times * 4.0, pace)
    assert found == {"seconds": [4.0] * 5, "times": 1}


def test_work_that_takes_no_time_is_no_speed() -> None:
    pace = {"warm_s": 1.0, "run_s": 0.25, "runs": 15, "most_s": 10}
    with pytest.raises(ValueError, match="it takes no time"):
        module("figure").time_runs(lambda times: 0.0, pace)


SMI = """#!/bin/bash
# Stands for a driver of version {version}.
case "$*" in
*{unknown}*) echo "Field is not a valid field to query." ; exit 2 ;;
*loop-ms*) while :; do
    echo "0, 1500, 60, 69.5, 0x0000000000000004"
    echo "1, 300, 30, [N/A], 0x0000000000000001"
    sleep 0.05
  done ;;
*clocks.sm*) echo "0, 1500, 60, 69.5, 0x4" ;;
*) echo "0, A GPU, {version}, 15360, 70.00, [N/A], 5001, 35" ;;
esac
"""


@pytest.mark.parametrize(
    ("version", "unknown"), [("470.82", "event_reasons"), ("580.65", "throttle_reasons")]
)
def test_clocks_and_what_holds_them_down_are_watched(
    version: str, unknown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(SMI.format(version=version, unknown=unknown))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    measure = module("measure")
    assert measure.graphics()["0"] == {
        "name": "A GPU",
        "driver": version,
        "memory_mib": 15360.0,
        "power_limit_watts": 70.0,
        "max_sm_mhz": None,
        "max_memory_mhz": 5001.0,
        "busy_percent": 35.0,
    }
    watch = measure.Watch()
    try:
        assert soon(lambda: len(watch.rows) >= 6)
    finally:
        watch.end()
    seen = watch.since(0, {"0"})
    assert seen["looks"] >= 2
    assert seen["reasons"] == {"0x4": seen["looks"]}
    assert (seen["sm_mhz"], seen["degrees"], seen["watts"]) == (1500, 60, 69.5)
    assert watch.since(0, {"1"})["watts"] is None
    assert watch.since(len(watch.rows), {"0"}) is None


@pytest.mark.parametrize("program", sorted(PROGRAM.glob("*.py")), ids=lambda path: path.name)
def test_the_programs_are_python_3_6(program: Path) -> None:
    ast.parse(program.read_text(), feature_version=(3, 6))
