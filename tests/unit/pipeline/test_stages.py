"""The next action of a bake, for each state of its stages."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from bake.console.console import Console
from bake.pipeline import stages
from bake.pipeline.progress import Progress
from bake.pipeline.scheduler import Action, Scheduler
from bake.pipeline.stages import StageRun, State, _Ran, next_action, run_stages


def stage(name: str, *needs: str, reboots: bool = False) -> Any:
    return SimpleNamespace(name=name, needs=needs, may_reboot=reboots)


BASE, DRIVERS, CUDA = stage("base"), stage("drivers", "base", reboots=True), stage("cuda", "base")
NEW = State(stages=(BASE, DRIVERS, CUDA))
NAMES = {"base", "drivers", "cuda"}


def state(
    done: str = "", running: str = "", unsaved: str = "", after: str | None = "", **more: Any
) -> State:
    """A state of these three stages; the names are separated by blanks."""
    return replace(
        NEW,
        done=frozenset(done.split()),
        running=frozenset(running.split()),
        unsaved=frozenset(unsaved.split()),
        after=None if after is None else tuple(after.split()),
        **more,
    )


START_NOTHING = Action("start")
SAVE, MUST_SAVE = Action("checkpoint"), Action("checkpoint", required=True)
WAIT, STOP = Action("wait"), Action("stop")


@pytest.mark.parametrize(
    ("state", "action"),
    [
        # Stages start as soon as what they need is done.
        (state(), Action("start", (BASE,))),
        (state(running="base"), START_NOTHING),
        (state(done="base"), Action("start", (DRIVERS, CUDA))),
        (state(done="base", running="cuda"), Action("start", (DRIVERS,))),
        (state(done="base drivers", running="cuda"), START_NOTHING),
        (state(done="base drivers cuda"), START_NOTHING),
        # Nothing starts while a stage runs that may reboot the machine.
        (state(done="base", running="drivers"), START_NOTHING),
        # A recipe without checkpoints never takes one.
        (state(done="base", unsaved="base", after=""), Action("start", (DRIVERS, CUDA))),
        # A checkpoint that is due is taken before anything else starts, while no stage runs.
        (state(done="base", unsaved="base", after="base"), SAVE),
        (state(done="base", running="cuda", unsaved="base", after="base"), WAIT),
        (state(done="base", unsaved="base", after=None), SAVE),
        (state(done="base", running="cuda", unsaved="base", after=None), WAIT),
        (state(done="base", unsaved="", after=None), Action("start", (DRIVERS, CUDA))),
        # After other stages than those that the recipe names, none is due.
        (state(done="base", unsaved="base", after="cuda"), Action("start", (DRIVERS, CUDA))),
        (state(done="base cuda", unsaved="base cuda", after="cuda"), SAVE),
        # What has not changed runs first, and is saved before the others begin.
        (state(done="base", first=frozenset({"cuda"})), Action("start", (CUDA,))),
        (state(done="base", running="cuda", first=frozenset({"cuda"})), START_NOTHING),
        (state(done="base cuda", unsaved="cuda", after=None, first=frozenset({"cuda"})), SAVE),
        (
            state(done="base cuda", after=None, first=frozenset({"cuda"})),
            Action("start", (DRIVERS,)),
        ),
        # If EC2 requires a pause, the stages go on.
        (
            state(done="base", unsaved="base", after=None, can_save=False),
            Action("start", (DRIVERS, CUDA)),
        ),
        (
            state(done="base drivers cuda", unsaved="cuda", after=None, can_save=False),
            START_NOTHING,
        ),
        # A machine that is lost starts nothing: what runs may end, is saved, and the bake stops.
        (state(is_lost=True), STOP),
        (state(done="base", running="cuda", after=None, is_lost=True), WAIT),
        (state(done="base", running="cuda", unsaved="base", after=None, is_lost=True), WAIT),
        (state(done="base", unsaved="base", after=None, is_lost=True), MUST_SAVE),
        (state(done="base", unsaved="base", after="cuda", is_lost=True), MUST_SAVE),
        (state(done="base", unsaved="base", after=None, can_save=False, is_lost=True), MUST_SAVE),
        (state(done="base", unsaved="", after=None, is_lost=True), STOP),
        (state(done="base", unsaved="base", after="", is_lost=True), STOP),
    ],
)
def test_the_next_action_of_each_state(state: State, action: Action) -> None:
    assert next_action(state) == action


def test_each_state_has_an_action_that_can_be_carried_out() -> None:
    """A bake waits only for what runs, and takes a checkpoint only while nothing runs."""
    choices = ["", "base", "base cuda", "base drivers", "base drivers cuda"]
    for done in choices:
        for running in ["", *(NAMES - {*done.split()})]:
            for unsaved in ["", *done.split()]:
                for after in (None, "", "base", "cuda drivers"):
                    for can_save in (True, False):
                        for is_lost in (True, False):
                            each = state(
                                done, running, unsaved, after, can_save=can_save, is_lost=is_lost
                            )
                            action = next_action(each)
                            if action.kind in ("checkpoint", "stop"):
                                assert not running, each
                            if action.kind == "wait":
                                assert running, each
                            names = {stage.name for stage in action.stages}
                            assert not names & {*done.split(), running}, each


@pytest.mark.parametrize(
    ("done", "rebooted", "reboot_s"),
    [
        ("", "", 7.0),
        ("", "drivers", 7.0),
        ("", "drivers cuda", 0.0),  # the last one has rebooted the machine, and nothing ran since
        ("base drivers cuda", "", 0.0),  # the machine has just booted from a checkpoint
        ("base drivers", "", 7.0),
    ],
)
def test_the_machine_is_rebooted_if_a_stage_has_run_since_its_last_boot(
    monkeypatch: pytest.MonkeyPatch, done: str, rebooted: str, reboot_s: float
) -> None:
    kept: Any = [SimpleNamespace(name=name) for name in done.split()]
    records, _, seconds = run(monkeypatch, kept, rebooted.split())
    assert [record.name for record in records] == ["base", "drivers", "cuda"]
    assert seconds == reboot_s


def test_stages_run_in_their_order_and_a_refused_checkpoint_is_taken_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """EC2 refuses the first checkpoint: it wants a pause. The others are taken after each wave."""
    records, saved, _ = run(monkeypatch, [], [])
    assert [record.name for record in records] == ["base", "drivers", "cuda"]
    assert saved == [{"base"}, {"base"}, {"base", "drivers"}, {"base", "drivers", "cuda"}]


def run(
    monkeypatch: pytest.MonkeyPatch, done: list[Any], rebooted: list[str]
) -> tuple[list[Any], list[set[str]], float]:
    """Run the three stages; return their records, the checkpoints, and the last reboot's time."""
    ran: list[str] = []
    saved: list[set[str]] = []
    answers = iter([False, True, True, True])

    def take_checkpoint(
        job: Any, machine: Any, connection: Any, kept: Any, *_: Any, **__: Any
    ) -> bool:
        saved.append({record.name for record in kept})
        return next(answers)

    def run_shared(run: Any, one: Any) -> Any:
        ran.append(one.name)
        record: Any = SimpleNamespace(name=one.name)
        return _Ran(record, one.name in rebooted)

    plan: Any = SimpleNamespace(
        stages=tuple(
            SimpleNamespace(name=s.name, digest=s.name, needs=s.needs, may_reboot=s.may_reboot)
            for s in (BASE, DRIVERS, CUDA, stage("seal", "*"))
        )
    )
    recipe = SimpleNamespace(checkpoints=SimpleNamespace(after=None))
    job: Any = SimpleNamespace(
        name="one", plan=plan, recipe=recipe, progress=Progress(), console=Console(quiet=True)
    )
    scheduler = Scheduler(1)
    scheduler.add("one", plan, frozenset)
    scheduler.wait_for_turn("one")
    watch: Any = SimpleNamespace(noticed=None, reserve_s=0.0)
    nothing: Any = None
    monkeypatch.setattr(stages, "take_checkpoint", take_checkpoint)
    monkeypatch.setattr(stages, "_run_shared", run_shared)
    monkeypatch.setattr(stages, "BETWEEN_S", 0)
    monkeypatch.setattr(stages, "_reboot", lambda *_: 7.0)
    shared = StageRun(job, nothing, nothing, scheduler, nothing, watch)
    records, seconds = run_stages(shared, done, lambda: None)
    names = [name for name in ("base", "drivers", "cuda") if name not in {d.name for d in done}]
    assert ran == names, "drivers may reboot the machine, and so runs alone"
    return records, saved, seconds
