"""The preview of a bake: what it would do, why, its duration and its cost. Nothing is changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bake.aws.checkpoint import Checkpoint, checkpoints
from bake.aws.image import Image
from bake.aws.placement import Placement
from bake.aws.price import price_errors, prices, volume_price
from bake.pipeline.checkpoints import StartPoints
from bake.pipeline.history import read_history
from bake.pipeline.job import Context, Job, prepare
from bake.plan.changes import Reason, State, changes_of_the_image, reasons
from bake.plan.forecast import Forecast, forecast
from bake.plan.plan import Plan
from bake.recipe.resolved import Resolved


@dataclass(frozen=True)
class Preview:
    """The preview of one bake.

    `start` is the id of the checkpoint that it would start from, "" for the base image. `reasons`
    says for each stage why it runs or not; `changes` are those of the image as a whole.
    `usd_per_hour` is None for a placement whose price AWS did not tell.
    """

    job: Job
    start: str
    reasons: Mapping[str, Reason]
    changes: tuple[str, ...]
    usd_per_hour: Mapping[Placement, float | None]
    forecast: Forecast

    @property
    def plan(self) -> Plan:
        return self.job.plan

    @property
    def digests_to_run(self) -> tuple[str, ...]:
        """The digests of the stages that have to run."""
        return tuple(
            stage.digest for stage in self.plan.stages if self.reasons[stage.name].state == "to run"
        )

    @property
    def why(self) -> tuple[str, ...]:
        """The changes that cause a bake, each in a few words and once."""
        causes = [why for reason in self.reasons.values() for why in reason.why[:1]]
        return tuple(dict.fromkeys((*self.changes, *causes)))


def preview(
    context: Context, resolved: Resolved, *, name: str | None = None, fresh: bool = False
) -> Preview:
    """Return what a bake would do. Raises what `prepare` raises: the bake could not even start."""
    cloud = context.cloud
    job = prepare(context, resolved, name=name, fresh=fresh)
    plan = job.plan
    kept = checkpoints(cloud)
    history = read_history(cloud, kept)
    start = None if job.image or fresh else StartPoints(cloud.now, kept).best(plan)
    last = history.last_image(plan)
    states = states_of_stages(plan, job.image, start)
    usd_per_hour = prices(cloud, job.preflight.placements)
    for error in price_errors(cloud):
        context.console.warn(f"Prices are not known: {error.message} ({error.code})")
    return Preview(
        job=job,
        start=start.snapshot_id if start else "",
        reasons=reasons(
            plan,
            states,
            last.tags if last else None,
            base_image_name=job.preflight.base_image.name,
            fresh=fresh,
        ),
        changes=changes_of_the_image(plan, last.tags if last else None),
        usd_per_hour=usd_per_hour,
        forecast=forecast(
            plan,
            [name for name, state in states.items() if state == "to run"],
            history.earlier,
            usd_per_hour.values(),
            usd_per_gb_month=volume_price(cloud),
            stopped_for_image=job.recipe.builder.market == "on-demand",
            first=history.first_stages(plan, start.stages if start else (), fresh=fresh),
        ),
    )


def states_of_stages(plan: Plan, image: Image | None, start: Checkpoint | None) -> dict[str, State]:
    """Return the state of each stage. `image` is the plan's image, if it exists. Pure."""
    if image:
        return {stage.name: "done" for stage in plan.stages}
    held = start.stages if start else {}
    return {
        stage.name: "from checkpoint" if stage.name in held else "to run" for stage in plan.stages
    }
