"""One bake before it starts: where it happens, what it stands on and what it will do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from bake import catalog
from bake.aws.image import image_name
from bake.aws.preflight import Ground, preflight
from bake.aws.session import Cloud
from bake.aws.tags import Run, new_run
from bake.boot import BOOT_TIMEOUT_S
from bake.console import Console
from bake.errors import RequestError
from bake.payload import Payload
from bake.plan import Plan, make_plan
from bake.recipe import Recipe


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
