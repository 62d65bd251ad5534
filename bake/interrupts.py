"""INT, TERM and HUP become one KeyboardInterrupt; a second one does not break the cleaning up."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def one_interrupt(on_repeat: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """Within this context the first signal raises KeyboardInterrupt, later ones are only answered.

    What the first one started is the removal of everything that costs money: it must finish.
    """
    interrupted = False

    def interrupt(number: int, _frame: FrameType | None) -> None:
        nonlocal interrupted
        if interrupted:
            on_repeat("Still cleaning up; nothing is left running when this ends.")
            return
        interrupted = True
        raise KeyboardInterrupt(signal.Signals(number).name)

    before = {number: signal.signal(number, interrupt) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
