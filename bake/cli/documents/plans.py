"""The document of plans."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from bake.aws.placement import Placement
from bake.cli.documents.document import (
    Document,
    FailedRecipe,
    Market,
    Part,
    Payload,
    Seconds,
    Snake,
    Usd,
)
from bake.pipeline.preview import Preview
from bake.plan.duration import Span
from bake.plan.plan import Stage


class DurationPart(Part):
    """A range of time."""

    low_s: Seconds = Field(description="the shortest expected time")
    likely_s: Seconds = Field(description="the likely time")
    high_s: Seconds = Field(description="the longest expected time")

    @classmethod
    def of_span(cls, span: Span) -> DurationPart:
        return cls(low_s=span.low, likely_s=span.likely, high_s=span.high)


class CostPart(Part):
    """A range of costs."""

    low_usd: Usd = Field(description="the lowest expected cost")
    high_usd: Usd = Field(description="the highest expected cost")


class PlannedStageEntry(Part):
    """A stage of a plan."""

    name: str = Field(description="its name")
    needs: tuple[str, ...] = Field(description="the stages that must end before it starts")
    reboots: Annotated[Literal["yes", "no", "when_required"], Snake] = Field(
        description="whether the machine reboots after it"
    )
    replaces_built_in: bool = Field(
        description="true if the project's stage takes the place of a built-in one of this name"
    )
    digest: str = Field(description="its digest")
    state: Annotated[Literal["done", "from_checkpoint", "to_run"], Snake] = Field(
        description="what a bake does with it"
    )
    why: tuple[str, ...] = Field(description="why it has to run")
    duration: DurationPart | None = Field(description="null if it does not run")

    @classmethod
    def of_stage(cls, stage: Stage, preview: Preview) -> PlannedStageEntry:
        reason, takes = preview.reasons[stage.name], preview.forecast.stages.get(stage.name)
        return cls.of(
            stage,
            reboots=stage.script.reboots,
            replaces_built_in=stage.script.replaces_built_in,
            state=reason.state,
            why=reason.why,
            duration=DurationPart.of_span(takes) if takes else None,
        )


class PlacementEntry(Part):
    """A place where the builder may be started."""

    instance_type: str = Field(description="EC2's instance type")
    zone: str = Field(description="the availability zone")
    market: Market = Field(description="how it is paid for")
    subnet_id: str = Field(description="the subnet")
    vpc_id: str = Field(description="the subnet's VPC")
    usd_per_hour: Usd | None = Field(description="the present price")

    @classmethod
    def of_placement(cls, placement: Placement, usd_per_hour: float | None) -> PlacementEntry:
        return cls.of(placement, usd_per_hour=usd_per_hour)


class ForecastPart(Part):
    """The expected time and cost of a bake."""

    duration: DurationPart = Field(description="the time until the image exists")
    cost: CostPart | None = Field(description="null if no price is known")
    based_on: str = Field(description="where these figures come from")


class PlanEntry(Part):
    """The plan of one recipe."""

    recipe: str = Field(description="the recipe")
    payload: Payload = Field(description="whether real software is installed, or stand-ins")
    digest: str = Field(description="the plan's digest, which its image has as a tag")
    locked_run_id: str | None = Field(description="the run whose versions the recipe is locked to")
    base_image_id: str = Field(description="the distribution's image")
    base_image_name: str = Field(description="its name")
    image_id: str | None = Field(description="the image of this plan; null if none exists")
    image_state: str | None = Field(description="EC2's state of that image")
    starts_from_checkpoint_id: str | None = Field(description="null: from the base image")
    changes: tuple[str, ...] = Field(description="changes of the image that no stage has")
    warnings: tuple[str, ...] = Field(description="what does not prevent the bake")
    stages: tuple[PlannedStageEntry, ...] = Field(description="the stages, in their order")
    checks: tuple[str, ...] = Field(description="the checks of the proof that are scripts")
    placements: tuple[PlacementEntry, ...] = Field(description="in order of preference")
    forecast: ForecastPart = Field(description="what it takes")

    @classmethod
    def of_preview(cls, preview: Preview) -> PlanEntry:
        plan, preflight, forecast = preview.plan, preview.job.preflight, preview.forecast
        image, low, high = preview.job.image, forecast.usd_low, forecast.usd_high
        return cls(
            recipe=plan.recipe.name,
            payload=plan.payload.name,
            digest=plan.digest,
            locked_run_id=plan.lock.run if plan.lock else None,
            base_image_id=preflight.base_image.image_id,
            base_image_name=preflight.base_image.name,
            image_id=image and image.image_id,
            image_state=image and image.state,
            starts_from_checkpoint_id=preview.start or None,
            changes=preview.changes,
            warnings=tuple(str(warning) for warning in preflight.warnings),
            stages=tuple(PlannedStageEntry.of_stage(stage, preview) for stage in plan.stages),
            checks=tuple(check.name for check in plan.checks),
            placements=tuple(
                PlacementEntry.of_placement(place, preview.usd_per_hour.get(place))
                for place in preflight.placements
            ),
            forecast=ForecastPart(
                duration=DurationPart.of_span(forecast.span),
                cost=None if low is None or high is None else CostPart(low_usd=low, high_usd=high),
                based_on=forecast.based_on,
            ),
        )


class PlanDocument(Document):
    """The plans of recipes: what their bakes would do."""

    plans: tuple[PlanEntry, ...] = Field(description="one for each recipe, also for one alone")
    failed: tuple[FailedRecipe, ...] = Field(description="the recipes that cannot be baked")
