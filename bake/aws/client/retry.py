"""Asking AWS again: for what passes by itself, beyond what boto does about it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TypeVar

from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from bake.aws.client.errors import PASSING
from bake.aws.client.wait import Clock
from bake.errors import CloudError

T = TypeVar("T")

# A minute and a half. boto's own repetitions of a request that met a fault or a cut connection are
# over in a fraction of a second (SDKs and Tools Reference Guide, "Retry behavior").
TRIES = 8


def patiently(
    ask: Callable[[], T],
    clock: Clock,
    *,
    codes: Collection[str] = frozenset(PASSING),
    tries: int = TRIES,
) -> T:
    """What `ask` gives; asked again where AWS says one of `codes`, after ever longer pauses.

    Only for what may be asked twice: it has a token of its own, or knows its own work when it
    meets it.
    """
    again = Retrying(
        retry=retry_if_exception(lambda e: isinstance(e, CloudError) and e.code in codes),
        stop=stop_after_attempt(tries),
        wait=wait_exponential_jitter(initial=1, max=20),
        sleep=clock.sleep,
        reraise=True,
    )
    return again(ask)
