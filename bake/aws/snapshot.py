"""Snapshots of ours, found by their tags."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bake.aws.session import Cloud
from bake.aws.tags import DIGEST, RUN
from bake.aws.wait import MINUTE, wait_until
from bake.errors import CloudError

# EC2 takes a while to notice that an image no longer uses its snapshot.
_DELETE_S = 5 * MINUTE


def snapshots_of_image(cloud: Cloud, tags: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Those made together with the image that has these tags, as soon as EC2 has started them.

    An image lists its snapshots itself only later. A run's other snapshots have no digest.
    """
    filters = [{"Name": f"tag:{key}", "Values": [tags.get(key, "")]} for key in (RUN, DIGEST)]
    return cloud.pages("DescribeSnapshots", "Snapshots", OwnerIds=["self"], Filters=filters)


def delete_snapshot(cloud: Cloud, snapshot_id: str) -> None:
    """Delete it as soon as no image uses it; no error when it is gone already."""

    def probe() -> bool | None:
        try:
            cloud.ec2("DeleteSnapshot", SnapshotId=snapshot_id)
        except CloudError as error:
            if error.code == "InvalidSnapshot.InUse":
                return None
            if error.code != "InvalidSnapshot.NotFound":
                raise
        return True

    what = f"snapshot {snapshot_id} is in use by an image"
    wait_until(probe, what=what, timeout_s=_DELETE_S, clock=cloud.clock)
