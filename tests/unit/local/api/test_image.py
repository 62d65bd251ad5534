"""The block device mappings of an image, and saving and restoring an image."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from moto.ec2.models.tags import TagBackend

from bake.local.api.image import (
    ImageStateReason,
    LocalImage,
    LocalSnapshot,
    document,
    image_mappings,
    restore,
)

ROOT = {"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": "snap-1", "VolumeSize": 8}}


@pytest.mark.parametrize(
    ("requested", "expected"),
    [
        ([], [ROOT]),
        (
            [{"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 64, "Encrypted": True}}],
            [{"DeviceName": "/dev/xvda",
              "Ebs": {"SnapshotId": "snap-1", "VolumeSize": 64, "Encrypted": True}}],
        ),
        ([{"DeviceName": "/dev/sdb", "VirtualName": "ephemeral0"}],
         [ROOT, {"DeviceName": "/dev/sdb", "VirtualName": "ephemeral0"}]),
        ([{"DeviceName": "/dev/xvda", "NoDevice": ""}], []),
    ],
    ids=["as the image has it", "larger", "instance store", "none"],
)  # fmt: skip
def test_requested_mapping_changes_what_it_names(
    requested: list[dict[str, Any]], expected: list[dict[str, Any]]
) -> None:
    assert image_mappings(requested, [ROOT]) == expected
    assert ROOT["Ebs"] == {"SnapshotId": "snap-1", "VolumeSize": 8}


def books() -> Any:
    """The part of a region's backend that an image needs: tags."""
    backend: Any = TagBackend()
    backend.account_id = "123456789012"
    return backend


def test_image_and_snapshot_are_read_as_they_were_written() -> None:
    backend = books()
    image = LocalImage(
        ec2_backend=backend,
        id="ami-1",
        owner_id="123456789012",
        name="bake/x",
        root_device_name="/dev/xvda",
        block_device_mappings=[ROOT],
        state_reason=ImageStateReason("Client.InternalError", "why"),
        imds_support="v2.0",
    )
    snapshot = LocalSnapshot(
        ec2_backend=backend, id="snap-1", owner_id="123456789012", volume_id="vol-1", volume_size=8
    )
    snapshot.succeed()
    image.add_tags({"bake:digest": "d"})
    for resource in (image, snapshot):
        other = books()
        again = restore(type(resource), other, document(resource))
        assert document(again) == document(resource)
        assert vars(again) | {"ec2_backend": backend} == vars(resource)
    assert SimpleNamespace(**document(image)).tags == {"bake:digest": "d"}
