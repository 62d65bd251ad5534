"""Checkpoints: snapshots of a builder's disk, tagged with the stages that they hold.

The tags say everything: `bake:stage:NAME` the digest of each stage, `bake:checkpoint` the digest of
just these, so that one added, changed or removed by hand shows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bake.aws.client.commands import aws_command
from bake.aws.client.session import Cloud
from bake.aws.client.undo import undo
from bake.aws.client.wait import HOUR, MINUTE, wait_until
from bake.aws.machine import Machine, find_machine
from bake.aws.snapshot import BAKE_AGAIN, create_snapshot
from bake.aws.tags import (
    CHECKPOINT,
    EXPIRES,
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

OnProgress = Callable[[str], None]

# EBS copies a full disk of hundreds of GB in less.
_COMPLETED_S = 6 * HOUR
_LOST_S = MINUTE
_NOT_FOUND = "InvalidSnapshot.NotFound"


@dataclass(frozen=True)
class Checkpoint:
    """`stages` are digests by name, `seconds` how long they took, as far as that is known.

    `sound`: the tags are as they were written. `reason` is AWS's own for a state that is no good.
    `expires_at` is None where a hand has taken the time away: it is kept then.
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

    def has_expired(self, now: datetime) -> bool:
        return self.expires_at is not None and self.expires_at <= now


def contents_digest(stages: Mapping[str, str]) -> str:
    """The value of `bake:checkpoint`: sha256 in hex over each stage's name and digest."""
    text = json.dumps(dict(stages), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def checkpoints(cloud: Cloud, recipe: str | None = None) -> list[Checkpoint]:
    """This account's, in whatever state, the newest first; of one moment, the fuller first."""
    wanted = {"tag-key": CHECKPOINT} | ({f"tag:{RECIPE}": recipe} if recipe else {})
    found = map(_checkpoint, _own(cloud, wanted))
    return sorted(found, key=lambda each: (each.started_at, len(each.stages)), reverse=True)


def create_checkpoint(
    cloud: Cloud,
    run: Run,
    machine: Machine,
    *,
    stages: Mapping[str, str],
    seconds: Mapping[str, float],
    expires_at: datetime,
    wait_for_turn: bool = True,
) -> Checkpoint:
    """A snapshot of the machine's disk as it is during this call, pending as a rule.

    Nothing may change on the disk until this returns: a call whose answer was lost is looked for,
    and made again where it had no effect. When it raises, there is no snapshot of it.
    """
    volume_id = machine.root_volume_id or _root_volume_id(cloud, machine)
    tags = run.temporary() | {
        EXPIRES: rfc3339(expires_at),
        CHECKPOINT: contents_digest(stages),
        SECONDS: write_seconds({n: s for n, s in seconds.items() if n in stages}),
        **{STAGE + name: digest for name, digest in stages.items()},
    }
    snapshot = create_snapshot(
        cloud,
        volume_id,
        description=f"A checkpoint of {run.recipe}",
        tags=tags,
        known_by=CHECKPOINT,
        wait_for_turn=wait_for_turn,
    )
    return _checkpoint(snapshot, tags)


def wait_until_completed(
    cloud: Cloud, checkpoint: Checkpoint, *, on_progress: OnProgress = lambda text: None
) -> Checkpoint:
    """As it is when EBS has copied all of it. CheckpointError when it fails, or is gone."""
    seen_at = cloud.clock.now()
    # Only one that was taken a moment ago may be not everywhere known yet.
    lost_s = _LOST_S if checkpoint.state == "pending" else 0

    def probe() -> Checkpoint | None:
        nonlocal seen_at
        current = _find(cloud, checkpoint.snapshot_id)
        if current is None:
            if cloud.clock.now() - seen_at >= lost_s:
                raise CheckpointError(
                    f"The checkpoint {checkpoint.snapshot_id} is gone",
                    hint=f"Somebody, or something, has deleted it. {BAKE_AGAIN}",
                )
            return None
        seen_at = cloud.clock.now()
        if current.state == "completed":
            return current
        if current.state != "pending":
            raise CheckpointError(
                f"The checkpoint {current.snapshot_id} went to {current.state}",
                hint=BAKE_AGAIN,
                reason=current.reason,
            )
        on_progress(f"pending, {current.progress or '0%'}")
        return None

    return wait_until(
        probe,
        what=f"The checkpoint {checkpoint.snapshot_id} is pending",
        timeout_s=_COMPLETED_S,
        clock=cloud.clock,
        failure=CheckpointError,
    )


def delete_checkpoint(cloud: Cloud, checkpoint: Checkpoint) -> bool:
    """Whether it was removed now: not while an image uses it. A refusal is a Leftover."""
    snapshot_id = checkpoint.snapshot_id
    command = aws_command("ec2", "delete-snapshot", region=cloud.region, snapshot_id=snapshot_id)
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
    now = find_machine(cloud, machine.instance_id)
    if now is None or not now.root_volume_id:
        raise MachineError(f"The machine {machine.instance_id} has no disk (any more)")
    return now.root_volume_id


def _find(cloud: Cloud, snapshot_id: str) -> Checkpoint | None:
    try:
        answer = cloud.ec2("DescribeSnapshots", SnapshotIds=[snapshot_id])
    except CloudError as error:
        if error.code == _NOT_FOUND:
            return None
        raise
    return next(map(_checkpoint, answer["Snapshots"]), None)


def _own(cloud: Cloud, filters: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    return cloud.pages(
        "DescribeSnapshots",
        "Snapshots",
        OwnerIds=["self"],
        Filters=[{"Name": key, "Values": [value]} for key, value in filters.items()],
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
    )
