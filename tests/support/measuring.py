"""The program that measures, run on this computer."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from bake.machine.bench.figures import Figure
from bake.machine.bench.judge import Judge
from tests.support.environment import REPOSITORY

PROGRAM = REPOSITORY / "bake" / "machine" / "bench" / "on_machine"
PACE = {"warm_s": 0.02, "run_s": 0.01, "runs": 5, "most_s": 1.0}
SETTINGS = {
    "limit_s": 120,
    "pace": PACE,
    "gpu": {"largest": 1024, "most_mib": 16},
    "cpu": {"largest": 1024, "most_mib": 16},
}


def run(python: Path, program: str, wish: dict[str, Any], fault: str = "", tmp: Any = None) -> str:
    """Return the output of the program; each of its processes runs the code `fault` first."""
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
    """Measure one figure, and return how bake reads it."""
    wish = {"device": None, "pace": PACE, **SETTINGS["cpu"], **wish}  # type: ignore[dict-item]
    said = json.loads(run(python, "figure.py", wish, fault, tmp).splitlines()[-1])
    told = {key: wish[key] for key in ("what", "precision", "device", "devices") if key in wish}
    found = Judge().take(json.dumps({"line": "figure", **told, **said}))
    assert found is not None
    return found
