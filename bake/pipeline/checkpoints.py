"""Checkpoints in a bake: starting from the one that holds most of the plan, and taking new ones."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta

from bake.aws.checkpoint import (
    Checkpoint,
    as_image,
    best,
    create_checkpoint,
    delete_checkpoint,
    wait_until_completed,
)
from bake.aws.machine import Machine
from bake.aws.snapshot import TOO_SOON
from bake.errors import CheckpointError, CloudError, RemoteError
from bake.pipeline.job import Job, Workshop
from bake.plan.plan import Plan
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
    workshop: Workshop, job: Job, points: StartPoints
) -> Iterator[tuple[str, Checkpoint | None]]:
    """The id of an image to start from, and which checkpoint it is of, if it is of one.

    A checkpoint that turns out bad, or gone, is passed over for the next best.
    """
    cloud, console = workshop.cloud, workshop.console
    with ExitStack() as stack:
        image_id, found = job.ground.base_image.image_id, None
        while (checkpoint := points.best(job.plan)) is not None:
            try:
                with console.step("Start point") as step:
                    ready = wait_until_completed(cloud, checkpoint, on_progress=step.update)
                    registered = as_image(cloud, job.run, ready, job.ground.base_image)
                    image_id, found = stack.enter_context(registered), ready
                    step.done(f"{ready.snapshot_id}: {', '.join(ready.stages)}")
                break
            except CheckpointError as error:
                console.warn(f"{error.message}: starting from what is left")
                points.drop(checkpoint)
        yield image_id, found


def take_checkpoint(
    workshop: Workshop,
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
            workshop.console.step("Checkpoint") as step,
            job.timeline.step("checkpoint", "Checkpoint") as noted,
        ):
            with hold(connection):
                made = create_checkpoint(
                    workshop.cloud,
                    job.run,
                    machine,
                    stages={stage.name: stage.digest for stage in stages},
                    seconds={stage.name: stage.seconds for stage in stages},
                    expires_at=workshop.cloud.now() + max_age,
                    wait_for_turn=wait_for_turn,
                )
            step.done(made.snapshot_id)
            noted(made.snapshot_id)
    except BaseException as error:
        if made is not None:  # the machine did not stand still to the end
            delete_checkpoint(workshop.cloud, made)
        if not isinstance(error, CloudError | RemoteError):
            raise
        if error.code == TOO_SOON and not wait_for_turn:
            return False
        workshop.console.warn(f"No checkpoint: {error.message}. The bake goes on without it")
    else:
        points.add(made)
    return True
