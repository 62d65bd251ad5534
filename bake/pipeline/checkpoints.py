"""Checkpoints in a bake: starting from the one that holds most of the plan, and taking new ones."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta

from bake.aws.checkpoint import (
    Checkpoint,
    create_checkpoint,
    delete_checkpoint,
    wait_until_completed,
)
from bake.aws.machine import Machine
from bake.aws.snapshot import TOO_SOON
from bake.aws.temporary_image import temporary_image
from bake.errors import CheckpointError, CloudError, RemoteError
from bake.pipeline.job import Context, Job
from bake.plan.plan import Plan
from bake.recipe.recipe import SEAL
from bake.record import StageRecord
from bake.ssh.connection import Connection
from bake.ssh.hold import hold


class StartPoints:
    """The checkpoints that there are: found at the start, or made since by a bake of this process.

    For several threads.
    """

    def __init__(self, now: Callable[[], datetime], found: Sequence[Checkpoint] = ()) -> None:
        self._now = now  # the cloud's time
        self._lock = threading.Lock()
        self._known = list(found)

    def best(self, plan: Plan) -> Checkpoint | None:
        with self._lock:
            return best(self._known, plan, plan.recipe.builder.disk_gb, now=self._now())

    def digests(self, plan: Plan) -> frozenset[str]:
        """Of the stages that need not run."""
        checkpoint = self.best(plan)
        return frozenset(checkpoint.stages.values() if checkpoint else ())

    def add(self, checkpoint: Checkpoint) -> None:
        with self._lock:
            self._known.append(checkpoint)

    def drop(self, checkpoint: Checkpoint) -> None:
        with self._lock:
            self._known = [c for c in self._known if c.snapshot_id != checkpoint.snapshot_id]


@contextmanager
def start_image(
    context: Context, job: Job, points: StartPoints
) -> Iterator[tuple[str, Checkpoint | None]]:
    """The id of an image to start from, and which checkpoint it is of, if it is of one.

    A checkpoint that turns out bad, or gone, is passed over for the next best.
    """
    cloud, console = context.cloud, context.console
    with ExitStack() as stack:
        image_id, found = job.ground.base_image.image_id, None
        while (checkpoint := points.best(job.plan)) is not None:
            try:
                with console.step("Start point") as step:
                    ready = wait_until_completed(cloud, checkpoint, on_progress=step.update)
                    registered = temporary_image(
                        cloud, job.run, ready.snapshot_id, job.ground.base_image
                    )
                    image_id, found = stack.enter_context(registered), ready
                    step.done(f"{ready.snapshot_id}: {', '.join(ready.stages)}")
                break
            except CheckpointError as error:
                console.warn(f"{error.message}: starting from what is left")
                points.drop(checkpoint)
        yield image_id, found


def take_checkpoint(
    context: Context,
    job: Job,
    machine: Machine,
    connection: Connection,
    stages: Sequence[StageRecord],
    points: StartPoints,
    *,
    wait_for_turn: bool,
) -> bool:
    """A checkpoint of the machine, which stands still meanwhile. The bake can do without.

    False: EC2 wants a pause after the last one (BETWEEN_S), and it was not to be waited for.
    """
    max_age = timedelta(days=job.recipe.checkpoints.max_age_days)
    made = None
    try:
        with (
            context.console.step("Checkpoint") as step,
            job.timeline.step("checkpoint", "Checkpoint") as noted,
        ):
            with hold(connection):
                made = create_checkpoint(
                    context.cloud,
                    job.run,
                    machine,
                    stages={stage.name: stage.digest for stage in stages},
                    seconds={stage.name: stage.seconds for stage in stages},
                    expires_at=context.cloud.now() + max_age,
                    wait_for_turn=wait_for_turn,
                )
            step.done(made.snapshot_id)
            noted(made.snapshot_id)
    except BaseException as error:
        if made is not None:  # the machine did not stand still to the end
            delete_checkpoint(context.cloud, made)
        if not isinstance(error, CloudError | RemoteError):
            raise
        if error.code == TOO_SOON and not wait_for_turn:
            return False
        context.console.warn(f"No checkpoint: {error.message}. The bake goes on without it")
    else:
        points.add(made)
    return True


_USABLE = {"pending", "completed"}


def usable(checkpoint: Checkpoint, plan: Plan, *, now: datetime) -> bool:
    """Whether all that it holds is a part of this plan that can stand alone. Pure.

    The size of the recipe's disk is `best`'s to look at.
    """
    stages = {stage.name: stage for stage in plan.stages if stage.name != SEAL}
    held = checkpoint.stages
    return (
        checkpoint.sound
        and checkpoint.state in _USABLE
        and not checkpoint.has_expired(now)
        and bool(held)
        and all(name in stages and stages[name].digest == digest for name, digest in held.items())
        and all(set(stages[name].needs) <= held.keys() for name in held)
    )


def best(
    checkpoints: Iterable[Checkpoint], plan: Plan, disk_gb: int, *, now: datetime
) -> Checkpoint | None:
    """The one that saves most of this plan's time, and None where none is usable. Pure.

    By seconds where they are known of every stage, else by the number of stages; then one that is
    completed, then the newest. One that turned out bad is left out, and this asked again.
    """
    able = [c for c in checkpoints if c.size_gb <= disk_gb and usable(c, plan, now=now)]
    # The same digest is the same work, whoever has measured it.
    seconds = {n: s for c in able for n, s in c.seconds.items() if n in c.stages}
    timed = all(name in seconds for c in able for name in c.stages)

    def worth(checkpoint: Checkpoint) -> tuple[float, int, bool, datetime]:
        names = sorted(checkpoint.stages)
        saved = sum(seconds[name] for name in names) if timed else 0.0
        return saved, len(names), checkpoint.state == "completed", checkpoint.started_at

    return max(able, key=worth, default=None)
