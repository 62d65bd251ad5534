"""The program that measures: on this computer, with real frameworks, and with faults."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.support.measuring import PROGRAM, SETTINGS, answer, run


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, PROGRAM / f"{name}.py")
    assert spec
    assert spec.loader
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_a_figure_that_hangs_is_ended(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    hangs = f"import os, time; open({str(begun)!r}, 'w').write(str(os.getpid())); time.sleep(1000)"
    measure = module("measure")
    measure.FIGURE = str(tmp_path / "figure.py")
    Path(measure.FIGURE).write_text(hangs)
    found = measure.run_figure({"what": "copy"}, 2.0)
    assert found == {"failure": "it took longer than 2 s and was killed"}
    assert not Path("/proc", begun.read_text()).exists()


def test_the_end_of_the_program_ends_the_figure_that_it_has_started(tmp_path: Path) -> None:
    """Also with -9: a figure that keeps running would disturb the next work on the machine."""
    begun = tmp_path / "begun"
    program = tmp_path / "figure.py"
    waits = f"open({str(begun)!r}, 'w').write(str(os.getpid())); import time; time.sleep(1000)"
    text = (PROGRAM / "figure.py").read_text()
    program.write_text(text.replace("    main(json.loads(sys.argv[1]))", f"    {waits}"))
    (tmp_path / "measure.py").write_text((PROGRAM / "measure.py").read_text())
    task = json.dumps(SETTINGS)
    running = subprocess.Popen([sys.executable, str(tmp_path / "measure.py"), task])
    assert soon(begun.exists)
    assert soon(lambda: begun.read_text())
    running.kill()
    running.wait()
    assert soon(lambda: not Path("/proc", begun.read_text()).exists())


def soon(holds: Callable[[], Any]) -> bool:
    """Tell if it holds within ten seconds."""
    for _ in range(200):
        if holds():
            return True
        time.sleep(0.05)
    return False


def test_a_missing_framework_is_reported() -> None:
    told = answer(run(Path(sys.executable), "measure.py", SETTINGS))
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
    tasks = list(measure.tasks(machine))
    assert [task["devices"] for task in tasks if task["what"] == "train"] == counts
    assert [w.get("precision") for w in tasks if w["what"] == "multiply"] == ["fp32", "fp16"]
    assert {"to-device", "from-device"} < {task["what"] for task in tasks}
    assert {task["device"] for task in tasks} == {0}


def test_runs_are_timed_after_a_warm_up_and_last_long_enough() -> None:
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


def test_slow_work_runs_five_times_if_the_time_allows() -> None:
    pace = {"warm_s": 1.0, "run_s": 0.25, "runs": 15, "most_s": 10}
    found = module("figure").time_runs(lambda times: times * 4.0, pace)
    assert found == {"seconds": [4.0] * 5, "times": 1}


def test_work_that_takes_no_time_has_no_speed() -> None:
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
def test_clocks_and_the_reasons_for_throttling_are_recorded(
    version: str, unknown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(SMI.format(version=version, unknown=unknown))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    measure = module("measure")
    assert measure.read_gpus()["0"] == {
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
