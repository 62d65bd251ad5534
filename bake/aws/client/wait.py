"""Waiting for a state, by the clock and not by a number of tries."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from bake import threads
from bake.aws.client.errors import TRANSIENT
from bake.console.format import rounded_duration
from bake.errors import CloudError

T = TypeVar("T")

MINUTE = 60.0
HOUR = 60 * MINUTE

_OUTAGE_S = 5 * MINUTE
_SHORTEST_S = 0.2
_LONG_S = 2.0


@dataclass(frozen=True)
class Clock:
    """The passing of time; tests put their own in its place."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = threads.pause


class _Waiting:
    """How many wait now; EC2's limits are on an account's requests, not on a machine's."""

    ALONE = 4  # that many need not mind each other

    def __init__(self) -> None:
        self._count = 0
        self._lock = threading.Lock()

    @property
    def crowd(self) -> float:
        return max(1.0, self._count / self.ALONE)

    def __enter__(self) -> None:
        with self._lock:
            self._count += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._count -= 1


_WAITING = _Waiting()


def poll(probe: Callable[[], T | None], *, timeout_s: float, clock: Clock) -> T | None:
    """Ask `probe` until it answers something other than None; None after `timeout_s`.

    A pause is a twentieth of the time that it has taken so far, up to two seconds, and a thirtieth
    later: short at first, so that nothing is waited for long after it is there, and AWS is not
    hammered for hours. Many that wait in one process ask in turns: their pauses grow with their
    number. A state that cannot become good is for `probe` to raise, with AWS's own reason. An
    outage is none: a network that is away for minutes must not cost an image that took an hour.
    """
    with _WAITING:
        return _poll(probe, timeout_s, clock)


def _poll(probe: Callable[[], T | None], timeout_s: float, clock: Clock) -> T | None:
    start = answered_at = clock.now()
    while True:
        try:
            if (answer := probe()) is not None:
                return answer
            answered_at = clock.now()
            unanswered = None
        except CloudError as error:
            if error.code not in TRANSIENT or clock.now() - answered_at >= _OUTAGE_S:
                raise
            unanswered = error
        elapsed = clock.now() - start
        if elapsed >= timeout_s:
            if unanswered:  # nobody has said that it is not there
                raise unanswered
            return None
        brief = min(max(_SHORTEST_S, elapsed / 20) * _WAITING.crowd, _LONG_S)
        # Never so little that a sum of seconds does not notice.
        clock.sleep(min(max(brief, elapsed / 30), max(timeout_s - elapsed, 0.001)))


def wait_until(
    probe: Callable[[], T | None],
    *,
    what: str,
    timeout_s: float,
    clock: Clock,
    failure: type[CloudError] = CloudError,
    hint: str = "",
) -> T:
    """The same for what must come: `failure` after `timeout_s`."""
    answer = poll(probe, timeout_s=timeout_s, clock=clock)
    if answer is None:
        raise failure(
            f"{what}, and that has not ended after {rounded_duration(timeout_s)}", hint=hint
        )
    return answer
