"""One bake before it starts: where it happens, what it stands on and what it will do."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

from bake import catalog
from bake.aws.base_image import BaseImage, find_base_image
from bake.aws.client.session import Cloud
from bake.aws.image import Image, delete_image, image_name, images, wait_until_available
from bake.aws.tags import Run, new_run
from bake.console.console import Console
from bake.errors import CloudError, ImageError, PreflightError
from bake.machine.boot import BOOT_TIMEOUT_S
from bake.pipeline.preflight import PreflightResult, preflight
from bake.pipeline.secrets import Secrets, read_secrets
from bake.plan.lock import Lock
from bake.plan.plan import Plan, make_plan
from bake.recipe.payload import Payload
from bake.recipe.recipe import Recipe
from bake.record import Timeline
from bake.verify import accepted


@dataclass(frozen=True)
class Context:
    """Where a bake happens: the cloud, where downloads come from, and our own folders.

    `here` is what a command needs to mean the same cloud, like `--region us-west-2`. `lock` is the
    recipe's, where it is to be held to.
    """

    cloud: Cloud
    payload: Payload
    scripts: Path
    builds: Path
    console: Console
    lock: Lock | None = None
    ssh_port: int = 22
    boot_timeout_s: float = BOOT_TIMEOUT_S
    here: str = ""

    def for_one(self, name: str) -> Context:
        """For one of several bakes: its words carry its name, its leftovers are its own."""
        return replace(self, cloud=self.cloud.separate(), console=self.console.named(name))


@dataclass(frozen=True)
class Job:
    """One bake: who it is, what it stands on, what it will do, and where its logs go.

    `image` is what is there of it already. When it is available nothing has to be done, and nobody
    has asked where a machine is to be had, nor read the secrets. `timeline` is what happens.
    """

    run: Run
    ground: PreflightResult
    plan: Plan
    image_name: str
    folder: Path
    image: Image | None = None
    secrets: Secrets = field(default_factory=dict)
    timeline: Timeline = field(default_factory=Timeline, compare=False)

    @property
    def recipe(self) -> Recipe:
        return self.plan.recipe

    @property
    def there(self) -> bool:
        """Whether nothing has to be done."""
        return self.image is not None and self.image.finished


def prepare(
    context: Context, recipe: Recipe, *, name: str | None = None, fresh: bool = False
) -> Job:
    """Everything that can be known before anything is started.

    `name` is the image's; `fresh`: as if nothing were there yet.
    """
    cloud, console = context.cloud, context.console
    lifetime = timedelta(hours=recipe.builder.timeout_hours)
    run = new_run(recipe.name, lifetime=lifetime, tags=recipe.tags, now=cloud.now())
    owner = context.payload.image_owner
    locked = context.lock.base_image_in(cloud.region) if context.lock else ""
    if context.lock:
        stays = f"on {context.lock.base_image.name}, and no newer one"
        console.note(f"Locked: what run {context.lock.run} has installed, {stays}")
    with console.step("Preflight") as step:
        image = base_image = plan = None
        with suppress(PreflightError):  # said below, with all else that is missing
            os_image = catalog.load().os_image(recipe.base)
            base_image = find_base_image(cloud, os_image, owner, locked=locked)
            plan = _plan(context, recipe, base_image)
        if plan is not None and not fresh:
            # Before all that only a machine needs: an image that is there needs no quota.
            image = finished_image(cloud, plan)
        secrets: Secrets = {}
        if base_image and image and image.finished:
            ground = PreflightResult(base_image, ())
        else:
            ground = preflight(
                cloud, recipe, base_image, image_name=name, owner=owner, locked=locked
            )
            secrets = read_secrets(cloud, recipe)
        plan = plan or _plan(context, recipe, ground.base_image)
        step.done(f"{ground.base_image.image_id}, {len(plan.stages)} stages")
    for warning in ground.warnings:
        console.warn(str(warning))
    name = name or image_name(recipe.name, run.started_at, plan.digest)
    folder, timeline = context.builds / run.id, Timeline(cloud.now)
    return Job(run, ground, plan, name, folder, image, secrets, timeline)


def _plan(context: Context, recipe: Recipe, base_image: BaseImage) -> Plan:
    return make_plan(
        recipe,
        catalog=catalog.load(),
        payload=context.payload,
        base_image_id=base_image.image_id,
        scripts=context.scripts,
        lock=context.lock,
    )


def finished_image(cloud: Cloud, plan: Plan) -> Image | None:
    """The image that this plan makes, available or pending, if it is there already."""
    candidates = [
        image
        for image in images(cloud, plan.recipe.name)
        if image.digest == plan.digest and image.verified in accepted(plan.recipe)
    ]
    by_state: Mapping[str, Image] = {image.state: image for image in reversed(candidates)}
    return by_state.get("available") or by_state.get("pending")


def take_up(context: Context, image: Image) -> Image | None:
    """A finished image as soon as it is available; None where it has come to nothing.

    It may be of another run that bakes now, or of one that was killed before all was done to it.
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
                delete_image(context.cloud, image)
            return None
        step.done(image.image_id)
    return image
