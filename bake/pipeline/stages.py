"""Running the stages of a plan: at the same time where they do not need each other.

A checkpoint is taken only when no stage runs. Where one is due, none is started until then.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from time import monotonic

from bake.aws.machine import Machine
from bake.aws.snapshot import BETWEEN_S
from bake.errors import StageError
from bake.machine.boot import reboot
from bake.machine.watch import SAVE_S, Watch
from bake.pipeline.checkpoints import StartPoints, take_checkpoint
from bake.pipeline.job import Context, Job
from bake.pipeline.scheduler import Action, Scheduler
from bake.pipeline.secrets import revealed
from bake.plan.inputs import inputs_file
from bake.plan.plan import Stage
from bake.record import StageRecord
from bake.ssh.connection import Connection
from bake.ssh.runner import run_stage
from bake.threads import TaskGroup
from bake.verify import find_secrets

STAGE_TIMEOUT_S = 3 * 3600


def run_stages(
    context: Context,
    job: Job,
    machine: Machine,
    connection: Connection,
    done: list[StageRecord],
    *,
    scheduler: Scheduler,
    points: StartPoints,
    watch: Watch,
    still_ours: Callable[[], None],
) -> list[StageRecord]:
    """Every stage but the last one, which seals; `done` are those that the start point holds.

    StageError of the first one that fails; the others are stopped by then, and their logs kept.
    `still_ours` raises when another run has taken over. LostError when the machine is: of one that
    ends soon, what has ended is saved first, where all that runs there ends in time.
    """
    name, installing = job.recipe.name, job.plan.stages[:-1]
    after = job.recipe.checkpoints.after
    records = {record.name: record for record in done}
    unsaved: list[str] = []
    not_before = 0.0

    def save(*, wait_for_turn: bool) -> None:
        nonlocal not_before
        kept = list(records.values())
        if take_checkpoint(
            context, job, machine, connection, kept, points, wait_for_turn=wait_for_turn
        ):
            unsaved.clear()
            scheduler.saved(name)
        else:
            not_before = monotonic() + BETWEEN_S

    watch.reserve_s = math.inf if after == () else SAVE_S
    with TaskGroup[str, StageRecord]() as group:
        while True:
            still_ours()
            lost = watch.noticed
            if lost and not group.running:
                if unsaved and after != ():
                    watch.reserve_s = 0
                    save(wait_for_turn=True)
                raise lost
            due = _is_due(after, unsaved) and monotonic() >= not_before
            if due and not group.running:
                save(wait_for_turn=False)
                continue
            begun = records.keys() | group.running
            ready = [s for s in installing if s.name not in begun and records.keys() >= {*s.needs}]
            if any(stage.reboots and stage.name in group.running for stage in installing):
                ready = []
            busy = bool(group.running)
            step = Action() if due or lost else scheduler.next_step(name, ready, busy=busy)
            if step.checkpoint:
                save(wait_for_turn=True)
                continue
            for stage in step.stages:
                work = partial(
                    _run_shared, context, job, machine, connection, stage, scheduler, watch
                )
                group.start(stage.name, work)
            if not group.running:
                break
            ended, records[ended] = group.next()
            unsaved.append(ended)
    watch.reserve_s = math.inf
    return [records[stage.name] for stage in installing]


def run_one(context: Context, job: Job, connection: Connection, stage: Stage) -> StageRecord:
    """StageError when it fails, or leaves one of its secrets on the disk."""
    secrets = revealed(job.secrets, stage.script.secrets)
    began = int(connection.run("date +%s").stdout) - 1 if secrets else 0
    with context.console.step(stage.name) as step, job.timeline.step("stage", stage.name):
        seconds = run_stage(
            connection,
            stage.name,
            script=stage.script.body,
            lib=job.plan.lib,
            inputs=inputs_file(stage.name, {**stage.inputs, **secrets}),
            log=job.folder / f"{stage.name}.log",
            on_line=step.update,
            timeout_s=STAGE_TIMEOUT_S,
            run_id=job.run.id,
            secrets=revealed(job.secrets).values(),
        )
        # Before a checkpoint holds it: a later bake, from there, would not look again.
        if secrets and (found := find_secrets(connection, secrets, since=began)):
            raise StageError(
                f"stage {stage.name} has left a secret on the disk",
                hint="An image would hold it: keep it under /run, or remove the file in the stage.",
                details=found,
            )
    return StageRecord(name=stage.name, digest=stage.digest, seconds=seconds)


def _run_shared(
    context: Context,
    job: Job,
    machine: Machine,
    connection: Connection,
    stage: Stage,
    scheduler: Scheduler,
    watch: Watch,
) -> StageRecord:
    try:
        record = run_one(context, job, connection, stage)
    except StageError as error:
        watch.refuse_if_lost(error)  # a shutdown kills stages: then it is not theirs
        scheduler.failed(job.recipe.name, stage, error)
        raise
    if stage.reboots:
        seconds = record.seconds + _reboot(context, job, machine, connection)
        return record.model_copy(update={"seconds": seconds})
    return record


def _reboot(context: Context, job: Job, machine: Machine, connection: Connection) -> float:
    """The machine is rebooted, and answers again; the seconds that it took."""
    began = monotonic()
    with context.console.step("Reboot") as step, job.timeline.step("reboot", "Reboot"):
        reboot(
            context.cloud,
            machine,
            connection,
            on_wait=step.update,
            timeout_s=context.boot_timeout_s,
        )
    return monotonic() - began


def _is_due(after: tuple[str, ...] | None, unsaved: list[str]) -> bool:
    """`after` None: after every wave."""
    return bool(unsaved) if after is None else not set(unsaved).isdisjoint(after)
