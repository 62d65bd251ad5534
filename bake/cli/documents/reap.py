"""The document of orphaned resources."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from bake.aws.orphans import Orphan
from bake.cli.documents.document import Document, ErrorPart, Part, Snake, TextOrNull, Time, Usd
from bake.pipeline.reaping import Reaped


class OrphanEntry(Part):
    """A resource that a run has left behind."""

    id: str = Field(description="its id at AWS; the name of a key pair or a lease")
    kind: Annotated[
        Literal[
            "spot_request",
            "image",
            "machine",
            "volume",
            "security_group",
            "key_pair",
            "checkpoint",
            "snapshot",
            "lease",
        ],
        Snake,
    ] = Field(description="what it is")
    recipe: TextOrNull = Field(description="the recipe of its run")
    run_id: TextOrNull = Field(description="its run")
    created_at: Time | None = Field(description="when it was created")
    why: str = Field(description="why it may be removed")
    size_gb: int | None = Field(description="the size of a disk")
    snapshot_ids: tuple[str, ...] = Field(description="the snapshots of an image that failed")
    usd_per_month_at_most: Usd | None = Field(description="its cost")
    state: Literal["found", "removed", "failed"] = Field(
        description="`found` without `--yes`, otherwise `removed` or `failed`"
    )
    command: str = Field(description="the AWS CLI command that removes it")

    @classmethod
    def of_orphan(cls, orphan: Orphan, reaped: Reaped) -> OrphanEntry:
        left = {removal.orphan: removal.leftover for removal in reaped.removals or ()}
        removed = "failed" if left.get(orphan) else "removed"
        return cls.of(
            orphan,
            run_id=orphan.run,
            created_at=orphan.made_at,
            size_gb=orphan.gb or None,
            usd_per_month_at_most=reaped.usd[orphan],
            state=removed if orphan in left else "found",
        )


class ReapedRegionEntry(Part):
    """The orphaned resources of a region."""

    region: str = Field(description="the region")
    resources: tuple[OrphanEntry, ...] = Field(description="in the order of their removal")
    error: ErrorPart | None = Field(
        description="why the region could not be searched, or what is left in it"
    )

    @classmethod
    def of_reaped(cls, reaped: Reaped) -> ReapedRegionEntry:
        return cls(
            region=reaped.region,
            resources=tuple(OrphanEntry.of_orphan(each, reaped) for each in reaped.remains),
            error=ErrorPart.of_error(reaped.error),
        )


class ReapDocument(Document):
    """The resources that killed runs have left behind."""

    regions: tuple[ReapedRegionEntry, ...] = Field(description="one for each region")
