"""The scheduler of several bakes: which bake runs the stages that others need, and which ones wait.

A bake waits for a running one as long as it can start from that one's next checkpoint: everything
on the other's disk belongs to its own plan, and further shared stages will run there. A running
bake first runs the stages that all waiting bakes share, then those that most of them share, and
takes a checkpoint where the plans differ. So each stage runs once, as far as one disk can hold it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from bake import threads
from bake.errors import StageError
from bake.plan.plan import Plan, Stage

Digests = frozenset[str]

# How often a waiting thread looks whether its work was called off.
_LOOK_S = 0.5


@dataclass(frozen=True)
class Action:
    """The next action of a bake.

    "start" these `stages` (none: everything has run, or is running), take a "checkpoint", "wait"
    until a running stage has ended, or "stop" because the machine is being lost. A `required`
    checkpoint is taken even if EC2 makes it wait; another one is tried again later.
    """

    kind: Literal["start", "checkpoint", "wait", "stop"]
    stages: tuple[Stage, ...] = ()
    required: bool = False


@dataclass
class _Bake:
    """One bake, as the scheduler sees it; all sets are digests of stages.

    `wanted` is its whole plan but the last stage: sealing is for one machine alone. `start` returns
    what its best start point holds at this moment, `at_start` is the latest answer. `contents` is
    what its disk holds, with the stages that run now; `saved` is what its last checkpoint holds.
    """

    name: str
    plan: Plan
    wanted: Digests
    start: Callable[[], Digests]
    at_start: Digests = frozenset()
    contents: Digests = frozenset()
    saved: Digests = frozenset()

    def serves(self, other: _Bake) -> bool:
        """Tell if the other bake can start from a checkpoint that this one will take."""
        disk, others_disk = self.plan.recipe.builder.disk_gb, other.plan.recipe.builder.disk_gb
        return (
            disk <= others_disk
            and self.contents <= other.wanted
            and not (self.wanted & other.wanted) <= other.at_start
        )


class Scheduler:
    """Decides for all bakes of one process. At most `machines` of them run at once. Thread-safe."""

    def __init__(self, machines: int) -> None:
        self._free = machines
        self._changed = threading.Condition()
        self._waiting: dict[str, _Bake] = {}
        self._running: dict[str, _Bake] = {}
        self._failed: dict[str, tuple[str, StageError]] = {}

    def add(self, name: str, plan: Plan, start: Callable[[], Digests]) -> None:
        """Add a bake. All bakes are added before the first one starts.

        `start` returns the digests that its best start point holds; it is called repeatedly.
        """
        wanted = frozenset(stage.digest for stage in plan.stages[:-1])
        self._waiting[name] = _Bake(name, plan, wanted, start, at_start=start())

    def wait_for_turn(self, name: str, on_wait: Callable[[str], None] = lambda text: None) -> None:
        """Wait until a machine is free and no running bake will run the next stages of this one.

        StageError if a stage that it shares with another bake failed there.
        """
        with self._changed:
            me = self._waiting[name]
            while True:
                threads.check()
                me.at_start = me.start()
                self._raise_if_a_stage_failed(me)
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
        """Record what the start point really holds: it may not be the one that was expected."""
        with self._changed:
            me = self._running[name]
            me.contents = me.saved = contents
            self._changed.notify_all()

    def choose(self, name: str, ready: Sequence[Stage], *, busy: bool) -> Action:
        """Choose from the stages that are ready to start; `busy`: some are running already.

        A stage that may reboot the machine runs alone: it starts when no other one is running.
        """
        with self._changed:
            me = self._running[name]
            followers = [bake for bake in self._waiting.values() if me.serves(bake)]
            action = alone_if_it_may_reboot(choose(me, followers, ready, busy=busy), busy=busy)
            me.contents |= {stage.digest for stage in action.stages}
            self._changed.notify_all()
            return action

    def saved(self, name: str) -> None:
        """Record that the bake has taken a checkpoint of its disk, or that it cannot."""
        with self._changed:
            me = self._running[name]
            me.saved = me.contents
            self._changed.notify_all()

    def failed(self, name: str, stage: Stage, error: StageError) -> None:
        """Record that a stage failed by itself: it has failed for all bakes that need it."""
        with self._changed:
            self._failed[stage.digest] = (name, error)
            self._changed.notify_all()

    def leave(self, name: str) -> None:
        """Record that the bake has ended, however; its machine is free for another bake."""
        with self._changed:
            if self._running.pop(name, None) is not None:
                self._free += 1
            self._waiting.pop(name, None)
            self._changed.notify_all()

    def _raise_if_a_stage_failed(self, me: _Bake) -> None:
        for stage in me.plan.stages[:-1]:
            if stage.digest in self._failed and stage.digest not in me.at_start:
                other, error = self._failed[stage.digest]
                raise StageError(
                    f"stage {stage.name}, which {me.name} shares with {other}, failed there",
                    hint=error.hint,
                    details=error.details,
                )


def choose(me: _Bake, followers: Sequence[_Bake], ready: Sequence[Stage], *, busy: bool) -> Action:
    """Choose the stages that most `followers`, the bakes that wait for this one, need. Pure."""
    if not followers:
        return Action("start", tuple(ready))

    def needed_by(stage: Stage) -> frozenset[str]:
        return frozenset(bake.name for bake in followers if stage.digest in bake.wanted)

    everyone = frozenset(bake.name for bake in followers)
    if shared := [stage for stage in ready if needed_by(stage) == everyone]:
        return Action("start", tuple(shared))
    if busy:
        return Action("wait")
    if me.contents != me.saved and any(me.contents - bake.at_start for bake in followers):
        return Action("checkpoint", required=True)
    # Here the plans differ: go on with what most of them share.
    most = max((needed_by(stage) for stage in ready), key=len, default=frozenset())
    return Action("start", tuple(stage for stage in ready if needed_by(stage) == most))


def alone_if_it_may_reboot(action: Action, *, busy: bool) -> Action:
    """Leave one stage that may reboot the machine, or all that cannot. Pure."""
    if action.kind != "start":
        return action
    alone = tuple(stage for stage in action.stages if stage.may_reboot and not busy)[:1]
    return Action("start", alone or tuple(s for s in action.stages if not s.may_reboot))
