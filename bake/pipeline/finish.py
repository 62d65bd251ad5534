"""The end of a bake: everything is on the machine; it is proved, sealed, and made an image."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from bake import catalog
from bake.aws.image import Image, create_image
from bake.aws.machine import Machine
from bake.aws.tags import LOGIN_USER, MOST_TAGS, SECONDS, write_seconds
from bake.console.redaction import Redactor
from bake.errors import BakeError
from bake.machine.boot import login_user
from bake.pipeline.job import Context, Job
from bake.pipeline.secrets import revealed
from bake.plan import description
from bake.plan.lock import asked
from bake.record import CheckRecord, Failure, Inventory, Record, StageRecord
from bake.ssh.connection import Connection
from bake.verify import Check, Proof, check_clean, expect, prove


def prove_it(context: Context, job: Job, machine: Machine, connection: Connection) -> Proof:
    """VerificationError unless the machine is and does what the recipe promises."""
    expectation = expect(
        job.recipe,
        machine.instance_type,
        catalog.load(),
        stand_in=context.payload.name == "stand-in",
    )
    with context.console.step("Proof") as step, job.timeline.step("proof", "Proof") as noted:
        # A login of its own, as a person's will be: this one's is from before the stages.
        connection.close()
        connection.reconnect()
        proof = prove(connection, expectation, on_check=lambda check: step.update(str(check)))
        outcomes = Counter(check.outcome for check in proof.checks)
        said = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
        step.done(f"{proof.verified}: {said}")
        noted(f"{proof.verified}: {said}")
    skipped = defaultdict(list)
    for check in proof.checks:
        if check.outcome == "skipped":
            skipped[check.detail].append(check.name)
    for why, names in skipped.items():
        context.console.note(f"  skipped: {', '.join(names)} ({why})")
    return proof


def check_it_is_clean(context: Context, job: Job, connection: Connection) -> tuple[Check, ...]:
    name = "Nothing left on it"
    with context.console.step(name), job.timeline.step("clean", name):
        return check_clean(connection, allow_session=True, secrets=revealed(job.secrets))


def take_image(
    context: Context,
    job: Job,
    machine: Machine,
    stages: Sequence[StageRecord],
    proof: Proof,
    seconds: Mapping[str, float],
    *,
    meanwhile: Callable[[], None],
) -> Image:
    """`seconds` are those of the bake's other steps; `meanwhile` is done while EC2 makes it."""
    tags = job.run.finished(
        name=job.image_name,
        digest=job.plan.digest,
        stages={stage.name: stage.digest for stage in stages},
        verified=proof.verified,
        payload=context.payload.name,
    )
    tags |= {
        LOGIN_USER: login_user(machine.tags),
        SECONDS: write_seconds({**seconds, **{s.name: s.seconds for s in stages}}),
    }
    tags |= description.describe(
        job.plan, base_image_name=job.ground.base_image.name, room=MOST_TAGS - len(tags)
    )
    with context.console.step("Image") as step, job.timeline.step("image", "Image") as noted:
        image = create_image(
            context.cloud,
            machine,
            name=job.image_name,
            description=job.recipe.description,
            tags=tags,
            on_progress=step.update,
            meanwhile=meanwhile,
        )
        step.done(image.image_id)
        noted(image.image_id)
    return image


def _about(context: Context, job: Job) -> dict[str, Any]:
    """What is on record of a bake, whatever came of it."""
    return {
        "run": job.run.id,
        "recipe": job.recipe.name,
        "asked": asked(job.recipe),
        "digest": job.plan.digest,
        "payload": context.payload.name,
        "region": context.cloud.region,
        "base_image_id": job.ground.base_image.image_id,
        "base_image_name": job.ground.base_image.name,
        "steps": job.timeline.steps,
        "machines": job.timeline.machines,
        "started_at": job.run.started_at,
        "ended_at": context.cloud.now(),
    }


def write_record(
    context: Context,
    job: Job,
    machine: Machine,
    image: Image,
    verified: Literal["gpu", "cpu", "no"],
    stages: Sequence[StageRecord],
    checks: Sequence[Check],
    found: Inventory,
) -> Record:
    """What is known of the image, written beside the run's logs."""
    redact = Redactor(revealed(job.secrets).values()).redact
    record = Record(
        **_about(context, job),
        verified=verified,
        here=context.here,
        image_id=image.image_id,
        image_name=image.name,
        snapshot_ids=image.snapshot_ids,
        instance_type=machine.instance_type,
        zone=machine.zone,
        market=machine.market,
        stages=tuple(stages),
        checks=tuple(
            CheckRecord(**asdict(check) | {"detail": redact(check.detail)}) for check in checks
        ),
        inventory=found,
    )
    path = record.write(job.folder)
    context.console.note(f"The record is {path}")
    return record


def write_failure(context: Context, job: Job, error: BakeError) -> Failure:
    """How far a bake came that gave no image, written beside the run's logs."""
    redact = Redactor(revealed(job.secrets).values()).redact
    failure = Failure(
        **_about(context, job),
        stages=tuple(stage.name for stage in job.plan.stages),
        error=type(error).__name__,
        message=redact(error.message),
        hint=redact(error.hint),
        code=error.code,
        reason=redact(error.reason),
        details=tuple(map(redact, error.details)),
    )
    failure.write(job.folder)
    return failure


def write_report(context: Context, job: Job, error: BakeError | None = None) -> None:
    """The page of a bake, beside its logs, however it has ended; `invoke report` makes it again.

    An image is worth more than its page: what goes wrong here is said, and fails nothing.
    """
    if not job.folder.is_dir():
        return  # nothing was begun
    try:
        if error is not None:
            write_failure(context, job, error)
        from bake.record.report import report  # plotly takes its time

        path = report.make(job.folder)
    except Exception as problem:
        context.console.warn(f"No report of this bake: {problem}")
    else:
        context.console.note(f"The report is {path}")
