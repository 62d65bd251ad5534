"""INT, TERM and HUP become one KeyboardInterrupt, which never breaks the cleaning up."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class _State:
    """Of this process, as signals are. `waiting` is the name of one that came while held back."""

    interrupted: bool = False
    holding: int = 0
    waiting: str = ""


_state = _State()


@contextmanager
def one_interrupt(on_late: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """Within this context the first signal raises KeyboardInterrupt; `on_late` answers later ones.

    What the first one started is the removal of everything that costs money: it must finish.
    """
    global _state
    _state = _State()

    def interrupt(number: int, _frame: FrameType | None) -> None:
        if _state.interrupted or _state.holding:
            on_late("Still cleaning up; nothing is left running when this ends.")
        name = signal.Signals(number).name
        if _state.holding:
            _state.waiting = name
        elif not _state.interrupted:
            _state.interrupted = True
            raise KeyboardInterrupt(name)

    # What is ignored stays ignored: that is what `nohup` means.
    heard = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def held_back() -> Iterator[None]:
    """Within this context an interrupt waits for its end: what is removed here, is removed."""
    _state.holding += 1
    try:
        yield
    finally:
        _state.holding -= 1
        if _state.waiting and not _state.holding and not _state.interrupted:
            _state.interrupted = True
            raise KeyboardInterrupt(_state.waiting)
