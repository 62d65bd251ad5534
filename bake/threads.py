"""Work that is done at the same time, each piece in a thread, and that ends together."""

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

# How often a thread that waits for others looks for a signal, and whether it was called off.
_LOOK_S = 0.2


class TaskGroup(Generic[K, T]):
    """A context: when it is left, every thread of it has ended.

    When it is left by an exception (a piece's own, out of `next`; an interrupt), the pieces that
    still run are called off first. What they say to that is not heard.
    """

    def __init__(self) -> None:
        self._scope = Scope(scope())
        self._threads: dict[K, threading.Thread] = {}
        self._ended: queue.SimpleQueue[tuple[K, T | None, BaseException | None]]
        self._ended = queue.SimpleQueue()

    @property
    def running(self) -> frozenset[K]:
        """The pieces whose end `next` has not told yet."""
        return frozenset(self._threads)

    def start(self, key: K, work: Callable[[], T]) -> None:
        thread = threading.Thread(target=self._run, args=(key, work), name=str(key))
        with held_back():  # a thread that runs is one that is joined
            thread.start()
            self._threads[key] = thread

    def next(self) -> tuple[K, T]:
        """Return the key and the result of the next piece that ends. Raises what the piece raised.

        Raises Cancelled if this thread's own work is called off.
        """
        key, result, error = self._wait_for_one()
        self._threads.pop(key).join()
        if error is not None:
            raise error
        return key, result  # type: ignore[return-value]

    def _wait_for_one(self) -> tuple[K, T | None, BaseException | None]:
        # The main thread handles signals, and the kernel may deliver one to another thread: that
        # does not wake the main thread. So it wakes up by itself; else Ctrl-C would be heard only
        # after the work is done.
        while True:
            check()
            try:
                return self._ended.get(timeout=_LOOK_S)
            except queue.Empty:
                continue

    def call_off(self) -> None:
        """End those that still run; what they say to that is not heard. Nothing starts after it."""
        self._scope.cancel()
        with held_back():
            while self._threads:
                self._threads.popitem()[1].join()

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
                    thread.join()
            self._scope.forget()


def together(*work: Callable[[], Any]) -> list[Any]:
    """Do all of it at the same time: what came of each, in the order in which it was given.

    The first failure calls off the rest, and comes out.
    """
    with TaskGroup[int, Any]() as group:
        for number, piece in enumerate(work):
            group.start(number, piece)
        ended = dict(group.next() for _ in work)
    return [ended[number] for number in range(len(work))]


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
