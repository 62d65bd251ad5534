"""Several bakes at once: each stage runs once, as far as a disk can hold it, and all bakes end."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bake import threads
from bake.errors import StageError
from bake.pipeline.scheduler import Digests, Scheduler
from bake.threads import Cancelled, TaskGroup


def stage(digest: str, *needs: str, reboots: bool = False) -> Any:
    return SimpleNamespace(name=digest, digest=digest, needs=needs, may_reboot=reboots)


def plan(*stages: Any, disk_gb: int = 64) -> Any:
    """Return a plan. A name is a digest here; the last stage seals and is never shared."""
    recipe = SimpleNamespace(builder=SimpleNamespace(disk_gb=disk_gb))
    return SimpleNamespace(recipe=recipe, stages=(*stages, stage("seal")))


def line(*digests: str, disk_gb: int = 64) -> Any:
    """Return a plan of stages of which each needs the one before."""
    first, *others = digests
    pairs = zip(digests, others, strict=False)
    return plan(stage(first), *(stage(b, a) for a, b in pairs), disk_gb=disk_gb)


@dataclass
class Rehearsal:
    """Bakes by the real rules, without machines; it records the stages and the start points."""

    plans: Mapping[str, Any]
    machines: int = 4
    breaks: frozenset[str] = frozenset()
    ran: list[tuple[str, str]] = field(default_factory=list)
    starts: dict[str, Digests] = field(default_factory=dict)
    errors: dict[str, StageError] = field(default_factory=dict)
    checkpoints: set[Digests] = field(default_factory=set)
    most_at_once: int = 0
    saved_too_early: list[str] = field(default_factory=list)
    _at_once: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> Rehearsal:
        scheduler = Scheduler(self.machines)
        for name, each in self.plans.items():
            scheduler.add(name, each, self._start(each))
        with TaskGroup[str, None]() as group:
            for name in self.plans:
                group.start(name, lambda name=name: self._bake(scheduler, name))  # type: ignore[misc]
            while group.running:
                group.next()
        return self

    @property
    def times(self) -> Counter[str]:
        return Counter(digest for _, digest in self.ran)

    def _start(self, each: Any) -> Callable[[], Digests]:
        wanted = {stage.digest for stage in each.stages[:-1]}

        def start() -> Digests:
            with self._lock:
                able = [held for held in self.checkpoints if held <= wanted]
            return max(able, key=len, default=frozenset())

        return start

    def _bake(self, scheduler: Scheduler, name: str) -> None:
        try:
            scheduler.wait_for_turn(name)
            with self._lock:
                self._at_once.add(name)
                self.most_at_once = max(self.most_at_once, len(self._at_once))
            self._stages(scheduler, name)
        except StageError as error:
            self.errors[name] = error
        finally:
            with self._lock:
                self._at_once.discard(name)
            scheduler.leave(name)

    def _stages(self, scheduler: Scheduler, name: str) -> None:
        stages = self.plans[name].stages[:-1]
        done = self.starts[name] = self._start(self.plans[name])()
        scheduler.started(name, done)
        while True:
            ready = [s for s in stages if s.digest not in done and done >= {*s.needs}]
            action = scheduler.choose(name, ready, busy=False)
            if action.kind == "checkpoint":
                with self._lock:
                    self.checkpoints.add(done)
                scheduler.saved(name)
                continue
            assert len(action.stages) <= 1 or not any(each.may_reboot for each in action.stages)
            for each in action.stages:
                if each.digest in self.breaks:
                    error = StageError(f"{each.name} is broken")
                    scheduler.failed(name, each, error)
                    raise error
                with self._lock:
                    self.ran.append((name, each.digest))
                done |= {each.digest}
            if not action.stages:
                assert done == {s.digest for s in stages}
                return


def test_a_shared_beginning_runs_once_and_the_rest_fans_out() -> None:
    plans = {f"r{n:02}": line("base", "drivers", f"cuda{n}", f"d2l{n}") for n in range(12)}
    rehearsal = Rehearsal(plans).run()
    assert rehearsal.times["base"] == rehearsal.times["drivers"] == 1
    assert set(rehearsal.times.values()) == {1}
    leader = next(name for name, digest in rehearsal.ran if digest == "base")
    others = [start for name, start in rehearsal.starts.items() if name != leader]
    assert others == [frozenset({"base", "drivers"})] * 11
    assert rehearsal.most_at_once <= 4


def test_a_tree_of_beginnings_is_walked_branch_by_branch() -> None:
    plans = {
        "a1": line("base", "cuda11", "mxnet", "d2l"),
        "a2": line("base", "cuda11", "pytorch"),
        "b1": line("base", "cuda12", "torch2", "d2l2"),
        "b2": line("base", "cuda12", "torch2", "d2l3"),
    }
    rehearsal = Rehearsal(plans).run()
    assert set(rehearsal.times.values()) == {1}


def test_a_recipe_that_is_a_beginning_of_another_serves_it_with_all_that_it_has() -> None:
    rehearsal = Rehearsal({"short": line("a", "b"), "long": line("a", "b", "c")}).run()
    assert rehearsal.times == {"a": 1, "b": 1, "c": 1}


def test_chains_beside_each_other_are_shared_before_what_is_not() -> None:
    mine = plan(
        stage("base"), stage("conda", "base"), stage("drivers", "base"), stage("x", "conda")
    )
    other = plan(stage("base"), stage("drivers", "base"), stage("y", "drivers"))
    rehearsal = Rehearsal({"mine": mine, "other": other}).run()
    assert set(rehearsal.times.values()) == {1}


def test_where_one_disk_cannot_hold_it_a_stage_runs_twice_and_no_more() -> None:
    """A needs both stages, B one of them, C the other: no disk of A is a start for both."""
    both = plan(stage("base"), stage("b", "base"), stage("c", "base"))
    rehearsal = Rehearsal({"A": both, "B": line("base", "b"), "C": line("base", "c")}).run()
    assert rehearsal.times["base"] == 1
    assert rehearsal.times["b"] + rehearsal.times["c"] == 3


def test_a_smaller_disk_is_a_start_for_a_larger_one_and_not_the_other_way() -> None:
    plans = {"large": line("a", "b", "l", disk_gb=100), "small": line("a", "b", "s", disk_gb=50)}
    rehearsal = Rehearsal(dict(sorted(plans.items(), reverse=True)), machines=1).run()
    assert rehearsal.times["a"] == 1
    assert rehearsal.starts["large"] == {"a", "b"}


def test_a_shared_stage_that_fails_has_failed_for_all_who_need_it_and_for_nobody_else() -> None:
    plans = {
        "a": line("base", "broken", "x"),
        "b": line("base", "broken", "y"),
        "c": line("base", "sound"),
    }
    rehearsal = Rehearsal(plans, breaks=frozenset({"broken"})).run()
    assert set(rehearsal.errors) == {"a", "b"}
    said = sorted(error.message for error in rehearsal.errors.values())
    assert said[0] == "broken is broken"
    assert said[1].startswith("stage broken, which ")
    assert ("c", "sound") in rehearsal.ran


def test_unrelated_bakes_do_not_wait_for_each_other_but_for_machines() -> None:
    plans = {f"r{n}": line(f"a{n}", f"b{n}") for n in range(9)}
    rehearsal = Rehearsal(plans, machines=3).run()
    assert rehearsal.starts == dict.fromkeys(plans, frozenset())
    assert rehearsal.most_at_once <= 3


def test_a_stage_that_reboots_is_started_alone_and_as_soon_as_none_runs() -> None:
    loud, quiet = stage("loud", reboots=True), stage("quiet")
    scheduler = Scheduler(machines=1)
    scheduler.add("a", plan(loud, quiet), frozenset)
    scheduler.wait_for_turn("a")
    assert scheduler.choose("a", [quiet, loud], busy=True).stages == (quiet,)
    assert scheduler.choose("a", [loud], busy=True).stages == ()
    assert scheduler.choose("a", [quiet, loud], busy=False).stages == (loud,)


def test_who_waits_is_called_off_at_once() -> None:
    scheduler = Scheduler(1)
    scheduler.add("first", line("a"), frozenset)
    scheduler.add("second", line("b"), frozenset)
    scheduler.wait_for_turn("first")
    waits = threading.Event()
    scope = threads.Scope()
    ended: list[BaseException] = []

    def wait() -> None:
        threads.enter(scope)
        try:
            scheduler.wait_for_turn("second", on_wait=lambda text: waits.set())
        except Cancelled as error:
            ended.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    assert waits.wait(5)
    scope.cancel()
    thread.join(5)
    assert len(ended) == 1


def test_a_bake_that_is_lost_is_followed_by_the_next_one() -> None:
    scheduler = Scheduler(4)
    for name in ("first", "second"):
        scheduler.add(name, line("base", name), frozenset)
    scheduler.wait_for_turn("first")
    scheduler.choose("first", [stage("base")], busy=False)
    waits = threading.Event()
    turn = threading.Thread(
        target=scheduler.wait_for_turn, args=("second",), kwargs={"on_wait": lambda _: waits.set()}
    )
    turn.start()
    assert waits.wait(5)
    assert turn.is_alive()
    scheduler.leave("first")  # its machine is lost, with everything on it
    turn.join(5)
    assert not turn.is_alive()


@st.composite
def many_plans(draw: st.DrawFn) -> dict[str, Any]:
    """Draw plans. A stage needs earlier stages, and may reboot the machine; each plan contains some
    stages and all that they need."""
    names = [f"s{n}" for n in range(draw(st.integers(1, 7)))]
    needs = {
        name: draw(st.sets(st.sampled_from(names[:index]), max_size=2)) if index else set()
        for index, name in enumerate(names)
    }

    reboot = draw(st.sets(st.sampled_from(names)))

    def closed(chosen: set[str]) -> list[str]:
        for name in reversed(names):
            if name in chosen:
                chosen |= needs[name]
        return [name for name in names if name in chosen]

    return {
        f"r{n}": plan(
            *(
                stage(name, *sorted(needs[name]), reboots=name in reboot)
                for name in closed(draw(st.sets(st.sampled_from(names), min_size=1)))
            ),
            disk_gb=draw(st.sampled_from([50, 100])),
        )
        for n in range(draw(st.integers(1, 5)))
    }


@settings(max_examples=60, deadline=None)
@given(many_plans(), st.integers(1, 3))
def test_whatever_the_plans_all_of_them_end_with_all_of_their_stages(
    plans: dict[str, Any], machines: int
) -> None:
    rehearsal = Rehearsal(plans, machines=machines).run()
    assert rehearsal.errors == {}
    assert rehearsal.most_at_once <= machines
    for name, each in plans.items():
        mine = {digest for baker, digest in rehearsal.ran if baker == name}
        assert mine | rehearsal.starts[name] == {stage.digest for stage in each.stages[:-1]}
        assert not mine & rehearsal.starts[name]


@pytest.mark.parametrize("machines", [1, 2, 4])
def test_lines_with_common_beginnings_run_each_stage_once(machines: int) -> None:
    plans = {f"r{n}": line(*"abcdefgh"[: 3 + n % 4], *(f"{s}{n}" for s in "xyz")) for n in range(8)}
    rehearsal = Rehearsal(plans, machines=machines).run()
    assert set(rehearsal.times.values()) == {1}
