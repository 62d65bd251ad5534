"""The course of a bake: recipes become verified images, nothing is done twice, nothing is left.

One bake: an image that already exists is the result. Otherwise it takes the lease, starts a machine
from the best start point, runs the stages, proves and seals the machine, and creates the image.
Several bakes run at the same time, each in a thread, and do only once what they share.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Literal, TypeVar

from bake import files
from bake.aws.checkpoint import checkpoints
from bake.aws.client.undo import clean_up, note_leftovers
from bake.aws.image import Image
from bake.aws.image_creation import check_name, undo_image
from bake.aws.lease import lease
from bake.errors import BakeError, CloudError, FileError, LostError, RequestError
from bake.machine.watch import Watch
from bake.pipeline.builder import Builder, OnFailure, running_builder
from bake.pipeline.checkpoints import StartPoints, remove_old_checkpoints
from bake.pipeline.finish import (
    check_it_is_clean,
    prove_it,
    remove_record,
    take_image,
    write_record,
    write_report,
)
from bake.pipeline.history import History, read_history
from bake.pipeline.job import Context, Job, finished_image, prepare, take_up
from bake.pipeline.reaping import reap_own
from bake.pipeline.scheduler import Scheduler
from bake.pipeline.stages import StageRun, run_one, run_stages
from bake.plan.forecast import BUILDER, PROOF, REBOOT, Course
from bake.recipe.recipe import environment_prefix
from bake.recipe.resolved import Resolved
from bake.record import Inventory, Record, StageRecord
from bake.threads import TaskGroup, held_back
from bake.verify import Check, Proof, read_inventory

T = TypeVar("T")
BakeRequest = tuple[Context, Resolved]
MOST_MACHINES = 3  # that one bake starts, one after the other, if they are lost


@dataclass(frozen=True)
class Options:
    """The options of one command, for all its bakes.

    `name` is the image's name. `fresh` ignores existing images and checkpoints. `machines` is how
    many machines may run at the same time.
    """

    name: str | None = None
    fresh: bool = False
    on_failure: OnFailure = field(default_factory=OnFailure)
    machines: int = 4

    def check(self, recipes: int, *, interactive: bool) -> None:
        """Raise RequestError if the options exclude each other, or this number of recipes."""
        if self.machines < 1:
            message = f"--jobs {self.machines}: at least one machine is needed"
            raise RequestError(message, hint="Give 1 or more, or leave it out")
        if recipes > 1 and self.name:
            raise RequestError("--name is for one image", hint="Leave it out, or name one recipe")
        if self.name is not None:
            check_name(self.name)
        if self.on_failure.shell and (recipes > 1 or not interactive):
            raise RequestError(
                "--shell-on-failure is for one recipe, in a terminal, without --json",
                hint="Use --keep-on-failure",
            )


@dataclass(frozen=True)
class Outcome:
    """The result of one recipe. `record` is set if it was baked now, `error` if it failed."""

    recipe: str
    status: Literal["baked", "up to date", "failed"]
    seconds: float
    image: Image | None = None
    record: Record | None = None
    error: BakeError | None = None


@dataclass(frozen=True)
class Batch:
    """Everything that the bakes of one command share.

    `began` is on the monotonic clock. `points` has the start points of each region. `new_images`
    maps the name of a job whose bake has not ended to the image that it has created. `history` has
    the earlier bakes of each region.
    """

    options: Options
    began: float
    scheduler: Scheduler
    points: Mapping[str, StartPoints]
    history: Mapping[str, History]
    new_images: dict[str, tuple[Job, Image]] = field(default_factory=dict)

    def points_of(self, job: Job) -> StartPoints:
        return self.points[job.cloud.region]

    def course_of(self, job: Job, held: Collection[str]) -> Course:
        """Return the expected course of a bake from a start point that holds these stages."""
        history = self.history.get(job.cloud.region, History())
        return history.course(job.plan, held, fresh=self.options.fresh)

    def seconds(self) -> float:
        return monotonic() - self.began


def bake(context: Context, resolved: Resolved, options: Options | None = None) -> Outcome:
    """Bake one recipe.

    RequestError before anything is started; any other BakeError after everything that was started
    has been removed.
    """
    began = monotonic()
    options = options or Options()
    job = prepare(context, resolved, name=options.name, fresh=options.fresh)
    (outcome,) = bake_jobs([job], options, began)
    if outcome.error is not None:
        raise outcome.error
    return outcome


def bake_all(
    requests: Sequence[BakeRequest], options: Options, refused: Sequence[Outcome] = ()
) -> list[Outcome]:
    """Bake several recipes; the failure of one does not stop the others.

    A recipe whose image is the base of others is baked before them. `refused` are the outcomes of
    recipes that were refused before. They are returned, too, and all are sorted by recipe.
    """
    began = monotonic()
    outcomes = [*refused]
    for ready in after_their_bases(requests):
        jobs, failed = for_each(ready, partial(prepare, fresh=options.fresh))
        outcomes += [*failed, *bake_jobs(jobs, options, began)]
    return sorted(outcomes, key=lambda outcome: outcome.recipe)


def after_their_bases(requests: Sequence[BakeRequest]) -> Iterator[list[BakeRequest]]:
    """Yield the requests in groups: the base of a recipe is in an earlier one. Pure."""
    waiting = [*requests]
    while waiting:
        names = {resolved.name for _, resolved in waiting}
        ready, later = list[BakeRequest](), list[BakeRequest]()
        for request in waiting:
            (later if request[1].is_based_on(names) else ready).append(request)
        yield ready or later
        waiting = later if ready else []


def for_each(
    requests: Sequence[BakeRequest], work: Callable[[Context, Resolved], T]
) -> tuple[list[T], list[Outcome]]:
    """Do `work` for all requests at the same time; return its results, and its failures.

    Each call gets a context of its own. RequestError if two recipes have the same name.
    """
    names = [resolved.name for _, resolved in requests]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise RequestError(f"Two recipes are named {twice[0]}", hint="Give each a name of its own")
    contexts = {each.name: context.for_one(each.name) for context, each in requests}
    results: dict[str, T | BakeError] = {}
    with TaskGroup[str, T | BakeError]() as group:
        for _, each in requests:
            group.start(each.name, partial(_result_of, work, contexts[each.name], each))
        while group.running:
            name, result = group.next()
            results[name] = result
    in_order = [(name, results[name]) for name in names]
    done = [result for _, result in in_order if not isinstance(result, BakeError)]
    failed = [
        Outcome(name, "failed", 0, error=result)
        for name, result in in_order
        if isinstance(result, BakeError)
    ]
    return done, failed


def _result_of(
    work: Callable[[Context, Resolved], T], context: Context, resolved: Resolved
) -> T | BakeError:
    try:
        with files.any_file():
            return work(context, resolved)
    except BakeError as error:
        return error


def bake_jobs(jobs: Sequence[Job], options: Options, began: float) -> list[Outcome]:
    """Bake each job in a thread of its own. The main thread waits, and handles interrupts.

    An interrupt stops all bakes. An image whose bake has not ended is removed with its snapshots; a
    note on the exception names each image that was finished before.
    """
    # The smallest disks first: a larger disk can start from their checkpoints, but not vice versa.
    jobs = sorted(jobs, key=lambda job: job.recipe.builder.disk_gb)
    batch = _batch(jobs, options, began)
    outcomes: list[Outcome] = []
    try:
        with TaskGroup[str, Outcome]() as group:
            for job in jobs:
                group.start(job.name, partial(_outcome, job, batch))
            while group.running:
                _, outcome = group.next()
                with held_back():
                    batch.new_images.pop(outcome.recipe, None)
                    outcomes.append(outcome)
        for job in jobs:
            remove_old_checkpoints(job)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            for job, image in batch.new_images.values():
                _remove_new_image(job, image)
            ended = {outcome.recipe for outcome in outcomes}
            for job in jobs:
                for text in _resume_point(job, batch) if job.name not in ended else ():
                    job.console.note(text)
        for outcome in outcomes:
            if outcome.status == "baked" and outcome.image:
                error.add_note(f"The image {outcome.image.image_id} was already finished: it stays")
        for job in jobs:
            note_leftovers(error, job.cloud.leftovers)
        raise
    return outcomes


def _batch(jobs: Sequence[Job], options: Options, began: float) -> Batch:
    """Return what the jobs share; every job that needs a machine is added to the scheduler."""
    points = {job.cloud.region: StartPoints(job.cloud.now) for job in jobs}
    history: dict[str, History] = {}
    working = [job for job in jobs if not job.nothing_to_do]
    for region, cloud in {job.cloud.region: job.cloud for job in working}.items():
        found = [] if options.fresh else checkpoints(cloud)
        points[region] = StartPoints(cloud.now, found)
        with suppress(CloudError):  # a bake does not need to know about earlier ones
            history[region] = read_history(cloud, found)
    scheduler = Scheduler(options.machines)
    for job in working:
        scheduler.add(job.name, job.plan, partial(points[job.cloud.region].digests, job.plan))
    return Batch(options, began, scheduler, points, history)


def _resume_point(job: Job, batch: Batch) -> tuple[str, ...]:
    """Return from which checkpoint the next bake resumes; nothing if no machine was started."""
    if start := batch.points_of(job).best(job.plan):
        return (f"The next bake resumes from {start.snapshot_id}: {', '.join(start.stages)}",)
    if job.timeline.machines:
        return ("The next bake starts from the base image: this one has saved no checkpoint",)
    return ()


def _remove_new_image(job: Job, image: Image) -> None:
    """Remove an image whose bake was interrupted, and the record that describes it."""
    with held_back():
        job.console.warn(f"Removing the image {image.image_id}")
        undo_image(job.cloud, image.image_id, image.name, dict(image.tags))
        remove_record(job)


def _outcome(job: Job, batch: Batch) -> Outcome:
    try:
        with files.any_file():
            result = _find_or_bake(job, batch)
    except BakeError as error:
        if job.name not in batch.new_images:
            error.details += _resume_point(job, batch)
        write_report(job, error)
        return Outcome(job.name, "failed", batch.seconds(), error=error)
    finally:
        batch.scheduler.leave(job.name)
    if isinstance(result, Image):
        return Outcome(job.name, "up to date", batch.seconds(), image=result)
    record, image = result
    write_report(job)
    return Outcome(job.name, "baked", batch.seconds(), image=image, record=record)


def _find_or_bake(job: Job, batch: Batch) -> Image | tuple[Record, Image]:
    """Return the image if it exists, or as soon as another run has made it; otherwise bake it."""
    cloud, console, options = job.cloud, job.console, batch.options

    def find() -> Image | None:
        found = None if options.fresh else finished_image(cloud, job.plan)
        return take_up(job.context, found) if found else None

    if job.image and job.nothing_to_do:
        image = job.image
        console.note(f"Up to date: {image.image_id} already matches this recipe")
        return image
    with clean_up(cloud.leftovers) as stack:
        with console.waiting() as wait:
            held = stack.enter_context(
                lease(cloud, job.run, job.plan.digest, found=find, on_wait=wait)
            )
            if not isinstance(held, Image):
                batch.scheduler.wait_for_turn(job.name, on_wait=wait)
        if isinstance(held, Image):
            console.note(f"Another run has baked this image: {held.image_id}")
            return held
        files.make_folder(job.folder)
        reap_own(job, held.dead)

        def bake_on(number: int) -> tuple[Record, Image]:
            """Bake on the run's machine of this number."""
            points, on_failure = batch.points_of(job), options.on_failure
            start = points.best(job.plan)
            saved = start.stages if start else ()
            console.note(job.progress.expect(batch.course_of(job, saved), saved))
            with (
                console.status(job.progress.describe),
                running_builder(job, points, on_failure, number=number) as builder,
            ):
                return _bake_on(builder, job, batch, held.check)

        return _retry_if_lost(job, bake_on)


def _retry_if_lost(job: Job, bake_on: Callable[[int], T]) -> T:
    """Return the result of the first machine that is not lost; MOST_MACHINES are tried.

    LostError if all were lost, or if the run's time is over: then its machines end. An error of
    another kind names in its details the machines that were lost before.
    """
    lost: list[str] = []
    while True:
        try:
            return bake_on(len(lost) + 1)
        except LostError as error:
            lost.append(f"machine {len(lost) + 1}: {error.full_message}")
            if job.run.expires_at and job.cloud.now() >= job.run.expires_at:
                error.hint = "The bake's time limit is reached: raise builder.timeout_hours"
                error.details += tuple(lost[:-1])
                raise
            if len(lost) == MOST_MACHINES:
                raise LostError(
                    f"{MOST_MACHINES} machines were lost in a row: the bake stops",
                    hint="Run the same command again: it continues from the last checkpoint",
                    details=[*lost, *error.details],
                ) from error
            job.console.warn(f"{error.full_message}. Continuing on another machine")
            job.console.continue_after_failure()
        except BakeError as error:
            error.details += tuple(lost)
            raise


def _bake_on(
    builder: Builder, job: Job, batch: Batch, still_ours: Callable[[], None]
) -> tuple[Record, Image]:
    """Run the stages on a machine that was started, prove and seal it, and create its image.

    LostError as soon as the machine is lost. `still_ours` raises if another run took the lease.
    """
    machine, connection = builder.machine, builder.connection
    watch = Watch(job.cloud, machine, connection, job.console)
    done = _stages_of_start_point(builder, job)
    batch.scheduler.started(job.name, frozenset(record.digest for record in done))
    held = {record.name for record in done}
    expected = batch.course_of(job, held)
    job.progress.expect(expected, {BUILDER, *held})

    def install_and_prove() -> tuple[list[StageRecord], Proof, Inventory, dict[str, float]]:
        with job.console.step("Stages") as step:
            run = StageRun(
                job.within(step),
                machine,
                connection,
                batch.scheduler,
                batch.points_of(job),
                watch,
                expected.first,
            )
            stages, reboot_s = run_stages(run, done, still_ours)
        began = monotonic()
        proof = prove_it(job, machine, connection)
        seconds = {PROOF: monotonic() - began} | ({REBOOT: reboot_s} if reboot_s else {})
        with job.timeline.step("inventory", "Inventory"):
            installed = read_inventory(connection, environment_prefix(job.recipe))
        return stages, proof, installed, seconds

    def seal() -> tuple[StageRecord, tuple[Check, ...]]:
        sealed = run_one(job, connection, job.plan.stages[-1])
        return sealed, check_it_is_clean(job, connection)

    stages, proof, installed, seconds = watch.run_while_alive(install_and_prove, listening=True)
    # From here on nothing else runs on the machine, so that no trace of it gets into the image.
    sealed, clean = watch.run_while_alive(seal)
    stages.append(sealed)
    connection.close()
    still_ours()
    seconds[BUILDER] = builder.seconds
    try:
        image = take_image(job, machine, stages, proof, seconds, meanwhile=builder.shut)
    except BakeError as error:
        watch.raise_if_lost(error, {"shutting-down", "terminated"})  # we stop it for the image
        raise
    batch.new_images[job.name] = job, image
    try:
        record = write_record(job, machine, image, stages, proof, clean, installed)
    except FileError as error:
        error.details += (f"The image {image.image_id} is finished, and it stays",)
        raise
    return record, image


def _stages_of_start_point(builder: Builder, job: Job) -> list[StageRecord]:
    """Return the stages that the builder's start point already contains."""
    start = builder.start
    if start is None:
        return []
    return [
        StageRecord(
            name=stage.name,
            digest=stage.digest,
            seconds=start.seconds.get(stage.name, 0.0),
            checkpoint=start.snapshot_id,
        )
        for stage in job.plan.stages
        if stage.name in start.stages
    ]
