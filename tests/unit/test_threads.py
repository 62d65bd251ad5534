"""Work in threads: it ends together, is cancelled where it waits, and cleans up undisturbed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from bake import threads
from bake.threads import (
    Cancelled,
    Scope,
    TaskGroup,
    held_back,
    in_one_piece,
    one_interrupt,
    pause,
    together,
)


class Piece:
    """A piece of work that waits until it is cancelled, and then cleans up for a while."""

    def __init__(self, wait: Callable[[], None] = lambda: pause(60)) -> None:
        self.begun = threading.Event()
        self.events: list[str] = []
        self._wait = wait

    def __call__(self) -> None:
        try:
            self.begun.set()
            self._wait()
        except Cancelled:
            self.events.append("cancelled")
            raise
        finally:
            with held_back():
                pause(0.2)
                threads.check()
                self.events.append("cleaned up")


def fail() -> None:
    raise ZeroDivisionError


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before  # another test's may have ended meanwhile


def test_call_off_cancels_the_pieces_that_still_run() -> None:
    slow = Piece()
    with TaskGroup[str, object]() as group:
        group.start("slow", slow)
        group.start("quick", lambda: "done")
        assert group.next() == ("quick", "done")
        assert slow.begun.wait(10)
        group.call_off()
        assert group.running == frozenset()
        assert slow.events == ["cancelled", "cleaned up"]


def test_next_returns_pieces_in_the_order_in_which_they_end() -> None:
    gates = {key: threading.Event() for key in "abc"}

    def piece(key: str) -> Callable[[], str]:
        def work() -> str:
            assert gates[key].wait(10)
            return key * 2

        return work

    with TaskGroup[str, str]() as group:
        for key in gates:
            group.start(key, piece(key))
        for key in "cab":
            assert key in group.running
            gates[key].set()
            assert group.next() == (key, key * 2)
        assert group.running == frozenset()


def test_leaving_a_group_waits_for_its_pieces_and_raises_their_error() -> None:
    done = threading.Event()
    with TaskGroup[int, None]() as group:
        group.start(1, lambda: done.set() if not done.wait(0.2) else None)
    assert done.is_set()
    piece = Piece()
    with pytest.raises(ZeroDivisionError), TaskGroup[int, None]() as group:
        group.start(1, piece)
        group.start(2, fail)
    assert piece.events == ["cancelled", "cleaned up"]


def test_a_failure_cancels_the_others_and_waits_until_they_have_cleaned_up() -> None:
    pieces = [Piece() for _ in range(3)]
    began = time.monotonic()
    with pytest.raises(ZeroDivisionError), TaskGroup[int, None]() as group:
        for number, piece in enumerate(pieces):
            group.start(number, piece)
        for piece in pieces:
            assert piece.begun.wait(10)
        group.start(3, fail)
        group.next()
    assert [piece.events for piece in pieces] == [["cancelled", "cleaned up"]] * 3
    assert time.monotonic() - began < 60


def test_an_error_of_a_cancelled_piece_does_not_hide_the_cause() -> None:
    def stumble() -> None:
        try:
            pause(60)
        except Cancelled:
            raise ValueError from None

    with pytest.raises(ZeroDivisionError):
        together(stumble, fail)


def test_a_piece_that_never_waits_is_cancelled_at_its_next_check() -> None:
    def busy() -> None:
        while True:
            threads.check()

    with pytest.raises(ZeroDivisionError):
        together(busy, fail)


def test_work_outside_of_groups_is_never_cancelled() -> None:
    with pytest.raises(ZeroDivisionError):
        together(Piece(), fail)
    assert threads.scope() is None
    pause(0)
    threads.check()


def test_the_failure_of_a_group_ends_the_groups_in_its_pieces() -> None:
    inner = [Piece(), Piece()]

    def fail_once_they_run() -> None:
        assert all(piece.begun.wait(10) for piece in inner)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        together(lambda: together(*inner), fail_once_they_run)
    assert [piece.events for piece in inner] == [["cancelled", "cleaned up"]] * 2


def test_a_failure_within_a_piece_stays_within_when_it_is_caught_there() -> None:
    def recover() -> str:
        with pytest.raises(ZeroDivisionError):
            together(Piece(), fail)
        pause(0)
        return "recovered"

    with TaskGroup[str, str]() as group:
        group.start("a", recover)
        assert group.next() == ("a", "recovered")


def test_a_group_that_cleans_up_is_not_cancelled() -> None:
    removed = []

    def remove(what: str) -> None:
        pause(0.1)
        threads.check()
        removed.append(what)

    def work() -> None:
        try:
            pause(60)
        finally:
            with held_back():
                together(lambda: remove("machine"), lambda: remove("key"))

    with pytest.raises(ZeroDivisionError):
        together(work, fail)
    assert sorted(removed) == ["key", "machine"]


def test_a_group_in_a_cancelled_scope_does_no_work() -> None:
    scope = Scope()
    scope.cancel()
    below = Scope(scope)
    assert below.cancelled
    assert below.wait(60)
    below.forget()
    scope.cancel()


def test_a_forgotten_scope_is_not_kept_by_the_scope_above() -> None:
    above = Scope()
    below = Scope(above)
    below.forget()
    above.cancel()
    assert not below.cancelled


def test_a_thread_that_cannot_be_started_leaves_no_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    piece = Piece()

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with pytest.raises(RuntimeError, match="can't start"), TaskGroup[int, None]() as group:
        group.start(1, piece)
        monkeypatch.setattr(threading.Thread, "start", refuse)
        group.start(2, piece)
    assert piece.events == ["cancelled", "cleaned up"]


def interrupt_the_process() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def interrupt_this_thread() -> None:
    """Send the signal to this thread: it does not wake the main thread, which handles it."""
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)


def press_ctrl_c_once(
    begun: threading.Event, interrupt: Callable[[], None] = interrupt_the_process
) -> None:
    assert begun.wait(10)
    interrupt()


def test_ctrl_c_cancels_all_pieces_and_they_clean_up() -> None:
    pieces = [Piece(), Piece()]
    with pytest.raises(KeyboardInterrupt), one_interrupt(), TaskGroup[int, None]() as group:
        for number, piece in enumerate(pieces):
            group.start(number, piece)
        presser = threading.Thread(target=press_ctrl_c_once, args=(pieces[1].begun,))
        presser.start()
        group.next()
    presser.join()
    assert [piece.events[-1] for piece in pieces] == ["cleaned up"] * 2


@pytest.mark.parametrize("interrupt", [interrupt_the_process, interrupt_this_thread])
def test_a_second_ctrl_c_does_not_interrupt_the_pieces_that_clean_up(
    interrupt: Callable[[], None],
) -> None:
    late: list[str] = []
    cleaning, heard = threading.Event(), threading.Event()

    def work() -> None:
        try:
            pause(60)
        finally:
            cleaning.set()
            with held_back():
                late.append("cleaned up" if heard.wait(20) else "not heard in time")

    def hear(text: str) -> None:
        late.append(text)
        heard.set()

    presser = threading.Thread(target=press_ctrl_c_once, args=(cleaning, interrupt))
    with (
        pytest.raises(KeyboardInterrupt),
        one_interrupt(hear),
        TaskGroup[int, None]() as group,
    ):
        group.start(1, work)
        presser.start()
        os.kill(os.getpid(), signal.SIGINT)
        group.next()
    presser.join()
    assert late == ["Still cleaning up; nothing is left running when this ends.", "cleaned up"]


def test_an_interrupt_that_comes_while_a_piece_is_started_still_ends_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    piece = Piece()
    start = threading.Thread.start

    def start_and_be_interrupted(thread: threading.Thread) -> None:
        start(thread)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(threading.Thread, "start", start_and_be_interrupted)
    with pytest.raises(KeyboardInterrupt), one_interrupt(), TaskGroup[int, None]() as group:
        group.start(1, piece)
    assert piece.events == ["cancelled", "cleaned up"]


def test_an_interrupt_that_another_thread_receives_ends_the_work() -> None:
    """The kernel chooses the thread that receives a signal; it need not be the main thread."""

    def receive() -> None:
        time.sleep(0.3)  # until the main thread waits
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        piece()

    piece = Piece(lambda: pause(3))
    with pytest.raises(KeyboardInterrupt), one_interrupt(), TaskGroup[int, None]() as group:
        group.start(1, receive)
        group.next()
    assert piece.events == ["cancelled", "cleaned up"]


def test_a_thread_that_waits_for_its_pieces_is_cancelled_although_they_succeed() -> None:
    began, goes_on = threading.Event(), threading.Event()
    results: list[str] = []

    def outer() -> None:
        with TaskGroup[str, str]() as group:
            group.start("inner", lambda: str(began.set() or goes_on.wait(10)))
            results.append(group.next()[1])

    with pytest.raises(ZeroDivisionError), TaskGroup[str, None]() as group:
        group.start("outer", outer)
        assert began.wait(10)
        threading.Timer(0.5, goes_on.set).start()
        raise ZeroDivisionError
    assert results == []


def test_what_is_written_in_one_piece_is_interrupted_after_it() -> None:
    done, late = [], []
    with pytest.raises(KeyboardInterrupt), one_interrupt(late.append):
        with in_one_piece():
            with in_one_piece():
                os.kill(os.getpid(), signal.SIGINT)
                done.append("inner")
            done.append("outer")
        done.append("never")
    assert (done, late) == (["inner", "outer"], [])


def test_a_late_interrupt_is_answered_after_the_piece() -> None:
    late: list[str] = []
    with one_interrupt(late.append):
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        with in_one_piece():
            os.kill(os.getpid(), signal.SIGINT)
            assert late == []
        assert len(late) == 1
