"""Stopping what runs: INT, TERM and HUP as one interrupt, and the work of other threads called off.

The main thread is interrupted wherever it is. A thread of a task group is called off where it waits
(`pause`, `check`), never between a call to the cloud and its answer. Cleaning up (`held_back`) is
neither interrupted nor called off.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Cancelled(BaseException):
    """This thread's work was called off; what it has started is removed on the way out."""


class Scope:
    """What can be called off together: the threads that work in it, and the scopes below it."""

    def __init__(self, parent: Scope | None = None) -> None:
        self._cancelled = threading.Event()
        self._below: list[Scope] = []
        self._above = parent
        if parent is not None:
            parent._below.append(self)
            if parent.cancelled:
                self.cancel()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def cancel(self) -> None:
        self._cancelled.set()
        for scope in list(self._below):
            scope.cancel()

    def forget(self) -> None:
        """Nobody works in it any more."""
        if self._above is not None:
            self._above._below.remove(self)

    def wait(self, seconds: float) -> bool:
        """Wait that long, or until it is called off; whether it is."""
        return self._cancelled.wait(seconds)


class _Here(threading.local):
    """Of one thread."""

    scope: Scope | None = None
    holding: int = 0


@dataclass
class _State:
    """Of the main thread, where signals arrive. `waiting` names one that came while held back."""

    interrupted: bool = False
    waiting: str = ""


_here = _Here()
_state = _State()


def scope() -> Scope | None:
    """The one in which this thread works; None outside of task groups, and while cleaning up."""
    return None if _here.holding else _here.scope


def enter(scope: Scope) -> None:
    """From here on, this thread works in that scope."""
    _here.scope = scope


def check() -> None:
    """Cancelled if this thread's work was called off, unless it is cleaning up."""
    if _here.scope is not None and _here.scope.cancelled and not _here.holding:
        raise Cancelled


def pause(seconds: float) -> None:
    """Sleep; Cancelled as soon as this thread's work is called off, unless it is cleaning up."""
    if _here.scope is None or _here.holding:
        time.sleep(seconds)
    else:
        _here.scope.wait(seconds)
        check()


@contextmanager
def one_interrupt(on_late: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """Within this context the first signal raises KeyboardInterrupt; `on_late` answers later ones.

    What the first one started is the removal of everything that costs money: it must finish.
    """
    global _state
    _state = _State()

    def interrupt(number: int, _frame: FrameType | None) -> None:
        if _state.interrupted or _here.holding:
            on_late("Still cleaning up; nothing is left running when this ends.")
        name = signal.Signals(number).name
        if _here.holding:
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
    _here.holding += 1
    try:
        yield
    finally:
        _here.holding -= 1
        main = threading.current_thread() is threading.main_thread()
        if main and _state.waiting and not _here.holding and not _state.interrupted:
            _state.interrupted = True
            raise KeyboardInterrupt(_state.waiting)
