"""The story of a bake: recipes become verified images, nothing is done twice, and nothing is left.

One bake: an image that is there is the answer; else the right to bake it, a machine from the best
start point, the stages in waves, the proof, the seal, the image. Many bakes: the same at once, each
in a thread, with what they share done once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from time import monotonic
from typing import Literal, TypeVar

from bake.aws.checkpoint import checkpoints, prune
from bake.aws.client.undo import clean_up, note_leftovers
from bake.aws.image import Image
from bake.aws.lease import lease
from bake.errors import BakeError, CloudError, LostError, RequestError
from bake.machine.watch import Watch
from bake.pipeline.builder import Builder, OnFailure, a_builder
from bake.pipeline.checkpoints import StartPoints
from bake.pipeline.finish import check_it_is_clean, prove_it, take_image, write_record, write_report
from bake.pipeline.job import Context, Job, finished_image, prepare, take_up
from bake.pipeline.reaping import reap_own
from bake.pipeline.scheduler import Scheduler
from bake.pipeline.stages import run_one, run_stages
from bake.plan.forecast import BUILDER, PROOF
from bake.recipe.recipe import Recipe, environment_prefix
from bake.record import Inventory, Record, StageRecord
from bake.record.builds import make_folder
from bake.threads import TaskGroup
from bake.verify import Check, Proof, read_inventory

T = TypeVar("T")
BakeRequest = tuple[Context, Recipe]
MACHINES = 3  # of one bake, one after the other: where they are lost, others take their place


@dataclass(frozen=True)
class Options:
    """How to bake. `name` is the image's; `fresh`: as if nothing were there yet."""

    name: str | None = None
    fresh: bool = False
    on_failure: OnFailure = field(default_factory=OnFailure)
    machines: int = 4  # at a time

    def check(self, recipes: int, *, interactive: bool) -> None:
        """RequestError where they do not go together; `recipes` is how many are to be baked."""
        if self.machines < 1:
            message = f"--jobs {self.machines}: at least one machine is needed"
            raise RequestError(message, hint="Give a number from 1 on, or leave it out")
        if recipes > 1 and self.name:
            raise RequestError("--name is for one image", hint="Leave it out, or name one recipe")
        if self.on_failure.shell and (recipes > 1 or not interactive):
            raise RequestError(
                "--shell-on-failure is for one recipe, in a terminal", hint="Use --keep-on-failure"
            )


@dataclass(frozen=True)
class Outcome:
    """What came of one recipe. `record` is there when it was baked now, `error` when it failed."""

    recipe: str
    status: Literal["baked", "there already", "failed"]
    seconds: float
    image: Image | None = None
    record: Record | None = None
    error: BakeError | None = None


def bake(context: Context, recipe: Recipe, options: Options | None = None) -> Outcome:
    """Bakes one recipe. Raises a RequestError before anything was started, and any other BakeError
    after everything that was started has been removed."""
    began = monotonic()
    options = options or Options()
    job = prepare(context, recipe, name=options.name, fresh=options.fresh)
    (outcome,) = bake_jobs([(context, job)], options, began)
    if outcome.error is not None:
        raise outcome.error
    return outcome


def bake_all(
    orders: Sequence[BakeRequest], options: Options, refused: Sequence[Outcome] = ()
) -> list[Outcome]:
    """Bakes them all, `machines` at a time; one recipe's failure does not stop the others.

    `refused` are those of recipes that could not even be asked for; they come back with the rest.
    """
    began = monotonic()
    prepared, failed = for_each(orders, partial(prepare, fresh=options.fresh))
    return sorted(
        [*refused, *failed, *bake_jobs(prepared, options, began)],
        key=lambda outcome: outcome.recipe,
    )


def for_each(
    orders: Sequence[BakeRequest], work: Callable[[Context, Recipe], T]
) -> tuple[list[tuple[Context, T]], list[Outcome]]:
    """What `work` gives for each, asked for all at the same time; and those that it refused.

    The contexts that come back are each for one recipe. RequestError for two of one name.
    """
    names = [recipe.name for _, recipe in orders]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise RequestError(f"Two recipes are named {twice[0]}", hint="Give each a name of its own")
    mine = {recipe.name: context.for_one(recipe.name) for context, recipe in orders}
    answers: dict[str, T | BakeError] = {}
    with TaskGroup[str, T | BakeError]() as group:
        for _, recipe in orders:
            group.start(recipe.name, partial(_unless_refused, work, mine[recipe.name], recipe))
        while group.running:
            name, answer = group.next()
            answers[name] = answer
    good = [(mine[n], a) for n in names if not isinstance(a := answers[n], BakeError)]
    bad = [
        Outcome(n, "failed", 0, error=a) for n in names if isinstance(a := answers[n], BakeError)
    ]
    return good, bad


def _unless_refused(
    work: Callable[[Context, Recipe], T], context: Context, recipe: Recipe
) -> T | BakeError:
    try:
        return work(context, recipe)
    except BakeError as error:
        return error


def bake_jobs(jobs: Sequence[tuple[Context, Job]], options: Options, began: float) -> list[Outcome]:
    """Each in a thread; the main one waits, and hears of interrupts.

    Those with the smallest disks begin: a checkpoint is a start for larger disks, not for smaller.
    """
    jobs = sorted(jobs, key=lambda each: each[1].recipe.builder.disk_gb)
    scheduler = Scheduler(options.machines)
    points: dict[str, StartPoints] = {}
    for context, job in jobs:
        cloud, region = context.cloud, context.cloud.region
        if job.there:
            continue
        if region not in points:
            points[region] = StartPoints(cloud.now, () if options.fresh else checkpoints(cloud))
        scheduler.add(job.recipe.name, job.plan, partial(points[region].digests, job.plan))
    try:
        with TaskGroup[str, Outcome]() as group:
            for context, job in jobs:
                known = points.get(context.cloud.region, StartPoints(context.cloud.now))
                work = partial(_outcome, context, job, options, scheduler, known, began)
                group.start(job.recipe.name, work)
            outcomes = [group.next()[1] for _ in jobs]
        for context, job in jobs:
            _forget_old_checkpoints(context, job)
    except BaseException as error:
        for context, _ in jobs:
            note_leftovers(error, context.cloud.leftovers)
        raise
    return outcomes


def _outcome(
    context: Context,
    job: Job,
    options: Options,
    scheduler: Scheduler,
    points: StartPoints,
    began: float,
) -> Outcome:
    recipe = job.recipe.name
    try:
        made = _take_or_make(context, job, options, scheduler, points)
    except BakeError as error:
        if start := points.best(job.plan):
            held = ", ".join(start.stages)
            error.details += (f"The next bake of it starts from {start.snapshot_id}: {held}",)
        write_report(context, job, error)
        return Outcome(recipe, "failed", monotonic() - began, error=error)
    finally:
        scheduler.leave(recipe)
    if isinstance(made, Image):
        return Outcome(recipe, "there already", monotonic() - began, image=made)
    record, image = made
    write_report(context, job)
    return Outcome(recipe, "baked", monotonic() - began, image=image, record=record)


def _take_or_make(
    context: Context, job: Job, options: Options, scheduler: Scheduler, points: StartPoints
) -> Image | tuple[Record, Image]:
    """The image, if it is there, or as soon as another run has it; else it is baked here."""
    cloud, console = context.cloud, context.console

    def there() -> Image | None:
        found = None if options.fresh else finished_image(cloud, job.plan)
        return take_up(context, found) if found else None

    if job.image and job.there:
        image = job.image
        console.note(f"Nothing to do: {image.image_id} is what the recipe makes now")
        if options.name and options.name != image.name:
            console.warn(f"It keeps its name, {image.name}; --fresh makes another image")
        return image
    with clean_up(cloud.leftovers) as stack:
        with console.waiting() as wait:
            right = lease(cloud, job.run, job.plan.digest, found=there, on_wait=wait)
            held = stack.enter_context(right)
            if not isinstance(held, Image):
                scheduler.wait_for_turn(job.recipe.name, on_wait=wait)
        if isinstance(held, Image):
            console.note(f"Another run has baked it: {held.image_id}")
            return held
        make_folder(job.folder)
        reap_own(context, job, held.dead)

        def make_on(number: int) -> tuple[Record, Image]:
            """On the run's machine of that number."""
            with a_builder(context, job, points, options.on_failure, number=number) as builder:
                return _make(context, job, builder, scheduler, points, held.check)

        return _on_another_if_lost(context, job, make_on)


def _on_another_if_lost(context: Context, job: Job, make_on: Callable[[int], T]) -> T:
    """What `make_on` gives on the first machine that is not lost; MACHINES are tried.

    LostError when none is left to be tried, or no time: the machines of a run end when its time is
    over. Whatever else ends it, names those that were lost before.
    """
    tries: list[str] = []
    while True:
        try:
            return make_on(len(tries) + 1)
        except LostError as error:
            said = ": ".join(filter(None, (error.message, error.code, error.reason)))
            tries.append(f"machine {len(tries) + 1}: {said}")
            if job.run.expires_at and context.cloud.now() >= job.run.expires_at:
                error.hint = "The bake's time was over: raise builder.timeout_hours in the recipe"
                error.details += tuple(tries[:-1])
                raise
            if len(tries) == MACHINES:
                raise LostError(
                    f"{MACHINES} machines were lost one after the other: the bake gives up",
                    hint=error.hint,
                    details=[*tries, *error.details],
                ) from error
            context.console.warn(f"{said}. The bake goes on, on another one")
            context.console.goes_on()
        except BakeError as error:
            error.details += tuple(tries)
            raise


def _make(
    context: Context,
    job: Job,
    builder: Builder,
    scheduler: Scheduler,
    points: StartPoints,
    still_ours: Callable[[], None],
) -> tuple[Record, Image]:
    """From a machine that was started to an image that is proved, and what is on record of it.

    LostError as soon as the machine is lost.
    """
    machine, connection = builder.machine, builder.connection
    watch = Watch(context.cloud, machine, connection, context.console)
    done = _held_by(builder, job)
    scheduler.started(job.recipe.name, frozenset(record.digest for record in done))

    def install_and_prove() -> tuple[list[StageRecord], Proof, Inventory, float]:
        with context.console.step("Stages") as step:
            stages = run_stages(
                replace(context, console=context.console.within(step)),
                job,
                machine,
                connection,
                done,
                scheduler=scheduler,
                points=points,
                watch=watch,
                still_ours=still_ours,
            )
        began = monotonic()
        proof = prove_it(context, job, machine, connection)
        seconds = monotonic() - began
        with job.timeline.step("inventory", "Inventory"):
            found = read_inventory(connection, environment_prefix(job.recipe))
        return stages, proof, found, seconds

    def seal() -> tuple[StageRecord, tuple[Check, ...]]:
        sealed = run_one(context, job, connection, job.plan.stages[-1])
        return sealed, check_it_is_clean(context, job, connection)

    stages, proof, found, proof_s = watch.while_it_lives(install_and_prove, listening=True)
    # Nothing else runs on the machine after this, so that nothing of it gets into the image.
    sealed, clean = watch.while_it_lives(seal)
    stages.append(sealed)
    connection.close()
    still_ours()
    seconds = {BUILDER: builder.seconds, PROOF: proof_s}
    try:
        image = take_image(context, job, machine, stages, proof, seconds, meanwhile=builder.shut)
    except BakeError as error:
        watch.refuse_if_lost(error, {"shutting-down", "terminated"})  # we stop it for the image
        raise
    checks = (*proof.checks, *clean)
    record = write_record(context, job, machine, image, proof.verified, stages, checks, found)
    return record, image


def _held_by(builder: Builder, job: Job) -> list[StageRecord]:
    """The stages that the start point holds."""
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


def _forget_old_checkpoints(context: Context, job: Job) -> None:
    settings = job.recipe.checkpoints
    keep = 0 if settings.after == () else settings.keep
    try:
        prune(context.cloud, job.recipe.name, keep=keep)
    except CloudError as error:
        context.console.warn(f"Old checkpoints are still there: {error.message} ({error.code})")
    for leftover in context.cloud.leftovers:
        context.console.warn(str(leftover))
