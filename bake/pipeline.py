"""The story of a bake: a recipe becomes a verified image, and nothing else stays behind."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bake import catalog
from bake.aws.caller import caller_cidr
from bake.aws.image import Image, create_image, image_name
from bake.aws.key_pair import key_pair
from bake.aws.machine import Machine
from bake.aws.order import Order, builder
from bake.aws.preflight import Ground, preflight
from bake.aws.security_group import security_group
from bake.aws.session import Cloud
from bake.aws.tags import LOGIN_USER, Run, new_run
from bake.aws.undo import clean_up
from bake.aws.user_data import user_data
from bake.boot import BOOT_TIMEOUT_S, wait_until_reached
from bake.console import Console
from bake.errors import RequestError
from bake.interrupts import held_back
from bake.payload import Payload
from bake.plan import PREFIXES, Plan, Stage, make_plan
from bake.recipe import MANAGER_STAGES, Recipe
from bake.record import CheckRecord, Record, StageRecord, inventory
from bake.remote import keys
from bake.remote.connection import Connection
from bake.remote.runner import run_stage
from bake.verify import Check, Proof, check_clean, expect, prove

STAGE_TIMEOUT_S = 3 * 3600


@dataclass(frozen=True)
class Workshop:
    """Where a bake happens: the cloud, where downloads come from, and our own folders."""

    cloud: Cloud
    payload: Payload
    scripts: Path
    builds: Path
    console: Console
    ssh_port: int = 22
    boot_timeout_s: float = BOOT_TIMEOUT_S


@dataclass(frozen=True)
class Job:
    """One bake: who it is, what it stands on, what it will do, and where its logs go."""

    run: Run
    ground: Ground
    plan: Plan
    image_name: str
    folder: Path

    @property
    def recipe(self) -> Recipe:
        return self.plan.recipe

    def document(self) -> dict[str, Any]:
        """For `plan --json`."""
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "base_image": asdict(self.ground.base_image),
            "placements": [asdict(placement) for placement in self.ground.placements],
            "warnings": [str(warning) for warning in self.ground.warnings],
            "payload": self.plan.payload.name,
            "digest": self.plan.digest,
            "stages": [
                {"name": stage.name, "needs": stage.needs, "digest": stage.digest}
                for stage in self.plan.stages
            ],
        }

    @property
    def environment_prefix(self) -> str:
        python = self.recipe.python
        return f"{PREFIXES[MANAGER_STAGES[python.manager]]}/{python.environment}"


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
        found = inventory(connection, job.environment_prefix)
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


def prepare(workshop: Workshop, recipe: Recipe, *, name: str | None = None) -> Job:
    """Everything that can be known before anything is started."""
    cloud, console = workshop.cloud, workshop.console
    lifetime = timedelta(hours=recipe.builder.timeout_hours)
    run = new_run(recipe.name, lifetime=lifetime, tags=recipe.tags)
    with console.step("Preflight") as step:
        ground = preflight(cloud, recipe, image_name=name, owner=workshop.payload.image_owner)
        plan = make_plan(
            recipe,
            catalog=catalog.load(),
            payload=workshop.payload,
            base_image_id=ground.base_image.image_id,
            scripts=workshop.scripts,
        )
        step.done(f"{ground.base_image.name}, {len(plan.stages)} stages")
    for warning in ground.warnings:
        console.warn(str(warning))
    name = name or image_name(recipe.name, run.started_at, plan.digest)
    return Job(run, ground, plan, name, workshop.builds / run.id)


def make_folder(folder: Path) -> None:
    """For the logs and the record; RequestError now rather than in the middle of the bake."""
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise RequestError(
            f"The logs cannot be written to {folder}: {error.strerror}",
            hint="Choose another place: BAKE_BUILDS=FOLDER",
        ) from None


@contextmanager
def a_builder(workshop: Workshop, job: Job) -> Iterator[tuple[Machine, Connection]]:
    """The run's machine, reached; it and all that belongs to it are gone afterwards."""
    cloud, console, run, ground = workshop.cloud, workshop.console, job.run, job.ground
    base = ground.base_image
    login, host_key = keys.generate(), keys.generate()
    user = catalog.load().os_image(job.recipe.base).ssh_user
    cidr = caller_cidr()
    stack = ExitStack()
    try:
        with console.step("Builder") as step:
            key_name = stack.enter_context(key_pair(cloud, run, login.public_openssh))
            group = security_group(
                cloud,
                run,
                vpc_id=ground.placements[0].vpc_id,
                cidr=cidr,
                port=workshop.ssh_port,
            )
            order = Order(
                image_id=base.image_id,
                root_device_name=base.root_device_name,
                disk_gb=job.recipe.builder.disk_gb,
                key_name=key_name,
                security_group_id=stack.enter_context(group),
                user_data=user_data(host_key, run.expires_at),
                tags=run.temporary() | {LOGIN_USER: user},
            )
            machine = stack.enter_context(
                builder(
                    cloud,
                    run,
                    order,
                    ground.placements,
                    on_state=step.update,
                    on_refusal=lambda place, error: console.warn(f"{place}: {error.code}"),
                )
            )
            step.done(f"{machine.instance_id}, {machine.instance_type} in {machine.zone}")
        with console.step("SSH") as step:
            connection = wait_until_reached(
                cloud,
                machine,
                port=workshop.ssh_port,
                private_key=login.private_openssh,
                host_key=host_key,
                timeout_s=workshop.boot_timeout_s,
                on_wait=step.update,
            )
            stack.enter_context(connection)
            step.done(str(connection))
        yield machine, connection
    finally:
        with held_back(), console.step("Removing the builder"):
            stack.close()


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
    user = catalog.load().os_image(job.recipe.base).ssh_user
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
            | {LOGIN_USER: user},
            on_progress=step.update,
        )
        step.done(f"{image.image_id} {image.name}")
    return image
