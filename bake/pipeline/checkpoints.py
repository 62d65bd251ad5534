"""Checkpoints in a bake: which one it starts from, when one is taken, and which are removed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta

from bake.aws.checkpoint import (
    Checkpoint,
    checkpoints,
    create_checkpoint,
    delete_checkpoint,
    wait_until_completed,
)
from bake.aws.client.session import Cloud
from bake.aws.machine import Machine
from bake.aws.snapshot import NOT_YET
from bake.aws.temporary_image import temporary_image
from bake.errors import CheckpointError, CloudError, RemoteError
from bake.pipeline.job import Job
from bake.plan.plan import Plan
from bake.recipe.recipe import SEAL
from bake.record import StageRecord
from bake.ssh.connection import Connection
from bake.ssh.hold import hold

_USABLE_STATES = {"pending", "completed"}


def usable(checkpoint: Checkpoint, plan: Plan, *, now: datetime) -> bool:
    """Tell if a bake of this plan can start from the checkpoint. Pure.

    Every stage that it contains must belong to the plan, together with the stages that it needs.
    The size of the disk is not considered here, but in `best`.
    """
    stages = {stage.name: stage for stage in plan.stages if stage.name != SEAL}
    held = checkpoint.stages
    return (
        checkpoint.sound
        and checkpoint.state in _USABLE_STATES
        and not checkpoint.has_expired(now)
        and bool(held)
        and all(name in stages and stages[name].digest == digest for name, digest in held.items())
        and all(set(stages[name].needs) <= held.keys() for name in held)
    )


def best(
    candidates: Iterable[Checkpoint], plan: Plan, disk_gb: int, *, now: datetime
) -> Checkpoint | None:
    """Return the checkpoint that saves most of the plan's time, None if none is usable. Pure.

    The time is compared if it is known for every stage, otherwise the number of stages; then a
    completed checkpoint comes before a pending one, and a new one before an old one.
    """
    able = [c for c in candidates if c.size_gb <= disk_gb and usable(c, plan, now=now)]
    # A stage with the same digest does the same work, whichever run measured it.
    seconds = {n: s for c in able for n, s in c.seconds.items() if n in c.stages}
    timed = all(name in seconds for c in able for name in c.stages)

    def worth(checkpoint: Checkpoint) -> tuple[float, int, bool, datetime]:
        names = sorted(checkpoint.stages)
        saved = sum(seconds[name] for name in names) if timed else 0.0
        return saved, len(names), checkpoint.state == "completed", checkpoint.started_at

    return max(able, key=worth, default=None)


class StartPoints:
    """The checkpoints of one region: those found at the start, and those made since. Thread-safe.

    `now` returns the cloud's time.
    """

    def __init__(self, now: Callable[[], datetime], found: Sequence[Checkpoint] = ()) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._known = list(found)

    def best(self, plan: Plan) -> Checkpoint | None:
        with self._lock:
            return best(self._known, plan, plan.recipe.builder.disk_gb, now=self._now())

    def digests(self, plan: Plan) -> frozenset[str]:
        """Return the digests of the stages that need not run, because the best one holds them."""
        checkpoint = self.best(plan)
        return frozenset(checkpoint.stages.values() if checkpoint else ())

    def add(self, checkpoint: Checkpoint) -> None:
        with self._lock:
            self._known.append(checkpoint)

    def drop(self, checkpoint: Checkpoint) -> None:
        with self._lock:
            self._known = [c for c in self._known if c.snapshot_id != checkpoint.snapshot_id]


@contextmanager
def start_image(job: Job, points: StartPoints) -> Iterator[tuple[str, Checkpoint | None]]:
    """The id of the image to start from, and its checkpoint; None for the base image.

    A checkpoint that cannot be used, or no longer exists, is dropped, and the next best is tried.
    """
    cloud, console, base_image = job.cloud, job.console, job.preflight.base_image
    with ExitStack() as stack:
        image_id, start = base_image.image_id, None
        while (checkpoint := points.best(job.plan)) is not None:
            try:
                with console.step("Start point") as step:
                    ready = wait_until_completed(cloud, checkpoint, on_progress=step.update)
                    registered = temporary_image(cloud, job.run, ready.snapshot_id, base_image)
                    image_id, start = stack.enter_context(registered), ready
                    step.done(f"{ready.snapshot_id}: {', '.join(ready.stages)}")
                break
            except CheckpointError as error:
                console.warn(f"{error.message}: trying the next best start point")
                points.drop(checkpoint)
        yield image_id, start


def take_checkpoint(
    job: Job,
    machine: Machine,
    connection: Connection,
    stages: Sequence[StageRecord],
    points: StartPoints,
    *,
    wait_for_turn: bool,
) -> bool:
    """Take a checkpoint of the machine, which is frozen meanwhile. A failure is only a warning.

    False if EC2 takes no snapshot of the disk for now, and `wait_for_turn` is not set.
    """
    max_age = timedelta(days=job.recipe.checkpoints.max_age_days)
    made = None
    try:
        with (
            job.console.step("Checkpoint") as step,
            job.timeline.step("checkpoint", "Checkpoint") as set_detail,
        ):
            with hold(connection):
                made = create_checkpoint(
                    job.cloud,
                    job.run,
                    machine,
                    stages={stage.name: stage.digest for stage in stages},
                    seconds={stage.name: stage.seconds for stage in stages},
                    expires_at=job.cloud.now() + max_age,
                    payload=job.context.payload.name,
                    wait_for_turn=wait_for_turn,
                )
            step.done(made.snapshot_id)
            set_detail(made.snapshot_id)
    except BaseException as error:
        if made is not None:  # the disk may have changed before the snapshot was complete
            delete_checkpoint(job.cloud, made)
        if not isinstance(error, CloudError | RemoteError):
            raise
        if error.code in NOT_YET and not wait_for_turn:
            return False
        job.console.warn(f"No checkpoint: {error.message}. The bake continues without it")
    else:
        points.add(made)
    return True


def prune(
    cloud: Cloud, recipe_name: str, *, keep: int, now: datetime | None = None
) -> list[Checkpoint]:
    """Remove a recipe's checkpoints that have expired or failed, or are beyond the newest `keep`.

    Return those that were removed. One from which a machine is being started stays; one that EC2
    refuses to delete becomes a Leftover.
    """
    known = checkpoints(cloud, recipe_name)
    now = now or cloud.now()
    good = [c for c in known if c.state != "error" and not c.has_expired(now)]
    kept = {checkpoint.snapshot_id for checkpoint in good[:keep]}
    return [c for c in known if c.snapshot_id not in kept and delete_checkpoint(cloud, c)]


def remove_old_checkpoints(job: Job) -> None:
    """Remove the checkpoints that the job's recipe does not keep. A failure is only a warning."""
    settings = job.recipe.checkpoints
    keep = 0 if settings.after == () else settings.keep
    try:
        prune(job.cloud, job.name, keep=keep)
    except CloudError as error:
        job.console.warn(f"Old checkpoints were not removed: {error.message} ({error.code})")
    for leftover in job.cloud.leftovers:
        job.console.warn(str(leftover))
