"""Work that is done at the same time, each piece in a thread, and that ends together."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Hashable
from types import TracebackType
from typing import Any, Generic, TypeVar

from bake import interrupts
from bake.interrupts import Scope

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class TaskGroup(Generic[K, T]):
    """A context: when it is left, every thread of it has ended.

    When it is left by an exception (a piece's own, out of `next`; an interrupt), the pieces that
    still run are called off first. What they say to that is not heard.
    """

    def __init__(self) -> None:
        self._scope = Scope(interrupts.scope())
        self._threads: dict[K, threading.Thread] = {}
        self._ended: queue.SimpleQueue[tuple[K, T | None, BaseException | None]]
        self._ended = queue.SimpleQueue()

    @property
    def running(self) -> frozenset[K]:
        """The pieces whose end `next` has not told yet."""
        return frozenset(self._threads)

    def start(self, key: K, work: Callable[[], T]) -> None:
        thread = threading.Thread(target=self._run, args=(key, work), name=str(key))
        with interrupts.held_back():  # a thread that runs is one that is joined
            thread.start()
            self._threads[key] = thread

    def next(self) -> tuple[K, T]:
        """Wait for the next piece to end: which one, and what came of it. Raises what it raised."""
        key, result, error = self._ended.get()
        self._threads.pop(key).join()
        if error is not None:
            raise error
        return key, result  # type: ignore[return-value]

    def call_off(self) -> None:
        """End those that still run; what they say to that is not heard. Nothing starts after it."""
        self._scope.cancel()
        with interrupts.held_back():
            while self._threads:
                self._threads.popitem()[1].join()

    def _run(self, key: K, work: Callable[[], T]) -> None:
        interrupts.enter(self._scope)
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
            with interrupts.held_back():
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
