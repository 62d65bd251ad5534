"""Durations as ranges, and how long stages take together. Pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from bake.console.format import duration_range
from bake.plan.plan import Stage


@dataclass(frozen=True)
class Span:
    """The shortest, the likely and the longest duration of something, in seconds."""

    low: float
    likely: float
    high: float

    def __str__(self) -> str:
        return duration_range(self.low, self.high)

    def after(self, seconds: float) -> Span:
        """Return what is left after this number of seconds."""
        return Span(*(max(each - seconds, 0.0) for each in (self.low, self.likely, self.high)))


def total(
    stages: Collection[Stage],
    left: Mapping[str, Span],
    *,
    running: Collection[str] = (),
    saved_after: Collection[str] | None,
) -> Span:
    """Return how long a bake takes until everything in `left` has ended.

    `left` maps each of the `stages`, and each other step, to the time that it still takes. The
    other steps come one after the other. One step may take longer while another one is quick, so
    the range is narrower than the sum of all extremes: the deviations are added like those of
    independent measurements.
    """

    def seconds(taken: Mapping[str, float]) -> float:
        steps = sum(taken.values()) - sum(taken[stage.name] for stage in stages)
        return steps + until_ended(stages, taken, running=running, saved_after=saved_after)

    def end_of_range(end: str) -> tuple[float, float]:
        """Return the sum of the extremes, and the probable deviation from the likely time."""
        extremes = {name: float(getattr(span, end)) for name, span in left.items()}
        deviations = (seconds(likely | {name: extremes[name]}) - middle for name in left)
        return seconds(extremes), math.hypot(*deviations)

    likely = {name: span.likely for name, span in left.items()}
    middle = seconds(likely)
    (shortest, less), (longest, more) = end_of_range("low"), end_of_range("high")
    return Span(max(shortest, middle - less), middle, min(longest, middle + more))


def until_ended(
    stages: Iterable[Stage],
    seconds: Mapping[str, float],
    *,
    running: Collection[str] = (),
    saved_after: Collection[str] | None,
) -> float:
    """Return the seconds until the last stage ends.

    Independent stages run at the same time; a stage that may reboot runs alone. After a stage in
    `saved_after` (None: after any) a checkpoint is taken: nothing starts before all others ended.
    """
    waiting = list(stages)
    names = {stage.name for stage in waiting}
    alone = {stage.name for stage in waiting if stage.may_reboot}
    ends = {name: seconds[name] for name in names.intersection(running)}
    waiting = [stage for stage in waiting if stage.name not in ends]
    done, now, due = set[str](), 0.0, False
    while waiting or ends:
        if not due and not alone.intersection(ends):
            ready = [stage for stage in waiting if done >= names.intersection(stage.needs)]
            first = [stage for stage in ready if stage.may_reboot and not ends][:1]
            for stage in first or [stage for stage in ready if not stage.may_reboot]:
                ends[stage.name] = now + seconds[stage.name]
                waiting.remove(stage)
        now = min(ends.values())
        ended = {name for name, end in ends.items() if end <= now}
        done |= ended
        ends = {name: end for name, end in ends.items() if name not in ended}
        due = bool(ends) and (due or saved_after is None or not ended.isdisjoint(saved_after))
    return now
