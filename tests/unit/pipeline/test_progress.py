"""The progress of a bake: its number of stages, and the time until its end."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from bake.pipeline.progress import Progress
from bake.plan.forecast import BUILDER, IMAGE, PROOF, REBOOT, Course, Past, course
from tests.support.plans import BASE, plan_of
from tests.support.terminal import CTRL_C, Terminal

PLAN = plan_of(BASE)
TIMES = {"base": 60.0, "drivers": 120.0, "cuda": 300.0, "conda": 60.0, "mxnet": 200.0, "seal": 10.0}
STEPS = {BUILDER: 60.0, REBOOT: 40.0, PROOF: 30.0, IMAGE: 300.0}
DIGESTS = {stage.name: stage.digest for stage in PLAN.stages}
AFTER_STAGES = 40 + 30 + 10 + 300


# Shows a bake whose second stage runs until Ctrl-C.
IN_TERMINAL = """
import time
from bake.console.console import Console
from bake.pipeline.progress import Progress
from bake.plan.forecast import course
from tests.support.plans import BASE, plan_of

progress, console = Progress(), Console()
console.note(progress.expect(course(plan_of(BASE), []), {"Builder", "base"}))
try:
    with (
        console.status(progress.describe),
        console.step("Stages"),
        progress.step("drivers"),
        console.step(
            "drivers", count=progress.count("drivers"), usual_s=progress.usual_s("drivers")
        ) as step,
    ):
        step.update("Unpacking nvidia-headless-no-dkms-470-server (470.256.02)")
        time.sleep(60)
except KeyboardInterrupt:
    console.warn("Interrupted")
"""


class Bake:
    """A bake on a clock that only moves by hand."""

    def __init__(self, known: Iterable[str] = (*TIMES, *STEPS)) -> None:
        self.now = 100.0
        self.progress = Progress(lambda: self.now)
        times = {name: value for name, value in (TIMES | STEPS).items() if name in known}
        self.course: Course = course(PLAN, [Past(PLAN.recipe.name, DIGESTS, times)])

    def left_s(self) -> float:
        """Return the seconds that the progress tells, within half a minute."""
        text = self.progress.describe()
        minutes = text.partition("About ")[2].partition(" min left")[0]
        return 60 * float(minutes)

    @contextmanager
    def running(self, *names: str) -> Iterator[None]:
        with ExitStack() as stack:
            for name in names:
                stack.enter_context(self.progress.step(name))
            yield

    def done(self, *names: str) -> None:
        with self.running(*names):
            self.now += max((TIMES | STEPS)[name] for name in names)


def test_a_stage_is_shown_with_its_place_among_all_stages() -> None:
    bake = Bake()
    assert bake.progress.count("cuda") == ""  # as long as there is no plan
    bake.progress.expect(bake.course)
    assert bake.progress.count("cuda") == "3 of 6"
    assert bake.progress.count("seal") == "6 of 6"


def test_the_start_tells_the_whole_time_its_end_and_its_source() -> None:
    bake = Bake()
    text = bake.progress.expect(bake.course)
    assert text.startswith("Expected: about 15 min (14 to 18 min), until ")
    assert text.endswith(" (from earlier bakes)")


def test_the_time_that_is_left_shrinks_with_every_second_and_every_stage() -> None:
    bake = Bake()
    assert bake.progress.describe() == ""
    bake.progress.expect(bake.course)
    assert bake.progress.describe().startswith("About 15 min left, until ")
    assert bake.progress.describe().endswith("; 0 of 6 stages done, 0.0 s so far")
    bake.done(BUILDER)
    with bake.running("base"):
        bake.now += 30
        assert bake.left_s() == pytest.approx(30 + 120 + 300 + AFTER_STAGES, abs=30)
        bake.now += 30
    bake.done("drivers", "conda")
    assert bake.progress.describe().endswith(", 4 min 00 s so far")
    assert bake.left_s() == pytest.approx(300 + AFTER_STAGES, abs=30)


def test_stages_of_the_start_point_are_done() -> None:
    bake = Bake()
    bake.progress.expect(bake.course, {BUILDER, "base", "drivers", "conda", "cuda", "mxnet"})
    # No stage ran since the machine was started, so it is not rebooted.
    assert bake.left_s() == pytest.approx(AFTER_STAGES - 40, abs=30)
    assert bake.progress.describe().partition("; ")[2].startswith("5 of 6 stages done")


def test_a_stage_that_takes_longer_than_expected_is_said() -> None:
    bake = Bake()
    bake.progress.expect(bake.course, {*TIMES, *STEPS} - {IMAGE})
    with bake.running(IMAGE):
        bake.now += 299
        assert "left" in bake.progress.describe()
        bake.now += 2
        assert bake.progress.describe() == (
            "Longer than expected; 6 of 6 stages done, 5 min 01 s so far"
        )
    assert bake.progress.describe() == ""


def test_a_step_that_fails_is_not_done_and_another_machine_begins_again() -> None:
    bake = Bake()
    bake.progress.expect(bake.course)
    bake.done(BUILDER, "base")
    with pytest.raises(ConnectionError), bake.running("drivers"):
        raise ConnectionError
    assert bake.progress.describe().partition("; ")[2].startswith("1 of 6 stages done")
    bake.progress.expect(bake.course)
    assert bake.progress.describe().partition("; ")[2].startswith("0 of 6 stages done")


def test_a_guess_is_not_shown_as_the_usual_time_of_a_stage() -> None:
    bake = Bake()
    assert bake.progress.usual_s("cuda") is None
    bake.progress.expect(course(plan_of(BASE | {"own": (b"", (), {})}), []))
    assert bake.progress.usual_s("own") is None
    assert bake.progress.usual_s("cuda")


@pytest.mark.parametrize("columns", [80, 40])
def test_in_a_terminal_the_live_lines_fit_and_disappear_after_ctrl_c(columns: int) -> None:
    with Terminal(["-c", IN_TERMINAL], program=sys.executable, columns=columns) as terminal:
        terminal.wait_for(" min left, until ")
        *_, stages, drivers, status = terminal.screen
        assert re.match("[⠀-⣿] Stages", stages)
        assert re.match(r"  [⠀-⣿] drivers \(2 of 6\)  [0-9.]+ s of abou", drivers)
        assert re.match("About [0-9]+ min left, until [0-9:]{5}", status)
        terminal.type(CTRL_C)
        assert terminal.wait_until_ended() == 0
        assert terminal.broken() == []
        *_, drivers, stages, interrupted = terminal.screen
        assert (drivers[:13], stages[:8], interrupted) == (
            "  ■ drivers (",
            "■ Stages",
            "! Interrupted",
        )
