"""Durations as ranges, and how long stages take together. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from bake.console.format import duration_about, duration_range
from bake.plan.plan import Stage


@dataclass(frozen=True)
class Span:
    """The shortest, the likely and the longest duration of something, in seconds."""

    low: float
    likely: float
    high: float

    def __str__(self) -> str:
        return duration_range(self.low, self.high)


def expected_time(span: Span) -> str:
    """Return the likely time and, if it says more, the range: `about 17 min (13 to 27 min)`."""
    likely = duration_about(span.likely)
    return f"about {likely}" + ("" if str(span) == likely else f" ({span})")


@dataclass(frozen=True)
class Work:
    """Stages that run at the same time if they can, and other steps, one after the other.

    `others` are the names of the other steps. A checkpoint is due after a stage in `saved_after`
    (None: after any). It is taken when all running stages have ended; none starts before it. The
    others wait for the stages in `first`.
    """

    stages: tuple[Stage, ...]
    others: tuple[str, ...]
    running: frozenset[str] = frozenset()
    saved_after: tuple[str, ...] | None = None
    first: frozenset[str] = frozenset()

    def seconds(self, each: Mapping[str, float]) -> float:
        """Return the seconds until everything has ended. `each` maps each step to its seconds."""
        return sum(each[name] for name in self.others) + _until_stages_ended(self, each)

    def span(self, each: Mapping[str, Span]) -> Span:
        """Return the time until everything has ended. `each` maps each step to its time.

        One step may take longer while another one is quick, so the range is narrower than the sum
        of all extremes: the deviations are added like those of independent measurements.
        """
        likely = {name: span.likely for name, span in each.items()}
        middle = self.seconds(likely)

        def end_of_range(extremes: Mapping[str, float]) -> tuple[float, float]:
            deviations = (self.seconds({**likely, name: extremes[name]}) - middle for name in each)
            return self.seconds(extremes), math.hypot(*deviations)

        shortest, less = end_of_range({name: span.low for name, span in each.items()})
        longest, more = end_of_range({name: span.high for name, span in each.items()})
        return Span(max(shortest, middle - less), middle, min(longest, middle + more))


def _until_stages_ended(work: Work, seconds: Mapping[str, float]) -> float:
    """Return the seconds until the last stage ends; a stage that may reboot runs alone."""
    names = {stage.name for stage in work.stages}
    alone = {stage.name for stage in work.stages if stage.may_reboot}
    ends = {name: seconds[name] for name in names & work.running}
    waiting = [stage for stage in work.stages if stage.name not in ends]
    done, now, due = set[str](), 0.0, False
    while waiting or ends:
        if not due and not alone.intersection(ends):
            ready = [stage for stage in waiting if done >= names.intersection(stage.needs)]
            if before := (work.first & names) - done:
                ready = [stage for stage in ready if stage.name in before]
            reboots = [stage for stage in ready if stage.may_reboot and not ends][:1]
            for stage in reboots or [stage for stage in ready if not stage.may_reboot]:
                ends[stage.name] = now + seconds[stage.name]
                waiting.remove(stage)
        now = min(ends.values())
        ended = {name for name, end in ends.items() if end <= now}
        done |= ended
        ends = {name: end for name, end in ends.items() if name not in ended}
        saves = work.saved_after is None or not ended.isdisjoint(work.saved_after)
        due = bool(ends) and (due or saves)
    return now
