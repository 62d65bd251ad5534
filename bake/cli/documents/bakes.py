"""The documents of bakes and rebuilds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from bake.cli.documents.document import (
    Document,
    ErrorPart,
    Market,
    Part,
    PathText,
    Payload,
    Proved,
    Seconds,
    Snake,
    TextOrNull,
    Usd,
)
from bake.pipeline.bake import Outcome
from bake.pipeline.rebuild import RecipeReport
from bake.record import record as records
from bake.record.cost import total_usd
from bake.record.record import Record


class CheckEntry(Part):
    """A check of the proof."""

    name: str = Field(description="what was checked")
    outcome: Literal["passed", "failed", "skipped"] = Field(description="its outcome")
    detail: str = Field(description="what was found, or why it was skipped")
    duration_s: Seconds = Field(description="how long it took")


class BakedStageEntry(Part):
    """A stage of an image."""

    name: str = Field(description="its name")
    digest: str = Field(description="its digest")
    duration_s: Seconds = Field(description="how long it took when it ran")
    checkpoint_id: str | None = Field(
        description="the checkpoint that held it; null if it ran in this bake"
    )


class BakedPart(Part):
    """The bake that has just made an image; everything about it is in its record."""

    run_id: str = Field(description="its run")
    record_path: PathText = Field(description="its record.json")
    payload: Payload = Field(description="whether real software was installed, or stand-ins")
    instance_type: str = Field(description="the type of its last machine")
    zone: str = Field(description="the machine's availability zone")
    market: Market = Field(description="how the machine was paid for")
    cost_usd: Usd | None = Field(
        description="the cost of its machines; null if a price is not known"
    )
    snapshot_ids: tuple[str, ...] = Field(description="the image's snapshots")
    stages: tuple[BakedStageEntry, ...] = Field(description="the image's stages")
    checks: tuple[CheckEntry, ...] = Field(description="the checks of the proof")

    @classmethod
    def of_record(cls, record: Record, builds: Path) -> BakedPart:
        return cls.of(
            record,
            run_id=record.run,
            record_path=builds / record.run / records.FILE,
            cost_usd=total_usd(record),
            stages=[
                BakedStageEntry.of(s, duration_s=s.seconds, checkpoint_id=s.checkpoint)
                for s in record.stages
            ],
            checks=[CheckEntry.of(check, duration_s=check.seconds) for check in record.checks],
        )


class BakeEntry(Part):
    """The result of one recipe."""

    recipe: str = Field(description="the recipe")
    status: Annotated[Literal["baked", "up_to_date", "failed"], Snake] = Field(
        description="`up_to_date` if the image existed"
    )
    duration_s: Seconds = Field(description="how long it took")
    image_id: str | None = Field(description="the image")
    image_name: str | None = Field(description="its name")
    digest: str | None = Field(description="the digest of its plan")
    proved: Proved | None = Field(description="the kind of machine on which it was proved")
    baked: BakedPart | None = Field(description="null if nothing was baked")
    error: ErrorPart | None = Field(description="why it failed")

    @classmethod
    def of_outcome(cls, outcome: Outcome, builds: Path) -> BakeEntry:
        """Make it of an outcome. `builds` is the folder of the records."""
        image, record = outcome.image, outcome.record
        return cls.of(
            outcome,
            duration_s=outcome.seconds,
            image_id=image and image.image_id,
            image_name=image and image.name,
            digest=image and image.digest,
            proved=image and image.verified,
            baked=BakedPart.of_record(record, builds) if record else None,
            error=ErrorPart.of_error(outcome.error),
        )


class BakeDocument(Document):
    """The results of a bake."""

    bakes: tuple[BakeEntry, ...] = Field(description="one for each recipe, also for one alone")


class RebuildEntry(Part):
    """The result of one recipe."""

    recipe: str = Field(description="the recipe")
    status: Annotated[Literal["baked", "up_to_date", "failed", "not_tried"], Snake] = Field(
        description="`not_tried` after too many failures in a row"
    )
    why: tuple[str, ...] = Field(description="what has changed, or why it was not tried")
    duration_s: Seconds | None = Field(description="how long it took; null if it was not tried")
    image_id: TextOrNull = Field(description="the image")
    proved: Proved | None = Field(description="the kind of machine on which it was proved")
    cost_usd: Usd | None = Field(description="the cost of its machines; null if it is not known")
    error: ErrorPart | None = Field(description="why it failed")

    @classmethod
    def of_report(cls, report: RecipeReport) -> RebuildEntry:
        return cls.of(
            report,
            duration_s=report.seconds,
            cost_usd=report.usd,
            proved=report.proved or None,
            error=ErrorPart.of_error(report.error),
        )


class MatrixEntry(Part):
    """A job for GitHub Actions."""

    group: str = Field(description="the job's name")
    recipes: str = Field(description="the recipes that it bakes, with spaces between them")


class MatrixPart(Part):
    """A matrix for GitHub Actions."""

    include: tuple[MatrixEntry, ...] = Field(description="the jobs")


class RebuildDocument(Document):
    """The results of a rebuild."""

    recipes: tuple[RebuildEntry, ...] = Field(
        description="one for each recipe; with `--matrix`, only those that are not tried"
    )
    matrix: MatrixPart | None = Field(description="null without `--matrix`")
