"""The story of a bake: a recipe becomes a verified image, and nothing else stays behind."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict
from datetime import UTC, datetime

from bake import catalog
from bake.aws.image import Image, create_image
from bake.aws.machine import Machine
from bake.aws.tags import LOGIN_USER
from bake.aws.undo import clean_up
from bake.boot import login_user
from bake.builder import a_builder
from bake.job import Job, Workshop, make_folder, prepare
from bake.plan import Stage, environment_prefix
from bake.recipe import Recipe
from bake.record import CheckRecord, Record, StageRecord, inventory
from bake.remote.connection import Connection
from bake.remote.runner import run_stage
from bake.verify import Check, Proof, check_clean, expect, prove

STAGE_TIMEOUT_S = 3 * 3600


def bake(workshop: Workshop, recipe: Recipe, *, name: str | None = None) -> Record:
    """Bakes the recipe; the record says what the image is and how it came to be.

    `name` is the image's. Raises a RequestError before anything was started, and any other
    BakeError after everything that was started has been removed.
    """
    job = prepare(workshop, recipe, name=name)
    make_folder(job.folder)
    *installing, sealing = job.plan.stages
    with clean_up(workshop.cloud.leftovers) as stack:
        machine, connection = stack.enter_context(a_builder(workshop, job))
        with workshop.console.step("Stages"):
            stages = [run_one(workshop, job, connection, stage) for stage in installing]
        proof = prove_it(workshop, job, machine, connection)
        found = inventory(connection, environment_prefix(job.recipe))
        # Nothing runs on the machine after this, so that nothing of it gets into the image.
        stages.append(run_one(workshop, job, connection, sealing))
        clean = check_it_is_clean(workshop, connection)
        connection.close()
        image = take_image(workshop, job, machine, proof)
    record = Record(
        run=job.run.id,
        recipe=job.recipe.name,
        digest=job.plan.digest,
        payload=workshop.payload.name,
        verified=proof.verified,
        region=workshop.cloud.region,
        image_id=image.image_id,
        image_name=image.name,
        snapshot_ids=image.snapshot_ids,
        base_image_id=job.ground.base_image.image_id,
        base_image_name=job.ground.base_image.name,
        instance_type=machine.instance_type,
        zone=machine.zone,
        market=machine.market,
        started_at=job.run.started_at,
        ended_at=datetime.now(UTC),
        stages=tuple(stages),
        checks=tuple(CheckRecord(**asdict(check)) for check in (*proof.checks, *clean)),
        inventory=found,
    )
    path = record.write(job.folder)
    workshop.console.note(f"The record is {path}")
    for leftover in workshop.cloud.leftovers:
        workshop.console.warn(str(leftover))
    return record


def run_one(workshop: Workshop, job: Job, connection: Connection, stage: Stage) -> StageRecord:
    with workshop.console.step(stage.name) as step:
        seconds = run_stage(
            connection,
            stage.name,
            script=stage.script.body,
            lib=job.plan.lib,
            inputs=stage.inputs,
            log=job.folder / f"{stage.name}.log",
            on_line=step.update,
            timeout_s=STAGE_TIMEOUT_S,
            run_id=job.run.id,
        )
    return StageRecord(name=stage.name, digest=stage.digest, seconds=seconds)


def prove_it(workshop: Workshop, job: Job, machine: Machine, connection: Connection) -> Proof:
    """VerificationError unless the machine is and does what the recipe promises."""
    expectation = expect(
        job.recipe,
        machine.instance_type,
        catalog.load(),
        stand_in=workshop.payload.name == "stand-in",
    )
    with workshop.console.step("Proof") as step:
        # A login of its own, as a person's will be: this one's is from before the stages.
        connection.close()
        connection.reconnect()
        proof = prove(connection, expectation, on_check=lambda check: step.update(str(check)))
        outcomes = Counter(check.outcome for check in proof.checks)
        said = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items())
        step.done(f"{proof.verified}: {said}")
    skipped = defaultdict(list)
    for check in proof.checks:
        if check.outcome == "skipped":
            skipped[check.detail].append(check.name)
    for why, names in skipped.items():
        workshop.console.note(f"  skipped: {', '.join(names)} ({why})")
    return proof


def check_it_is_clean(workshop: Workshop, connection: Connection) -> tuple[Check, ...]:
    with workshop.console.step("Nothing left on it"):
        return check_clean(connection, allow_session=True)


def take_image(workshop: Workshop, job: Job, machine: Machine, proof: Proof) -> Image:
    with workshop.console.step("Image") as step:
        image = create_image(
            workshop.cloud,
            machine,
            name=job.image_name,
            description=job.recipe.description,
            tags=job.run.finished(
                name=job.image_name,
                digest=job.plan.digest,
                stages={stage.name: stage.digest for stage in job.plan.stages},
                verified=proof.verified,
                payload=workshop.payload.name,
            )
            | {LOGIN_USER: login_user(machine.tags)},
            on_progress=step.update,
        )
        step.done(f"{image.image_id} {image.name}")
    return image
