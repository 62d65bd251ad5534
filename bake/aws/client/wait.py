"""Waits for a state, limited by time and not by a number of attempts."""

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
    """A clock that can sleep; tests replace it."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = threads.pause


class _Waiting:
    """The number of threads that wait now. EC2 limits an account's requests, not a thread's."""

    UNSLOWED = 4  # the number of threads that may wait without longer pauses

    def __init__(self) -> None:
        self._count = 0
        self._lock = threading.Lock()

    @property
    def slowdown(self) -> float:
        return max(1.0, self._count / self.UNSLOWED)

    def __enter__(self) -> None:
        with self._lock:
            self._count += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._count -= 1


_WAITING = _Waiting()


def poll(probe: Callable[[], T | None], *, timeout_s: float, clock: Clock) -> T | None:
    """Call `probe` until it returns something other than None; return None after `timeout_s`.

    A pause is a twentieth of the time waited so far, up to 2 s, and later a thirtieth: short at
    first, so that a result is seen soon, and long later, so that AWS is not called too often. The
    pauses grow with the number of threads that wait in this process. `probe` has to raise an error,
    with AWS's reason, for a state from which the wanted one cannot be reached. Transient errors are
    ignored for up to 5 minutes: a short network outage must not cost an image that took an hour.
    """
    with _WAITING:
        return _poll(probe, timeout_s, clock)


def delete_when_unused(
    delete: Callable[[], object],
    *,
    in_use: str,
    not_found: str,
    what: str,
    unknown_for_s: float,
    timeout_s: float,
    clock: Clock,
) -> None:
    """Call `delete` until it succeeds, or the resource does not exist.

    `in_use` and `not_found` are the codes of these errors. For `unknown_for_s`, EC2 may not yet
    know a resource that was just created. CloudError, which starts with `what`, after `timeout_s`.
    """
    began = clock.now()

    def probe() -> bool | None:
        try:
            delete()
        except CloudError as error:
            if error.code == in_use:
                return None
            if error.code != not_found:
                raise
            # It was deleted, or it is so new that some of EC2's servers do not know it.
            return None if clock.now() - began < unknown_for_s else True
        return True

    wait_until(probe, what=what, timeout_s=timeout_s, clock=clock)


def _poll(probe: Callable[[], T | None], timeout_s: float, clock: Clock) -> T | None:
    start = last_response_at = clock.now()
    while True:
        try:
            if (result := probe()) is not None:
                return result
            last_response_at = clock.now()
            outage = None
        except CloudError as error:
            if error.code not in TRANSIENT or clock.now() - last_response_at >= _OUTAGE_S:
                raise
            outage = error
        elapsed = clock.now() - start
        if elapsed >= timeout_s:
            if outage:  # AWS did not answer, so the state is unknown
                raise outage
            return None
        brief = min(max(_SHORTEST_S, elapsed / 20) * _WAITING.slowdown, _LONG_S)
        # At least 1 ms: a smaller pause may not change a large floating-point time.
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
    """Call `probe` like `poll`, but raise `failure` after `timeout_s`.

    `what` is the start of the message, a sentence about the current state.
    """
    result = poll(probe, timeout_s=timeout_s, clock=clock)
    if result is None:
        raise failure(f"{what} after {rounded_duration(timeout_s)}", hint=hint)
    return result
