"""The timeline records when each step began and ended, and which ran at the same time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest

from bake.record import Timeline
from bake.threads import Cancelled

BEGAN = datetime(2026, 11, 21, 4, tzinfo=UTC)


@pytest.fixture
def timeline() -> Timeline:
    """A timeline whose clock advances by one second at each reading."""
    seconds: Iterator[int] = iter(range(10_000))
    lock = threading.Lock()

    def now() -> datetime:
        with lock:
            return BEGAN + timedelta(seconds=next(seconds))

    return Timeline(now)


def test_a_wave_begins_when_no_stage_runs(timeline: Timeline) -> None:
    with timeline.step("stage", "base"):
        pass
    with timeline.step("checkpoint", "Checkpoint") as noted:
        noted("snap-1")
    with ExitStack() as stack:
        drivers = stack.enter_context(ExitStack())
        drivers.enter_context(timeline.step("stage", "drivers"))
        stack.enter_context(timeline.step("stage", "conda"))
        drivers.close()
        stack.enter_context(timeline.step("stage", "cuda"))
    with timeline.step("stage", "seal"):
        pass
    assert [(step.name, step.wave, step.detail) for step in timeline.steps] == [
        ("base", 1, ""),
        ("Checkpoint", None, "snap-1"),
        ("drivers", 2, ""),
        ("conda", 2, ""),
        ("cuda", 2, ""),
        ("seal", 3, ""),
    ]
    assert timeline.steps[0].began_at == BEGAN
    assert timeline.steps[0].seconds == 1


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(ValueError(), "failed"), (Cancelled(), "stopped"), (KeyboardInterrupt(), "stopped")],
)
def test_the_outcome_of_a_step_is_recorded(
    timeline: Timeline, error: BaseException, outcome: str
) -> None:
    with pytest.raises(type(error)), timeline.step("stage", "mxnet"):
        raise error
    (step,) = timeline.steps
    assert step.outcome == outcome
    # The failed stage no longer runs, so the next stage begins a new wave.
    with timeline.step("stage", "mxnet"):
        pass
    assert [step.wave for step in timeline.steps] == [1, 2]


def test_a_step_belongs_to_the_machine_that_was_started_last(timeline: Timeline) -> None:
    for instance_id in ("i-1", "i-2"):
        with timeline.step("start", "Builder"):
            timeline.machine_began(
                instance_id=instance_id,
                instance_type="g4dn.xlarge",
                zone="us-east-1a",
                market="spot",
                checkpoint="snap-1" if instance_id == "i-2" else None,
                usd_per_hour=0.16,
            )
        with timeline.step("stage", "base"):
            pass
        timeline.machine_ended()
    assert [(step.name, step.machine) for step in timeline.steps] == [
        ("Builder", 1),
        ("base", 1),
        ("Builder", 2),
        ("base", 2),
    ]
    first, second = timeline.machines
    assert (first.instance_id, second.checkpoint) == ("i-1", "snap-1")
    assert first.ended_at is not None
    assert first.ended_at < second.began_at


def test_the_end_of_a_machine_that_never_began_is_ignored(timeline: Timeline) -> None:
    timeline.machine_ended()
    assert timeline.machines == ()
