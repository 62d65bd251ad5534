"""The end of a bake: the proof, the image, and the record of both."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from types import ModuleType
from typing import Any, Literal

from bake.aws.image import Image
from bake.aws.image_creation import create_image
from bake.aws.machine import Machine
from bake.aws.tags import LOGIN_USER, MOST_TAGS, SECONDS, write_seconds
from bake.console.redaction import Redactor
from bake.errors import BakeError
from bake.machine.boot import login_user, wait_until_booted
from bake.pipeline.job import Job
from bake.pipeline.secrets import revealed
from bake.plan import description
from bake.plan.forecast import IMAGE, PROOF
from bake.plan.inputs import inputs_file
from bake.plan.lock import package_settings
from bake.record import CheckRecord, Failure, Inventory, Record, StageRecord
from bake.record.record import FILE as RECORD_FILE
from bake.ssh.connection import Connection
from bake.verify import Check, CheckScript, Proof, check_clean, expect, prove
from bake.verify.check import Outcome


def prove_it(job: Job, machine: Machine, connection: Connection) -> Proof:
    """Prove that the machine is and does what the recipe promises; else VerificationError."""
    expectation = expect(
        job.plan.resolved,
        machine.instance_type,
        stand_in=job.context.payload.name == "stand-in",
    )
    with (
        job.progress.step(PROOF),
        job.console.step("Proof", usual_s=job.progress.usual_s(PROOF)) as step,
        job.timeline.step("proof", "Proof") as set_detail,
    ):
        # A new login, as a user will have it: the current session began before the stages.
        connection.close()
        connection.reconnect()
        wait_until_booted(connection)
        scripts = [
            CheckScript(check.name, check.script.body, inputs_file(check.name, check.inputs))
            for check in job.plan.checks
        ]
        proof = prove(
            connection, expectation, scripts, on_check=lambda check: step.update(str(check))
        )
        summary = f"{proof.verified}: {summary_of(proof.checks)}"
        step.done(summary)
        set_detail(summary)
    skipped = defaultdict(list)
    for check in proof.checks:
        if check.outcome == "skipped":
            skipped[check.detail].append(check.name)
    for why, names in skipped.items():
        job.console.note(f"  skipped: {', '.join(names)} ({why})")
    return proof


def check_it_is_clean(job: Job, connection: Connection) -> tuple[Check, ...]:
    """Search the sealed disk for what must not be in an image; else VerificationError."""
    name = "Leftover check"
    with job.console.step(name) as step, job.timeline.step("clean", name) as set_detail:
        checks = check_clean(connection, allow_session=True, secrets=revealed(job.secrets))
        summary = f"clean: {summary_of(checks)}"
        step.done(summary)
        set_detail(summary)
    return checks


def summary_of(checks: Sequence[Check]) -> str:
    """Return how many checks had each outcome: `7 passed, 11 skipped`."""
    counts = Counter(check.outcome for check in checks)
    outcomes: tuple[Outcome, ...] = ("passed", "failed", "skipped")
    return ", ".join(f"{counts[each]} {each}" for each in outcomes if counts[each])


def take_image(
    job: Job,
    machine: Machine,
    stages: Sequence[StageRecord],
    proof: Proof,
    seconds: Mapping[str, float],
    *,
    meanwhile: Callable[[], None],
) -> Image:
    """Create the image of the machine's disk, and wait until it is available.

    `seconds` maps the bake's other steps to their duration. `meanwhile` is called while EC2 creates
    the image.
    """
    tags = _image_tags(job, machine, stages, proof, seconds)

    def while_ec2_copies() -> None:
        meanwhile()
        with suppress(Exception):  # `write_report` has the same failure, and reports it
            _report().page.plotly_script()  # loading both takes half a second

    with (
        job.progress.step(IMAGE),
        job.console.step("Image", usual_s=job.progress.usual_s(IMAGE)) as step,
        job.timeline.step("image", "Image") as set_detail,
    ):
        image = create_image(
            job.cloud,
            machine,
            name=job.image_name,
            description=job.recipe.description,
            tags=tags,
            on_progress=step.update,
            meanwhile=while_ec2_copies,
        )
        step.done(image.image_id)
        set_detail(image.image_id)
    return image


def _image_tags(
    job: Job,
    machine: Machine,
    stages: Sequence[StageRecord],
    proof: Proof,
    seconds: Mapping[str, float],
) -> dict[str, str]:
    tags = job.run.finished(
        name=job.image_name,
        digest=job.plan.digest,
        stages={stage.name: stage.digest for stage in stages},
        verified=proof.verified,
        payload=job.context.payload.name,
    )
    tags |= {
        LOGIN_USER: login_user(machine.tags),
        SECONDS: write_seconds({**seconds, **{stage.name: stage.seconds for stage in stages}}),
    }
    base_image = job.preflight.base_image
    return tags | description.describe(
        job.plan,
        base_image_name=base_image.name,
        base_tags=base_image.tags if job.plan.recipe.base.recipe else {},
        room=MOST_TAGS - len(tags),
    )


def _common_fields(job: Job) -> dict[str, Any]:
    """Return the fields that the record of a bake and the record of a failure have in common."""
    return {
        "run": job.run.id,
        "recipe": job.recipe.name,
        "asked": package_settings(job.recipe),
        "digest": job.plan.digest,
        "payload": job.context.payload.name,
        "region": job.cloud.region,
        "here": job.context.here,
        "base_image_id": job.preflight.base_image.image_id,
        "base_image_name": job.preflight.base_image.name,
        "steps": job.timeline.steps,
        "machines": job.timeline.machines,
        "started_at": job.run.started_at,
        "ended_at": job.cloud.now(),
    }


def write_record(
    job: Job,
    machine: Machine,
    image: Image,
    stages: Sequence[StageRecord],
    proof: Proof,
    leftovers: Sequence[Check],
    installed: Inventory,
) -> Record:
    """Write what is known about the image beside the run's logs, without secrets.

    `leftovers` are the checks of the search for leftover files.
    """
    redact = Redactor(revealed(job.secrets).values()).redact

    def check_record(part: Literal["proof", "leftovers"], check: Check) -> CheckRecord:
        return CheckRecord(**asdict(check) | {"part": part, "detail": redact(check.detail)})

    record = Record(
        **_common_fields(job),
        verified=proof.verified,
        image_id=image.image_id,
        image_name=image.name,
        snapshot_ids=image.snapshot_ids,
        instance_type=machine.instance_type,
        zone=machine.zone,
        market=machine.market,
        stages=tuple(stages),
        checks=(
            *(check_record("proof", check) for check in proof.checks),
            *(check_record("leftovers", check) for check in leftovers),
        ),
        inventory=installed,
    )
    path = record.write(job.folder)
    job.console.note(f"The record is {path}")
    return record


def remove_record(job: Job) -> None:
    """Remove the record and the page of an image that was removed; the logs stay."""
    for path in (job.folder / RECORD_FILE, *job.folder.glob("*.html")):
        path.unlink(missing_ok=True)


def write_failure(job: Job, error: BakeError) -> Failure:
    """Write how far a failed bake came, and why it failed, beside the run's logs."""
    redact = Redactor(revealed(job.secrets).values()).redact
    failure = Failure(
        **_common_fields(job),
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


def _report() -> ModuleType:
    from bake.record.report import report  # plotly takes half a second to import

    return report


def write_report(job: Job, error: BakeError | None = None) -> None:
    """Write the HTML page of a bake beside its logs. `invoke report` can write it again.

    `error` is why the bake failed. A page that cannot be written causes a warning, not a failure:
    the image is worth more than its page.
    """
    try:
        if not job.folder.is_dir():
            return  # nothing was started
        if error is not None:
            write_failure(job, error)
        path = _report().make(job.folder)
    except Exception as problem:
        job.console.warn(f"The report of this bake could not be written: {problem}")
    else:
        job.console.note(f"The report is {path}")
