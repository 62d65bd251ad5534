"""One bake before it starts: where it happens, what it starts from and what it will do."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

from bake.aws.base_image import BaseImage
from bake.aws.client.session import Cloud
from bake.aws.image import Image, delete_failed_image, images
from bake.aws.image_creation import image_name, wait_until_available
from bake.aws.tags import Run, new_run
from bake.console.console import Console
from bake.console.screen import Step
from bake.errors import CloudError, ImageError, PreflightError
from bake.machine.boot import BOOT_TIMEOUT_S
from bake.pipeline.base import find_base, with_described_types
from bake.pipeline.preflight import PreflightResult, preflight
from bake.pipeline.progress import Progress
from bake.pipeline.secrets import Secrets, read_secrets
from bake.plan.lock import Lock
from bake.plan.plan import Plan, make_plan
from bake.recipe.payload import Payload
from bake.recipe.project import Project
from bake.recipe.recipe import Recipe
from bake.recipe.resolved import Resolved
from bake.recipe.support import check_support
from bake.record import Timeline
from bake.verify import accepted


@dataclass(frozen=True)
class Context:
    """The environment of a bake: the cloud, the source of its downloads, folders, the console.

    `lock` is None if the recipe has no lock file, or if it is to be ignored. `here` is the option
    that makes a command use the same cloud, for example `--region us-west-2`.
    """

    cloud: Cloud
    payload: Payload
    project: Project
    builds: Path
    console: Console
    lock: Lock | None = None
    ssh_port: int = 22
    boot_timeout_s: float = BOOT_TIMEOUT_S
    here: str = ""

    def for_one(self, name: str) -> Context:
        """Return the context for one of several bakes.

        Its console shows the recipe's name on each line, and its cloud lists its own leftovers.
        """
        return replace(self, cloud=self.cloud.separate(), console=self.console.named(name))


@dataclass(frozen=True)
class Job:
    """One bake: its run, its plan, and the context in which it happens.

    `image` is an image of the same plan that already exists. If it is finished, nothing has to be
    done: then `preflight` has no placements, and the secrets were not read. `folder` is for the
    logs. `timeline` records the steps while they happen, and `progress` tells when they will end.
    """

    context: Context
    run: Run
    preflight: PreflightResult
    plan: Plan
    image_name: str
    folder: Path
    image: Image | None = None
    secrets: Secrets = field(default_factory=dict)
    timeline: Timeline = field(default_factory=Timeline, compare=False)
    progress: Progress = field(default_factory=Progress, compare=False)

    @property
    def recipe(self) -> Recipe:
        return self.plan.recipe

    @property
    def name(self) -> str:
        """The recipe's name. It identifies the job among those of one command."""
        return self.recipe.name

    @property
    def cloud(self) -> Cloud:
        return self.context.cloud

    @property
    def console(self) -> Console:
        return self.context.console

    @property
    def nothing_to_do(self) -> bool:
        """True if the image exists and is finished."""
        return self.image is not None and self.image.finished

    def within(self, step: Step) -> Job:
        """Return the same job with a console that shows its steps as parts of `step`."""
        return replace(self, context=replace(self.context, console=self.console.within(step)))


def prepare(
    context: Context, resolved: Resolved, *, name: str | None = None, fresh: bool = False
) -> Job:
    """Find out everything that can be known before anything is started.

    `name` is the image's name. `fresh` ignores existing images and checkpoints. PreflightError or
    RequestError, with everything that is missing.
    """
    cloud, console = context.cloud, context.console
    recipe = resolved.recipe
    lifetime = timedelta(hours=recipe.builder.timeout_hours)
    run = new_run(recipe.name, lifetime=lifetime, tags=recipe.tags, now=cloud.now())
    locked = context.lock.base_image_in(cloud.region) if context.lock else ""
    if context.lock:
        stays = f"on {context.lock.base_image.name}, and no newer one"
        console.note(f"Locked: what run {context.lock.run} has installed, {stays}")
    with console.step("Preflight") as step:
        resolved = with_described_types(cloud, resolved)
        base_image, plan = _find_plan(context, resolved, locked)
        # Before the checks that only a machine needs: an existing image needs no quota.
        image = finished_image(cloud, plan) if plan and not fresh else None
        secrets: Secrets = {}
        if base_image and image and image.finished:
            support = check_support(resolved.os_image, cloud.now().date())
            checked = PreflightResult(base_image, (), tuple(support))
        else:
            checked = preflight(
                cloud,
                resolved,
                base_image,
                payload=context.payload,
                image_name=name,
                locked=locked,
                here=context.here,
            )
            secrets = read_secrets(cloud, recipe)
        plan = plan or _plan(context, resolved, checked.base_image)
        step.done(f"{checked.base_image.image_id}, {len(plan.stages)} stages")
    for warning in checked.warnings:
        console.warn(str(warning))
    return Job(
        context=context,
        run=run,
        preflight=checked,
        plan=plan,
        image_name=name or image_name(recipe.name, run.started_at, plan.digest),
        folder=context.builds / run.id,
        image=image,
        secrets=secrets,
        timeline=Timeline(cloud.now),
    )


def _find_plan(
    context: Context, resolved: Resolved, locked: str
) -> tuple[BaseImage | None, Plan | None]:
    """Return the base image and the plan; None if the base image was not found.

    `preflight` then reports it, together with everything else that is missing.
    """
    base_image = None
    with suppress(PreflightError):
        base_image = find_base(context.cloud, resolved, context.payload, locked)
        return base_image, _plan(context, resolved, base_image)
    return base_image, None


def _plan(context: Context, resolved: Resolved, base_image: BaseImage) -> Plan:
    return make_plan(
        resolved,
        payload=context.payload,
        base_image_id=base_image.image_id,
        project=context.project,
        lock=context.lock,
    )


def finished_image(cloud: Cloud, plan: Plan) -> Image | None:
    """Return the image of this plan, available or pending, or None if there is no such image."""
    candidates = [
        image
        for image in images(cloud, plan.recipe.name)
        if image.digest == plan.digest
        and image.verified in accepted(plan.resolved, has_checks=bool(plan.checks))
    ]
    by_state: Mapping[str, Image] = {image.state: image for image in reversed(candidates)}
    return by_state.get("available") or by_state.get("pending")


def take_up(context: Context, image: Image) -> Image | None:
    """Wait until an existing image is finished, and return it; None if it failed.

    It may belong to another run that bakes now, or to one that was killed before it had finished
    its image. A failed image is removed.
    """
    if image.finished:
        return image
    with context.console.step("Image") as step:
        step.update(f"{image.image_id} of run {image.run_id} is {image.state}")
        try:
            image = wait_until_available(context.cloud, image.image_id, on_progress=step.update)
        except ImageError as error:
            context.console.warn(f"{error.message}: baking it again")
            with suppress(CloudError):
                delete_failed_image(context.cloud, image)
            return None
        step.done(image.image_id)
    return image
