"""Checkpoints: snapshots of a builder's disk, tagged with the stages that they contain.

Their tags hold all information: `bake:stage:NAME` is the digest of a stage, and `bake:checkpoint`
is a digest of all these, so that a tag that was added, changed or removed by hand is noticed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bake.aws.client.commands import removal_command
from bake.aws.client.session import Cloud, filters_for
from bake.aws.client.undo import undo
from bake.aws.client.wait import HOUR, MINUTE, wait_until
from bake.aws.machine import Machine, find_machine
from bake.aws.snapshot import BAKE_AGAIN, create_snapshot, is_copy
from bake.aws.tags import (
    CHECKPOINT,
    EXPIRES,
    PAYLOAD,
    RECIPE,
    RUN,
    SECONDS,
    STAGE,
    Run,
    Tags,
    parse_time,
    read,
    read_seconds,
    read_stages,
    rfc3339,
    write_seconds,
)
from bake.errors import CheckpointError, CloudError, MachineError
from bake.files import json_digest

OnProgress = Callable[[str], None]

# Longer than EBS takes for a full disk of hundreds of GB.
_COMPLETED_S = 6 * HOUR
_LOST_S = MINUTE
_NOT_FOUND = "InvalidSnapshot.NotFound"


@dataclass(frozen=True)
class Checkpoint:
    """A snapshot with the stages that it contains.

    `stages` maps each stage to its digest, `seconds` to its duration where that is known. `sound`
    is False if the tags were changed by hand. `reason` is AWS's reason for a failed snapshot.
    `expires_at` is None if the expiry time was removed by hand; such a checkpoint is kept.
    `payload` is "" in a checkpoint of an older version.
    """

    snapshot_id: str
    state: str
    progress: str
    size_gb: int
    started_at: datetime
    expires_at: datetime | None
    recipe: str
    run_id: str
    stages: Mapping[str, str]
    seconds: Mapping[str, float]
    sound: bool
    reason: str = ""
    payload: str = ""

    def has_expired(self, now: datetime) -> bool:
        return self.expires_at is not None and self.expires_at <= now


def contents_digest(stages: Mapping[str, str]) -> str:
    """Return the value of `bake:checkpoint`: SHA-256, in hex, of the stages' names and digests."""
    return json_digest(dict(stages))


def checkpoints(cloud: Cloud, recipe: str | None = None) -> list[Checkpoint]:
    """Return this account's checkpoints in all states, the newest first.

    A copy that a person has made of a checkpoint is left out. Of two from the same time, the one
    with more stages comes first.
    """
    wanted = {"tag-key": CHECKPOINT} | ({f"tag:{RECIPE}": recipe} if recipe else {})
    own = (snapshot for snapshot in _describe_own(cloud, wanted) if not is_copy(snapshot))
    found = map(_checkpoint, own)
    return sorted(found, key=lambda each: (each.started_at, len(each.stages)), reverse=True)


def create_checkpoint(
    cloud: Cloud,
    run: Run,
    machine: Machine,
    *,
    stages: Mapping[str, str],
    seconds: Mapping[str, float],
    expires_at: datetime,
    payload: str = "upstream",
    wait_for_turn: bool = True,
) -> Checkpoint:
    """Create a checkpoint of the machine's disk, and return it, usually still pending.

    The disk must not change during this call: if AWS's response is lost, the snapshot is looked
    for, and created again if it does not exist. When this raises, no snapshot is left.
    """
    volume_id = machine.root_volume_id or _root_volume_id(cloud, machine)
    tags = run.temporary() | {
        EXPIRES: rfc3339(expires_at),
        CHECKPOINT: contents_digest(stages),
        PAYLOAD: payload,
        SECONDS: write_seconds({n: s for n, s in seconds.items() if n in stages}),
        **{STAGE + name: digest for name, digest in stages.items()},
    }
    snapshot = create_snapshot(
        cloud,
        volume_id,
        description=f"Checkpoint of {run.recipe}",
        tags=tags,
        known_by=CHECKPOINT,
        wait_for_turn=wait_for_turn,
    )
    return _checkpoint(snapshot, tags)


def wait_until_completed(
    cloud: Cloud, checkpoint: Checkpoint, *, on_progress: OnProgress = lambda text: None
) -> Checkpoint:
    """Wait until EBS has copied all data, and return the checkpoint in its new state.

    CheckpointError if the snapshot fails or is deleted.
    """
    seen_at = cloud.clock.now()
    # A snapshot that was created a moment ago may be unknown to some of EC2's servers.
    lost_s = _LOST_S if checkpoint.state == "pending" else 0

    def probe() -> Checkpoint | None:
        nonlocal seen_at
        current = _find(cloud, checkpoint.snapshot_id)
        if current is None:
            if cloud.clock.now() - seen_at >= lost_s:
                raise CheckpointError(
                    f"The checkpoint {checkpoint.snapshot_id} was deleted",
                    hint=f"It was deleted outside of this bake. {BAKE_AGAIN}",
                )
            return None
        seen_at = cloud.clock.now()
        if current.state == "completed":
            return current
        if current.state != "pending":
            raise CheckpointError(
                f"The checkpoint {current.snapshot_id} went into the state {current.state}",
                hint=BAKE_AGAIN,
                reason=current.reason,
            )
        on_progress(f"pending, {current.progress or '0%'}")
        return None

    return wait_until(
        probe,
        what=f"The checkpoint {checkpoint.snapshot_id} is still pending",
        timeout_s=_COMPLETED_S,
        clock=cloud.clock,
        failure=CheckpointError,
    )


def delete_checkpoint(cloud: Cloud, checkpoint: Checkpoint) -> bool:
    """Delete it, and return whether this call deleted it: False if an image uses it.

    If EC2 refuses for another reason, the checkpoint becomes a Leftover.
    """
    snapshot_id = checkpoint.snapshot_id
    command = removal_command("snapshot", snapshot_id, region=cloud.region)
    with undo(cloud.leftovers, f"checkpoint {snapshot_id}", command):
        try:
            cloud.ec2("DeleteSnapshot", SnapshotId=snapshot_id)
        except CloudError as error:
            if error.code not in {"InvalidSnapshot.InUse", _NOT_FOUND}:
                raise
            return False
        return True
    return False


def _root_volume_id(cloud: Cloud, machine: Machine) -> str:
    current = find_machine(cloud, machine.instance_id)
    if current is None or not current.root_volume_id:
        raise MachineError(f"The machine {machine.instance_id} has no disk")
    return current.root_volume_id


def _find(cloud: Cloud, snapshot_id: str) -> Checkpoint | None:
    try:
        response = cloud.ec2("DescribeSnapshots", SnapshotIds=[snapshot_id])
    except CloudError as error:
        if error.code == _NOT_FOUND:
            return None
        raise
    return next(map(_checkpoint, response["Snapshots"]), None)


def _describe_own(cloud: Cloud, filters: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    return cloud.pages(
        "DescribeSnapshots",
        "Snapshots",
        OwnerIds=["self"],
        Filters=filters_for(filters),
    )


def _checkpoint(snapshot: dict[str, Any], tags: Tags | None = None) -> Checkpoint:
    tags = tags or read(snapshot.get("Tags"))
    stages = read_stages(tags)
    return Checkpoint(
        snapshot_id=snapshot["SnapshotId"],
        state=snapshot["State"],
        progress=snapshot.get("Progress", ""),
        size_gb=snapshot["VolumeSize"],
        started_at=snapshot["StartTime"],
        expires_at=parse_time(tags.get(EXPIRES, "")),
        recipe=tags.get(RECIPE, ""),
        run_id=tags.get(RUN, ""),
        stages=stages,
        seconds=read_seconds(tags.get(SECONDS, "")),
        sound=tags.get(CHECKPOINT) == contents_digest(stages),
        reason=snapshot.get("StateMessage", ""),
        payload=tags.get(PAYLOAD, ""),
    )
