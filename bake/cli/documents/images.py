"""The documents of images: listed, copied, removed; and of checkpoints."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from bake.aws.checkpoint import Checkpoint
from bake.aws.image import Image
from bake.cli.documents.document import (
    Document,
    ErrorPart,
    Part,
    PayloadOrNull,
    Proved,
    Seconds,
    TextOrNull,
    Time,
    Usd,
)
from bake.images.copies import Copied
from bake.images.retention import ImageRemoval, Verdict


class ImageEntry(Part):
    """An image."""

    image_id: str = Field(description="EC2's id")
    name: str = Field(description="its name")
    state: str = Field(description="EC2's state: `pending`, `available`, `failed`, …")
    state_reason: TextOrNull = Field(description="AWS's explanation of a failed state")
    state_reason_code: TextOrNull = Field(description="its code")
    recipe: TextOrNull = Field(description="its recipe")
    run_id: TextOrNull = Field(description="the run that has baked it")
    digest: TextOrNull = Field(description="the digest of its plan")
    proved: Proved = Field(description="the kind of machine on which it was proved")
    payload: PayloadOrNull = Field(description="whether real software is in it, or stand-ins")
    created_at: Time = Field(description="when it was created")
    launched_at: Time | None = Field(
        description="the last start of a machine from it, which EC2 reports a day later"
    )
    size_gb: int = Field(description="the size of its first disk")
    usd_per_month_at_most: Usd | None = Field(
        description="the cost of its snapshots, if all blocks of its disks are in use"
    )
    snapshot_ids: tuple[str, ...] = Field(description="its snapshots")
    architecture: str = Field(description="`x86_64` or `arm64`")
    root_device_name: str = Field(description="the device of its first disk")
    boot_mode: str | None = Field(description="EC2's boot mode")
    has_ena: bool | None = Field(description="true if it supports EC2's enhanced networking (ENA)")
    requires_imdsv2: bool = Field(description="true if its machines require IMDSv2")
    is_encrypted: bool = Field(description="true if its snapshots are encrypted")
    is_public: bool = Field(description="true if every AWS account may use it")
    is_protected: bool = Field(description="true if it is protected from being deregistered")
    tags: dict[str, str] = Field(description="its tags")

    @classmethod
    def of_image(cls, image: Image, usd_per_gb_month: float | None) -> ImageEntry:
        """Make it of an image. `usd_per_gb_month` is the price of snapshots, None if unknown."""
        return cls.of(image, **_fields(image, usd_per_gb_month))


def _fields(image: Image, usd_per_gb_month: float | None) -> dict[str, Any]:
    return {
        "state_reason": image.reason,
        "state_reason_code": image.reason_code,
        "proved": image.verified,
        "payload": image.payload,
        "usd_per_month_at_most": usd_at_most(image.size_gb, usd_per_gb_month),
        "has_ena": image.ena,
        "requires_imdsv2": image.imdsv2,
        "is_encrypted": image.encrypted,
        "is_public": image.public,
        "is_protected": image.protected,
        "tags": dict(image.tags),
    }


def usd_at_most(size_gb: int, usd_per_gb_month: float | None) -> float | None:
    """Return the highest possible cost of a snapshot per month; None if the price is not known."""
    return None if usd_per_gb_month is None else size_gb * usd_per_gb_month


class ImagesDocument(Document):
    """The images of a region."""

    images: tuple[ImageEntry, ...] = Field(description="the images, the newest first")


class CopyEntry(Part):
    """The copy of an image in one region."""

    region: str = Field(description="the region")
    status: Literal["copied", "exists", "failed"] = Field(
        description="`exists` if the copy was made before"
    )
    duration_s: Seconds = Field(description="how long it took")
    image_id: str | None = Field(description="the copy")
    image_name: str | None = Field(description="its name")
    error: ErrorPart | None = Field(description="why it failed")

    @classmethod
    def of_copy(cls, copied: Copied) -> CopyEntry:
        return cls.of(
            copied,
            duration_s=copied.seconds,
            image_id=copied.image and copied.image.image_id,
            image_name=copied.image and copied.image.name,
            error=ErrorPart.of_error(copied.error),
        )


class CopyDocument(Document):
    """The copies of an image in other regions."""

    copies: tuple[CopyEntry, ...] = Field(description="one for each region of `--to`")


class PruneEntry(ImageEntry):
    """An image, and the decision about it."""

    decision: Literal["kept", "removable", "removed", "failed"] = Field(
        description="`removable` without `--yes`, otherwise `removed` or `failed`"
    )
    why: TextOrNull = Field(description="why it is kept")
    error: ErrorPart | None = Field(description="why it could not be removed")

    @classmethod
    def of_verdict(
        cls, verdict: Verdict, removal: ImageRemoval | None, usd_per_gb_month: float | None
    ) -> PruneEntry:
        """Make it of a verdict. `removal` is None if the image was not to be removed."""
        if verdict.why:
            decision = "kept"
        elif removal is None:
            decision = "removable"
        else:
            decision = "failed" if removal.error else "removed"
        return cls.of(
            verdict.image,
            **_fields(verdict.image, usd_per_gb_month),
            decision=decision,
            why=verdict.why,
            error=ErrorPart.of_error(removal.error if removal else None),
        )


class PruneDocument(Document):
    """The finished images, and which of them are removed."""

    images: tuple[PruneEntry, ...] = Field(description="the images, the newest first")


class CheckpointEntry(Part):
    """A checkpoint."""

    snapshot_id: str = Field(description="EC2's id of the snapshot")
    recipe: TextOrNull = Field(description="the recipe whose bake has made it")
    run_id: TextOrNull = Field(description="the run that has made it")
    state: str = Field(description="EC2's state: `pending`, `completed`, `error`, …")
    state_reason: TextOrNull = Field(description="AWS's reason for a failed state")
    progress: TextOrNull = Field(description="how much EBS has copied, such as `100%`")
    is_valid: bool = Field(description="false if its tags were changed by hand: it is not used")
    stages: dict[str, str] = Field(description="the stages that it holds, with their digests")
    stage_durations_s: dict[str, Seconds] = Field(description="how long the stages took, if known")
    started_at: Time = Field(description="when it was made")
    expires_at: Time | None = Field(description="from when on it is removed; null: never")
    size_gb: int = Field(description="the size of the disk")
    usd_per_month_at_most: Usd | None = Field(
        description="its cost, if it shares no block with an older snapshot"
    )

    @classmethod
    def of_checkpoint(
        cls, checkpoint: Checkpoint, usd_per_gb_month: float | None
    ) -> CheckpointEntry:
        return cls.of(
            checkpoint,
            state_reason=checkpoint.reason,
            is_valid=checkpoint.sound,
            stages=dict(checkpoint.stages),
            stage_durations_s=dict(checkpoint.seconds),
            usd_per_month_at_most=usd_at_most(checkpoint.size_gb, usd_per_gb_month),
        )


class CheckpointsDocument(Document):
    """The checkpoints of a region."""

    checkpoints: tuple[CheckpointEntry, ...] = Field(
        description="the checkpoints, the newest first"
    )
