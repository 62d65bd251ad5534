"""A finished image with all its tags."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from bake.aws.image import Image

NOW = datetime(2026, 11, 21, 6, 30, tzinfo=UTC)


IMAGE = Image(
    image_id="ami-0123456789abcdef0",
    name="bake/mxnet-cu118-debian12/20261121-063000-0123abcd",
    state="available",
    architecture="x86_64",
    root_device_name="/dev/sda1",
    boot_mode=None,
    ena=True,
    size_gb=64,
    snapshot_ids=("snap-0123456789abcdef0",),
    created_at=NOW - timedelta(days=60),
    reason_code="",
    reason="",
    tags={"bake:recipe": "mxnet-cu118-debian12", "bake:verified": "gpu"},
)
