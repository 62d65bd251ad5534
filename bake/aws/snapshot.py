"""Snapshots: creating one of a disk in use, finding them by their tags, deleting them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import partial
from typing import Any

from bake.aws.client.commands import removal_command, run_resources
from bake.aws.client.errors import TRANSIENT, was_refused
from bake.aws.client.retry import retry
from bake.aws.client.session import Cloud, filters_for
from bake.aws.client.undo import undo
from bake.aws.client.wait import MINUTE, delete_when_unused, poll
from bake.aws.tags import DIGEST, RUN, Tags, read, specifications

# After an image is deregistered, EC2 treats its snapshot as in use for a while.
_DELETE_S = 5 * MINUTE
# How long a new snapshot may be unknown to some of EC2's servers.
_KNOWN_S = 15.0
# EC2 takes no snapshot of the volume for now (EC2's "Error codes" page): the last one is less than
# 15 seconds old, five of a gp3 volume are pending, or the account has too many that are pending.
NOT_YET = frozenset(
    {
        "SnapshotCreationPerVolumeRateExceeded",
        "ConcurrentSnapshotLimitExceeded",
        "PendingSnapshotLimitExceeded",
    }
)
BETWEEN_S = 15.0
_ATTEMPTS = 4
_VOLUME_OF_COPIES = "vol-ffffffff"

BAKE_AGAIN = "Bake again: the bake starts from another checkpoint, or from the base image"


def create_snapshot(
    cloud: Cloud,
    volume_id: str,
    *,
    description: str,
    tags: Tags,
    known_by: str,
    wait_for_turn: bool = True,
) -> dict[str, Any]:
    """Create a snapshot of the volume; return EC2's description, usually in the state pending.

    CreateSnapshot has no ClientToken, so boto must not repeat it. If a response is lost, the
    snapshot is looked for by the tags `bake:run` and `known_by`, and created again if it does not
    exist. When this raises, no snapshot is left, since a late one could contain a changed disk.
    With `wait_for_turn`, this waits for less than a minute while EC2 answers `NOT_YET`.
    """
    request = {
        "VolumeId": volume_id,
        "Description": description,
        "TagSpecifications": specifications(tags, "snapshot"),
    }
    lost = False  # whether a response was lost: the call may have had its effect

    def create() -> dict[str, Any]:
        nonlocal lost
        if lost and (found := _find_created(cloud, volume_id, tags, known_by)):
            return found[0]
        try:
            return cloud.ec2_once("CreateSnapshot", **request)
        except BaseException as error:
            lost = lost or not was_refused(error)
            raise

    try:
        codes = TRANSIENT | (NOT_YET if wait_for_turn else set())
        return retry(create, cloud.clock, codes=codes, attempts=_ATTEMPTS, pause_s=BETWEEN_S)
    except BaseException:
        if lost:
            _undo(cloud, volume_id, tags, known_by)
        raise


def snapshots_of_image(cloud: Cloud, tags: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Yield the snapshots of the image with these tags, as soon as EC2 has started them.

    The image itself lists its snapshots only later. Other snapshots of a run have no digest.
    """
    filters = filters_for({f"tag:{key}": tags.get(key, "") for key in (RUN, DIGEST)})
    return cloud.pages("DescribeSnapshots", "Snapshots", OwnerIds=["self"], Filters=filters)


def is_copy(snapshot: Mapping[str, Any]) -> bool:
    """Return whether EC2's description is of a snapshot that was copied, not made of a disk.

    "Snapshots created by copying another snapshot have an arbitrary volume ID" (CopySnapshot).
    """
    return snapshot.get("VolumeId") == _VOLUME_OF_COPIES


def tags_of_image_snapshots(cloud: Cloud) -> dict[str, Tags]:
    """Return the tags of each snapshot that was made together with an image of a bake, by id."""
    filters = filters_for({"tag-key": DIGEST})
    found = cloud.pages("DescribeSnapshots", "Snapshots", OwnerIds=["self"], Filters=filters)
    return {snapshot["SnapshotId"]: read(snapshot.get("Tags")) for snapshot in found}


def copying_seconds(cloud: Cloud, snapshot_ids: Collection[str]) -> dict[str, float]:
    """Return the seconds that EBS took to copy each snapshot. Pending snapshots are left out."""
    filters = filters_for({"snapshot-id": list(snapshot_ids)})
    found = cloud.pages("DescribeSnapshots", "Snapshots", OwnerIds=["self"], Filters=filters)
    return {
        snapshot["SnapshotId"]: (snapshot["CompletionTime"] - snapshot["StartTime"]).total_seconds()
        for snapshot in (found if snapshot_ids else ())
        if "CompletionTime" in snapshot
    }


def delete_snapshot(cloud: Cloud, snapshot_id: str, *, unknown_for_s: float = _KNOWN_S) -> None:
    """Delete a snapshot, if it exists, as soon as no image uses it.

    `unknown_for_s` is the time in which EC2 may not yet know a snapshot that was just created.
    """
    delete_when_unused(
        partial(cloud.ec2, "DeleteSnapshot", SnapshotId=snapshot_id),
        in_use="InvalidSnapshot.InUse",
        not_found="InvalidSnapshot.NotFound",
        what=f"The snapshot {snapshot_id} is still in use by an image",
        unknown_for_s=unknown_for_s,
        timeout_s=_DELETE_S,
        clock=cloud.clock,
    )


def _find_created(
    cloud: Cloud, volume_id: str, tags: Tags, known_by: str
) -> list[dict[str, Any]] | None:
    wanted = {"volume-id": volume_id, **{f"tag:{key}": tags[key] for key in (RUN, known_by)}}
    filters = filters_for(wanted)
    found = cloud.pages("DescribeSnapshots", "Snapshots", OwnerIds=["self"], Filters=filters)
    return list(found) or None


def _undo(cloud: Cloud, volume_id: str, tags: Tags, known_by: str) -> None:
    ids = run_resources(
        "snapshot", tags[RUN], region=cloud.region, also={f"tag:{known_by}": tags[known_by]}
    )
    command = removal_command("snapshot", ids, region=cloud.region)
    look = partial(_find_created, cloud, volume_id, tags, known_by)
    with undo(cloud.leftovers, f"snapshot of {volume_id}", command):
        for snapshot in poll(look, timeout_s=_KNOWN_S, clock=cloud.clock) or ():
            delete_snapshot(cloud, snapshot["SnapshotId"])
