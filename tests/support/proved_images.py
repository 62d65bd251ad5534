"""Images that were proved on GPUs."""

from __future__ import annotations

from datetime import UTC, datetime

from bake.aws.image import Image
from bake.aws.tags import RECIPE, RUN, VERIFIED


def an_image(image_id: str, *, day: int, verified: str, recipe: str = "mxnet-cu101") -> Image:
    return Image(
        image_id=image_id,
        name=f"bake/{recipe}/{day}",
        state="available",
        architecture="x86_64",
        root_device_name="/dev/sda1",
        boot_mode=None,
        ena=True,
        size_gb=64,
        snapshot_ids=("snap-1",),
        created_at=datetime(2026, 11, day, tzinfo=UTC),
        reason_code="",
        reason="",
        tags={RUN: "r", RECIPE: recipe, VERIFIED: verified},
    )


PROVED = an_image("ami-0000000000000002", day=10, verified="gpu")
