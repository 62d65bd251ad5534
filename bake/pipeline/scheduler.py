"""Many bakes at once: which one runs what the others need too, and who waits for whom.

A bake waits for a running one as long as it can start from that one's next checkpoint: what the
other's disk holds is part of its own plan, and more of its plan is still to come there. A running
bake first runs what all of those that wait for it share, then what most of them share, and takes a
checkpoint where their ways part. So each stage runs once, as far as one disk can hold it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from bake import threads
from bake.errors import StageError
from bake.plan.plan import Plan, Stage

Digests = frozenset[str]

# How often a waiting thread looks whether its work was called off.
_LOOK_S = 0.5


@dataclass(frozen=True)
class Action:
    """What a bake does next: start these stages; or take a checkpoint; or, with neither, wait."""

    stages: tuple[Stage, ...] = ()
    checkpoint: bool = False


@dataclass
class _Bake:
    name: str
    plan: Plan
    wanted: Digests  # all of its stages but the last one: what seals is of one machine alone
    start: Callable[[], Digests]  # what the best start point holds at this moment
    at_start: Digests = frozenset()
    contents: Digests = frozenset()  # of its disk, with what runs there now
    saved: Digests = frozenset()  # in its last checkpoint

    def serves(self, other: _Bake) -> bool:
        """Whether the other one can start from a checkpoint that this one will take."""
        disk, others_disk = self.plan.recipe.builder.disk_gb, other.plan.recipe.builder.disk_gb
        return (
            disk <= others_disk
            and self.contents <= other.wanted
            and not (self.wanted & other.wanted) <= other.at_start
        )


class Scheduler:
    """Where bakes meet. `machines`: how many of them have one at a time. For several threads."""

    def __init__(self, machines: int) -> None:
        self._free = machines
        self._changed = threading.Condition()
        self._waiting: dict[str, _Bake] = {}
        self._running: dict[str, _Bake] = {}
        self._failed: dict[str, tuple[str, StageError]] = {}

    def add(self, name: str, plan: Plan, start: Callable[[], Digests]) -> None:
        """All bakes are added before the first one starts. `start` is asked again and again."""
        wanted = frozenset(stage.digest for stage in plan.stages[:-1])
        self._waiting[name] = _Bake(name, plan, wanted, start, at_start=start())

    def wait_for_turn(self, name: str, on_wait: Callable[[str], None] = lambda text: None) -> None:
        """Until it has something to do that no running bake does for it, and a machine is free.

        StageError: a stage that it shares with another bake has failed there.
        """
        with self._changed:
            me = self._waiting[name]
            while True:
                threads.check()
                me.at_start = me.start()
                self._refuse_what_failed(me)
                other = next((bake for bake in self._running.values() if bake.serves(me)), None)
                if other is None and self._free > 0:
                    break
                on_wait(f"for {other.name}, which shares stages" if other else "for a machine")
                self._changed.wait(_LOOK_S)
            self._free -= 1
            self._running[name] = self._waiting.pop(name)
            me.contents = me.saved = me.at_start
            self._changed.notify_all()

    def started(self, name: str, contents: Digests) -> None:
        """What its start point really held, when that is another one than was thought."""
        with self._changed:
            me = self._running[name]
            me.contents = me.saved = contents
            self._changed.notify_all()

    def next_step(self, name: str, ready: Sequence[Stage], *, busy: bool) -> Action:
        """What to do with the stages that could start now; `busy`: some are running already.

        One that reboots runs alone: it is started as soon as none is running.
        """
        with self._changed:
            me = self._running[name]
            step = self._next_step(me, ready, busy=busy)
            alone = tuple(stage for stage in step.stages if stage.reboots and not busy)[:1]
            quiet = tuple(stage for stage in step.stages if not stage.reboots)
            step = replace(step, stages=alone or quiet)
            me.contents |= {stage.digest for stage in step.stages}
            self._changed.notify_all()
            return step

    def saved(self, name: str) -> None:
        """It has taken a checkpoint of what it holds now, or cannot."""
        with self._changed:
            me = self._running[name]
            me.saved = me.contents
            self._changed.notify_all()

    def failed(self, name: str, stage: Stage, error: StageError) -> None:
        """The stage itself has failed: it has failed for all who need it."""
        with self._changed:
            self._failed[stage.digest] = (name, error)
            self._changed.notify_all()

    def leave(self, name: str) -> None:
        """It has ended, however; its machine is free for another."""
        with self._changed:
            if self._running.pop(name, None) is not None:
                self._free += 1
            self._waiting.pop(name, None)
            self._changed.notify_all()

    def _next_step(self, me: _Bake, ready: Sequence[Stage], *, busy: bool) -> Action:
        followers = [bake for bake in self._waiting.values() if me.serves(bake)]
        if not followers:
            return Action(tuple(ready))

        def audience(stage: Stage) -> frozenset[str]:
            return frozenset(bake.name for bake in followers if stage.digest in bake.wanted)

        everybody = frozenset(bake.name for bake in followers)
        if shared := [stage for stage in ready if audience(stage) == everybody]:
            return Action(tuple(shared))
        if busy:
            return Action()
        if me.contents != me.saved and any(me.contents - bake.at_start for bake in followers):
            return Action(checkpoint=True)
        # Their ways part: on with what most of them share.
        most = max((audience(stage) for stage in ready), key=len, default=frozenset())
        return Action(tuple(stage for stage in ready if audience(stage) == most))

    def _refuse_what_failed(self, me: _Bake) -> None:
        for stage in me.plan.stages[:-1]:
            if stage.digest in self._failed and stage.digest not in me.at_start:
                other, error = self._failed[stage.digest]
                raise StageError(
                    f"stage {stage.name}, which {me.name} shares with {other}, failed there",
                    hint=error.hint,
                    details=error.details,
                )
