"""Retries of calls to AWS, on top of those that boto makes itself."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TypeVar

from tenacity import (
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    wait_exponential_jitter,
    wait_fixed,
)

from bake.aws.client.errors import TRANSIENT
from bake.aws.client.wait import Clock
from bake.errors import CloudError

T = TypeVar("T")

# About a minute and a half. boto's own retries of a failed or broken request end within a
# fraction of a second (SDKs and Tools Reference Guide, "Retry behavior").
ATTEMPTS = 8


def retry(
    call: Callable[[], T],
    clock: Clock,
    *,
    codes: Collection[str] = frozenset(TRANSIENT),
    attempts: int = ATTEMPTS,
    pause_s: float | None = None,
) -> T:
    """Return the result of `call`; repeat it while it raises a CloudError with one of `codes`.

    The pauses are `pause_s`, or grow from 1 s to 20 s when that is None. The last error is raised.
    Use it only for calls that may safely be repeated: calls with a ClientToken, and calls that
    recognize a resource that an earlier attempt has created.
    """
    wait = wait_exponential_jitter(initial=1, max=20) if pause_s is None else wait_fixed(pause_s)
    retrying = Retrying(
        retry=retry_if_exception(lambda e: isinstance(e, CloudError) and e.code in codes),
        stop=stop_after_attempt(attempts),
        wait=wait,
        sleep=clock.sleep,
        reraise=True,
    )
    return retrying(call)
