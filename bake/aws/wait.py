"""Waiting for a state, by the clock and not by a number of tries."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from bake.errors import CloudError

T = TypeVar("T")

MINUTE = 60.0
HOUR = 60 * MINUTE


@dataclass(frozen=True)
class Clock:
    """The passing of time; tests put their own in its place."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def poll(
    probe: Callable[[], T | None], *, timeout_s: float, clock: Clock, longest_pause_s: float = 15
) -> T | None:
    """Ask `probe` until it answers something other than None; None after `timeout_s`.

    The pauses grow from half a second: a cloud on this computer is not waited for, and AWS is not
    hammered. A state that cannot become good is for `probe` to raise, with AWS's own reason.
    """
    deadline = clock.now() + timeout_s
    pause = 0.5
    while (answer := probe()) is None:
        left = deadline - clock.now()
        if left <= 0:
            return None
        clock.sleep(min(pause, longest_pause_s, left))
        pause *= 1.2
    return answer


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
        raise failure(f"{what}, and that has not ended after {duration(timeout_s)}", hint=hint)
    return answer


def duration(seconds: float) -> str:
    if seconds < 2 * MINUTE:
        return f"{seconds:.0f} s"
    return f"{seconds / MINUTE:.0f} min" if seconds < 2 * HOUR else f"{seconds / HOUR:.0f} h"
