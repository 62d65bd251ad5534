"""The progress of a bake: which stages are done, and when it will probably end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from time import monotonic

from bake.console.format import duration, duration_about
from bake.plan.duration import expected_time
from bake.plan.forecast import Course, steps_not_needed


class Progress:
    """The stages and other steps of one bake that run or are done. Threads may share it.

    Until `expect` was called, it knows no number of stages and no time.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._course: Course | None = None
        self._began = 0.0
        self._done: set[str] = set()
        self._running: dict[str, float] = {}

    def expect(self, course: Course, done: Collection[str] = ()) -> str:
        """Begin, or begin again on another machine, and return how long the rest takes, in words.

        `done` are the stages that the start point holds, and other steps that have ended.
        """
        to_run = [stage.name for stage in course.plan.stages if stage.name not in done]
        with self._lock:
            if self._course is None:
                self._began = self._clock()
            self._course = course
            self._done = {*done, *steps_not_needed(course.plan, to_run)}
            left = course.left(self._done)
            source = course.based_on(self._done)
        ends = time_of_day(left.likely)
        return f"Expected: {expected_time(left)}, until {ends} (from {source})"

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """A context in which this stage or step runs; it is done if no exception ends it."""
        with self._lock:
            self._running[name] = self._clock()
        try:
            yield
            with self._lock:
                self._done.add(name)
        finally:
            with self._lock:
                del self._running[name]

    def count(self, stage: str) -> str:
        """Return the stage's place among all stages of the plan: `3 of 7`; "" without a plan."""
        names = self._stages()
        return f"{names.index(stage) + 1} of {len(names)}" if names else ""

    def usual_s(self, name: str) -> float | None:
        """Return how many seconds the stage or step usually takes; None if that is a guess."""
        course = self._course
        if course is None or course.sources[name] == "a guess":
            return None
        return course.spans[name].likely

    def describe(self) -> str:
        """Return the number of stages, the time since the start, and the expected end.

        For example `About 12 min left, until 14:52; 2 of 7 stages done, 5 min 10 s so far`. "" as
        long as nothing is known, and after the last step.
        """
        with self._lock:
            course, done, now = self._course, set(self._done), self._clock()
            running = {name: now - began for name, began in self._running.items()}
        if course is None or done >= course.spans.keys():
            return ""
        names = self._stages()
        left_s = course.left_s(done, running)
        # The most important part first: a narrow terminal cuts off the end.
        left = f"About {duration_about(left_s)} left, until {time_of_day(left_s)}"
        if left_s < 1:
            left = "Longer than expected"
        stages = f"{len(done.intersection(names))} of {len(names)} stages done"
        return f"{left}; {stages}, {duration(now - self._began)} so far"

    def _stages(self) -> list[str]:
        return [stage.name for stage in self._course.plan.stages] if self._course else []


def time_of_day(seconds: float) -> str:
    """Return the time of day, on this computer, after this number of seconds: `14:52`."""
    return f"{datetime.now().astimezone() + timedelta(seconds=seconds):%H:%M}"
