"""The result of one bake: the image, what was proved on it, the time and the cost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bake.cli.views.bakes import show_outcome
from bake.console.console import Console
from bake.pipeline.bake import Outcome
from tests.support.bakes import CHECKS, record
from tests.support.finished_images import IMAGE


def result(
    capsys: pytest.CaptureFixture[str], verified: str, *, payload: str = "upstream", **more: object
) -> dict[str, str]:
    tags = IMAGE.tags | {"bake:verified": verified, "bake:payload": payload}
    outcome = Outcome("one", "baked", 1426.0, image=replace(IMAGE, tags=tags), **more)  # type: ignore[arg-type]
    show_outcome(Console(), outcome, Path("builds"), "invoke launch-from-ami --local")
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if line]
    return dict(lines)


def test_a_bake_without_a_gpu_says_what_was_not_tested(capsys: pytest.CaptureFixture[str]) -> None:
    shown = result(capsys, "cpu", record=record(checks=CHECKS, verified="cpu"))
    assert shown["Proved"] == (
        "on a CPU only: 2 checks passed, 1 skipped. Nothing that needs a GPU was tested"
    )
    known = result(capsys, "cpu", payload="stand-in")
    assert known["Proved"] == "on a CPU only, with stand-ins. Nothing that needs a GPU was tested"


def test_a_bake_with_a_gpu_says_how_much_was_tested(capsys: pytest.CaptureFixture[str]) -> None:
    passed = [check for check in CHECKS if check.outcome == "passed"]
    shown = result(capsys, "gpu", record=record(checks=passed))
    assert shown["Proved"] == "on a GPU: 2 checks passed"
    shown = result(capsys, "gpu", record=record(checks=passed[:1]))
    assert shown["Proved"] == "on a GPU: 1 check passed"


def test_a_bake_says_what_it_took_and_what_it_cost(capsys: pytest.CaptureFixture[str]) -> None:
    shown = result(capsys, "gpu", record=record())
    assert (shown["Took"], shown["Cost"]) == ("23 min 46 s", "$0.13")
    assert shown["Launch"].endswith(f"--ami {IMAGE.image_id}")
    assert "Took" not in result(capsys, "gpu"), "nothing was baked"
    machines = [m.model_copy(update={"usd_per_hour": None}) for m in record().machines]
    assert "Cost" not in result(capsys, "gpu", record=record(machines=machines))
