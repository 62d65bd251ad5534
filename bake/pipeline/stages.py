"""Running the stages of a plan, at the same time if they do not need each other.

A checkpoint is taken only while no stage runs. If one is due, no stage is started before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from time import monotonic

from bake.aws.machine import Machine
from bake.aws.snapshot import BETWEEN_S
from bake.errors import StageError
from bake.machine.boot import reboot
from bake.machine.watch import SAVE_S, Watch
from bake.pipeline.checkpoints import StartPoints, take_checkpoint
from bake.pipeline.job import Job
from bake.pipeline.scheduler import Action, Scheduler
from bake.pipeline.secrets import revealed
from bake.plan.forecast import REBOOT
from bake.plan.inputs import inputs_file
from bake.plan.plan import Stage
from bake.plan.stage_files import archive
from bake.record import StageRecord
from bake.ssh.connection import Connection
from bake.ssh.reboot import reboot_is_required
from bake.ssh.runner import run_stage
from bake.threads import TaskGroup
from bake.verify import find_secrets

STAGE_TIMEOUT_S = 3 * 3600


@dataclass(frozen=True)
class StageRun:
    """Everything that the stages of one bake run with.

    The other stages wait for those in `first`.
    """

    job: Job
    machine: Machine
    connection: Connection
    scheduler: Scheduler
    points: StartPoints
    watch: Watch
    first: frozenset[str] = frozenset()


@dataclass(frozen=True)
class State:
    """The progress of the stages of a bake.

    `stages` are to be installed, in the plan's order. `done`, `running` and `unsaved` (ended since
    the last checkpoint) are names of stages. The recipe wants a checkpoint after the stages in
    `after`; None means after each. `can_save`: EC2 allows a checkpoint now, without a pause.
    `is_lost`: the machine will end soon. The other stages wait for those in `first`.
    """

    stages: tuple[Stage, ...]
    done: frozenset[str] = frozenset()
    running: frozenset[str] = frozenset()
    unsaved: frozenset[str] = frozenset()
    after: tuple[str, ...] | None = ()
    can_save: bool = True
    is_lost: bool = False
    first: frozenset[str] = frozenset()

    @property
    def checkpoint_is_due(self) -> bool:
        if self.after is None:
            return bool(self.unsaved)
        return not self.unsaved.isdisjoint(self.after)

    @property
    def ready(self) -> tuple[Stage, ...]:
        """The stages that can start now. None while one runs that may reboot the machine."""
        if any(stage.may_reboot for stage in self.stages if stage.name in self.running):
            return ()
        begun = self.done | self.running
        ready = (s for s in self.stages if s.name not in begun and self.done >= {*s.needs})
        before = self.first - self.done
        return tuple(stage for stage in ready if not before or stage.name in before)


def next_action(state: State) -> Action:
    """Decide what one bake does next. Pure.

    "start" is a proposal: the scheduler chooses among the stages. A machine that is lost starts
    nothing more; it saves what is done, unless the recipe wants no checkpoint at all, and stops.
    """
    if state.is_lost:
        if state.running:
            return Action("wait")
        if state.unsaved and state.after != ():
            return Action("checkpoint", required=True)
        return Action("stop")
    if state.checkpoint_is_due and state.can_save:
        return Action("wait") if state.running else Action("checkpoint")
    return Action("start", state.ready)


@dataclass(frozen=True)
class _Ran:
    """A stage that has ended. `rebooted`: the machine was rebooted afterwards."""

    record: StageRecord
    rebooted: bool


@dataclass
class _Progress:
    """The stages that are done, in the run of one bake.

    `unsaved` have ended since the last checkpoint. `since_boot`: a stage has run since the
    machine's last boot. `not_before` is on the monotonic clock: EC2 requires a pause between two
    checkpoints.
    """

    records: dict[str, StageRecord]
    since_boot: bool = False
    unsaved: set[str] = field(default_factory=set)
    not_before: float = 0.0

    def state(self, run: StageRun, running: frozenset[str], *, is_lost: bool) -> State:
        return State(
            stages=run.job.plan.stages[:-1],
            done=frozenset(self.records),
            running=running,
            unsaved=frozenset(self.unsaved),
            after=run.job.recipe.checkpoints.after,
            can_save=monotonic() >= self.not_before,
            is_lost=is_lost,
            first=run.first,
        )

    def add(self, name: str, ran: _Ran) -> None:
        self.records[name] = ran.record
        self.unsaved.add(name)
        self.since_boot = not ran.rebooted

    def save(self, run: StageRun, *, required: bool) -> None:
        """Take a checkpoint; if EC2 refuses it for now, it is tried again after a pause."""
        stages = list(self.records.values())
        if take_checkpoint(
            run.job, run.machine, run.connection, stages, run.points, wait_for_turn=required
        ):
            self.unsaved.clear()
            run.scheduler.saved(run.job.name)
        else:
            self.not_before = monotonic() + BETWEEN_S


def run_stages(
    run: StageRun, done: list[StageRecord], still_ours: Callable[[], None]
) -> tuple[list[StageRecord], float]:
    """Run every stage but the last one, which seals. `done` are those that the start point holds.

    Then reboot the machine if a stage has run since its last boot: the checks that follow see it
    booted, as users will. Return the stages and the seconds of that reboot, 0 without one.

    StageError of the first stage that fails, after the others were stopped; their logs are kept.
    LostError if the machine ends soon: the stages that still end in time are saved first.
    `still_ours` raises if another run has taken over.
    """
    job, watch = run.job, run.watch
    progress = _Progress({record.name: record for record in done})
    watch.reserve_s = math.inf if job.recipe.checkpoints.after == () else SAVE_S
    with TaskGroup[str, _Ran]() as group:
        while True:
            still_ours()
            lost = watch.noticed
            action = next_action(progress.state(run, group.running, is_lost=lost is not None))
            if action.kind == "start":
                action = run.scheduler.choose(job.name, action.stages, busy=bool(group.running))
            if action.kind == "stop" and lost:
                raise lost
            if action.kind == "checkpoint":
                if lost:
                    watch.reserve_s = 0
                progress.save(run, required=action.required)
                continue
            for stage in action.stages:
                group.start(stage.name, partial(_run_shared, run, stage))
            if not group.running:
                break
            progress.add(*group.next())
            job.console.note_without_terminal(job.progress.describe())
    watch.reserve_s = math.inf
    reboot_s = 0.0
    if progress.since_boot:
        with job.progress.step(REBOOT):
            reboot_s = _reboot(job, run.machine, run.connection)
    return [progress.records[stage.name] for stage in job.plan.stages[:-1]], reboot_s


def run_one(job: Job, connection: Connection, stage: Stage) -> StageRecord:
    """Run one stage. StageError if it fails, or leaves one of its secrets on the disk."""
    secrets = revealed(job.secrets, stage.script.secrets)
    began = int(connection.run("date +%s").stdout) - 1 if secrets else 0
    with (
        job.progress.step(stage.name),
        job.console.step(
            stage.name,
            count=job.progress.count(stage.name),
            usual_s=job.progress.usual_s(stage.name),
        ) as step,
        job.timeline.step("stage", stage.name),
    ):
        seconds = run_stage(
            connection,
            stage.name,
            script=stage.script.body,
            lib=job.plan.lib,
            archive=archive(stage.files),
            inputs=inputs_file(stage.name, {**stage.inputs, **secrets}),
            log=job.folder / f"{stage.name}.log",
            on_line=step.update,
            timeout_s=STAGE_TIMEOUT_S,
            run_id=job.run.id,
            secrets=revealed(job.secrets).values(),
        )
        # Before a checkpoint can hold it: a bake from that checkpoint would not search again.
        if secrets and (found := find_secrets(connection, secrets, since=began)):
            raise StageError(
                f"stage {stage.name} has left a secret on the disk",
                hint="The image would contain it: keep it under /run, or remove the file in the "
                "stage",
                details=found,
            )
    return StageRecord(name=stage.name, digest=stage.digest, seconds=seconds)


def _run_shared(run: StageRun, stage: Stage) -> _Ran:
    """Run a stage, and reboot the machine if the stage needs it. Other bakes learn of a failure.

    LostError instead of StageError if the machine is lost: a shutdown kills the stages.
    """
    try:
        record = run_one(run.job, run.connection, stage)
    except StageError as error:
        run.watch.raise_if_lost(error)
        run.scheduler.failed(run.job.name, stage, error)
        raise
    required = stage.script.reboots == "yes"
    if stage.script.reboots == "when-required":
        required = reboot_is_required(run.connection)
    if required:
        seconds = record.seconds + _reboot(run.job, run.machine, run.connection)
        record = record.model_copy(update={"seconds": seconds})
    return _Ran(record, rebooted=required)


def _reboot(job: Job, machine: Machine, connection: Connection) -> float:
    """Reboot the machine, wait until it answers again, and return how many seconds that took."""
    began = monotonic()
    with job.console.step("Reboot") as step, job.timeline.step("reboot", "Reboot"):
        reboot(
            job.cloud,
            machine,
            connection,
            on_wait=step.update,
            timeout_s=job.context.boot_timeout_s,
        )
    return monotonic() - began
