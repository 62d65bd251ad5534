"""Work in several threads that ends together, and interrupts that leave nothing behind.

Threads that work together belong to a scope; cancelling the scope ends them at their next `check`
or `pause`. A TaskGroup starts threads in a scope of its own. `one_interrupt` turns the first signal
into a KeyboardInterrupt, and `held_back` delays both while something is being removed.
"""

from __future__ import annotations

import queue
import signal
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# How often a thread that waits for others checks for a signal and for its own cancellation. Python
# runs signal handlers in the main thread only, and a signal does not always wake that thread: the
# kernel may deliver it to another thread, or just before the main thread begins to wait.
_LOOK_S = 0.2


# Cancellation ------------------------------------------------------------------------------------


class Cancelled(BaseException):
    """This thread's work was cancelled. What it has started is removed while this is raised."""


class Scope:
    """Threads that are cancelled together, and the scopes below it."""

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
        """Cancel this scope and all scopes below it."""
        self._cancelled.set()
        for scope in list(self._below):
            scope.cancel()

    def forget(self) -> None:
        """Detach this scope from the one above it, after the last thread in it has ended."""
        if self._above is not None:
            self._above._below.remove(self)

    def wait(self, seconds: float) -> bool:
        """Wait that long, but no longer than until the scope is cancelled. Return if it is."""
        return self._cancelled.wait(seconds)


class _Thread(threading.local):
    """The scope of one thread, and in how many `held_back` and `in_one_piece` contexts it is."""

    scope: Scope | None = None
    holding: int = 0
    pieces: int = 0


_thread = _Thread()


def scope() -> Scope | None:
    """Return the scope of this thread; None outside of task groups and inside `held_back`."""
    return None if _thread.holding else _thread.scope


def enter(scope: Scope) -> None:
    """Make this thread a part of the scope, for the rest of its life."""
    _thread.scope = scope


def check() -> None:
    """Raise Cancelled if this thread's scope is cancelled, but not inside `held_back`."""
    if _thread.scope is not None and _thread.scope.cancelled and not _thread.holding:
        raise Cancelled


def pause(seconds: float) -> None:
    """Sleep. Raises Cancelled as soon as this thread's scope is, but not inside `held_back`."""
    if _thread.scope is None or _thread.holding:
        time.sleep(seconds)
    else:
        _thread.scope.wait(seconds)
        check()


# Groups of threads -------------------------------------------------------------------------------


class TaskGroup(Generic[K, T]):
    """A context that runs pieces of work in threads. All threads have ended when it is left.

    An exception that leaves it (a piece's own, raised by `next`; an interrupt) cancels the pieces
    that still run. Their results and exceptions are then ignored.
    """

    def __init__(self) -> None:
        self._scope = Scope(scope())
        self._threads: dict[K, threading.Thread] = {}
        self._ended: queue.SimpleQueue[tuple[K, T | None, BaseException | None]]
        self._ended = queue.SimpleQueue()

    @property
    def running(self) -> frozenset[K]:
        """The keys of the pieces that `next` has not returned yet."""
        return frozenset(self._threads)

    def start(self, key: K, work: Callable[[], T]) -> None:
        """Start a piece of work in a thread of its own."""
        thread = threading.Thread(target=self._run, args=(key, work), name=str(key))
        with held_back():  # no interrupt between the start of a thread and its registration
            thread.start()
            self._threads[key] = thread

    def next(self) -> tuple[K, T]:
        """Return the key and the result of the next piece that ends. Raises what the piece raised.

        Raises Cancelled if this thread's own work is cancelled.
        """
        key, result, error = self._wait_for_one()
        self._threads.pop(key).join()
        if error is not None:
            raise error
        return key, result  # type: ignore[return-value]

    def _wait_for_one(self) -> tuple[K, T | None, BaseException | None]:
        while True:
            check()
            try:
                return self._ended.get(timeout=_LOOK_S)
            except queue.Empty:
                continue

    def call_off(self) -> None:
        """Cancel the pieces that still run and wait for their end. Later pieces end at once."""
        self._scope.cancel()
        with held_back():
            while self._threads:
                _wait_for_end(self._threads.popitem()[1])

    def _run(self, key: K, work: Callable[[], T]) -> None:
        enter(self._scope)
        try:
            self._ended.put((key, work(), None))
        except BaseException as error:
            self._ended.put((key, None, error))

    def __enter__(self) -> TaskGroup[K, T]:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            while error is None and self._threads:
                self.next()
        finally:
            self._scope.cancel()
            with held_back():
                for thread in self._threads.values():
                    _wait_for_end(thread)
            self._scope.forget()


def _wait_for_end(thread: threading.Thread) -> None:
    """Wait for a thread's end; signals are handled meanwhile."""
    while thread.is_alive():
        thread.join(timeout=_LOOK_S)


def together(*work: Callable[[], Any]) -> list[Any]:
    """Do all work at the same time, and return the results in the order of the arguments.

    The first failure cancels the rest and is raised.
    """
    with TaskGroup[int, Any]() as group:
        for number, piece in enumerate(work):
            group.start(number, piece)
        ended = dict(group.next() for _ in work)
    return [ended[number] for number in range(len(work))]


# Interrupts --------------------------------------------------------------------------------------


@dataclass
class _Interrupts:
    """The interrupts of the main thread, which receives signals.

    `waiting` is the name of a signal that arrived inside `held_back`, `arrived` the number of one
    that arrived inside `in_one_piece`, and `handle` is what handles a signal.
    """

    interrupted: bool = False
    waiting: str = ""
    arrived: int = 0
    handle: Callable[[int], None] = lambda number: None


_interrupts = _Interrupts()


@contextmanager
def one_interrupt(on_late: Callable[[str], None] = lambda text: None) -> Iterator[None]:
    """A context in which the first signal raises KeyboardInterrupt, and later ones only a message.

    The first one starts the removal of everything that costs money, which must not be interrupted.
    `on_late` receives the message.
    """
    global _interrupts
    _interrupts = _Interrupts()

    def interrupt(number: int, _frame: FrameType | None = None) -> None:
        if _thread.pieces:
            _interrupts.arrived = number
            return
        if _interrupts.interrupted or _thread.holding:
            on_late("Still cleaning up; nothing is left running when this ends.")
        name = signal.Signals(number).name
        if _thread.holding:
            _interrupts.waiting = name
        elif not _interrupts.interrupted:
            _interrupts.interrupted = True
            raise KeyboardInterrupt(name)

    _interrupts.handle = interrupt
    # A signal that is ignored stays ignored: `nohup` relies on that.
    handled = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def held_back() -> Iterator[None]:
    """A context in which no interrupt and no cancellation arrives: for removals.

    An interrupt that came meanwhile is raised at its end.
    """
    _thread.holding += 1
    try:
        yield
    finally:
        _thread.holding -= 1
        main = threading.current_thread() is threading.main_thread()
        waiting = _interrupts.waiting and not _interrupts.interrupted
        if main and waiting and not _thread.holding:
            _interrupts.interrupted = True
            raise KeyboardInterrupt(_interrupts.waiting)


@contextmanager
def in_one_piece() -> Iterator[None]:
    """A context for a moment, in which no interrupt arrives: what is written would be torn.

    An interrupt that came meanwhile is handled at its end.
    """
    _thread.pieces += 1
    try:
        yield
    finally:
        _thread.pieces -= 1
        main = threading.current_thread() is threading.main_thread()
        if main and _interrupts.arrived and not _thread.pieces:
            number, _interrupts.arrived = _interrupts.arrived, 0
            _interrupts.handle(number)
