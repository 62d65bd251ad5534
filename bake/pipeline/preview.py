"""What a bake would do, why, and what it takes. Nothing is started or changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bake.aws.checkpoint import checkpoints
from bake.aws.client.session import Cloud
from bake.aws.image import Image, images
from bake.aws.placement import Placement
from bake.aws.price import price_errors, prices, volume_price
from bake.aws.snapshot import copying_seconds
from bake.aws.tags import SECONDS, read_seconds, read_stages
from bake.pipeline.checkpoints import StartPoints
from bake.pipeline.job import Context, Job, prepare
from bake.plan.changes import Reason, State, changes_of_the_image, reasons
from bake.plan.forecast import IMAGE, Forecast, Past, forecast
from bake.plan.plan import Plan
from bake.recipe.recipe import Recipe

_LATEST = 20


@dataclass(frozen=True)
class Preview:
    """`start` is the checkpoint that it starts from, "" for the base image.

    `changes` are those of the image as a whole; `usd_per_hour` is None where AWS did not say.
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
    def to_run(self) -> tuple[str, ...]:
        """The digests of the stages that have to run."""
        return tuple(
            stage.digest for stage in self.plan.stages if self.reasons[stage.name].state == "to run"
        )

    @property
    def why(self) -> tuple[str, ...]:
        """In a word each: what makes stages run."""
        told = [why for reason in self.reasons.values() for why in reason.why[:1]]
        return tuple(dict.fromkeys((*self.changes, *told)))


def preview(
    context: Context, recipe: Recipe, *, name: str | None = None, fresh: bool = False
) -> Preview:
    """Raises what `prepare` does: a bake of this could not even begin."""
    cloud = context.cloud
    job = prepare(context, recipe, name=name, fresh=fresh)
    plan, base_name = job.plan, job.ground.base_image.name
    earlier = images(cloud)
    kept = checkpoints(cloud)
    start = None if job.image or fresh else StartPoints(cloud.now, kept).best(plan)
    last = _last(earlier, context, recipe)
    states: dict[str, State] = {
        stage.name: "done"
        if job.image
        else "from checkpoint"
        if start and stage.name in start.stages
        else "to run"
        for stage in plan.stages
    }
    usd_per_hour = prices(cloud, job.ground.placements)
    for refusal in price_errors(cloud):
        context.console.warn(f"Prices are not known: {refusal.message} ({refusal.code})")
    return Preview(
        job=job,
        start=start.snapshot_id if start else "",
        reasons=reasons(
            plan,
            states,
            last.tags if last else None,
            base_image_name=base_name,
            fresh=fresh,
        ),
        changes=changes_of_the_image(plan, last.tags if last else None),
        usd_per_hour=usd_per_hour,
        forecast=forecast(
            plan,
            [name for name, state in states.items() if state == "to run"],
            [*_past(cloud, earlier), *kept],
            usd_per_hour.values(),
            usd_per_gb_month=volume_price(cloud),
            stopped_for_image=recipe.builder.market == "on-demand",
        ),
    )


def _past(cloud: Cloud, earlier: Sequence[Image]) -> list[Past]:
    """How long things took. An image does not say how long it took itself; its snapshot does."""
    latest = [snapshot for image in earlier[:_LATEST] for snapshot in image.snapshot_ids]
    copying = copying_seconds(cloud, latest)

    def seconds(image: Image) -> dict[str, float]:
        known = read_seconds(image.tags.get(SECONDS, ""))
        if copied := [copying[s] for s in image.snapshot_ids if s in copying]:
            known[IMAGE] = max(copied)
        return known

    return [
        Past(
            recipe=image.recipe,
            stages=read_stages(image.tags),
            seconds=seconds(image),
        )
        for image in earlier
    ]


def _last(earlier: list[Image], context: Context, recipe: Recipe) -> Image | None:
    """The newest image of that recipe, made of the same upstreams."""
    return next(
        (
            image
            for image in earlier
            if image.recipe == recipe.name
            and image.state == "available"
            and image.payload == context.payload.name
        ),
        None,
    )
