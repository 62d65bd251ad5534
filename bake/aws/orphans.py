"""The resources that a run may leave behind, found by their tags.

These are never listed: a resource without the tag `bake:run`; a finished image and its snapshots; a
resource that is meant to stay, which has no tag `bake:expires`; and an image or a snapshot that
someone else has made and to which such tags were copied, such as a backup of a builder's disk.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Literal, get_args

from bake.aws.client.commands import removal_command
from bake.aws.client.session import Cloud
from bake.aws.placement import Placement
from bake.aws.snapshot import is_copy
from bake.aws.tags import (
    CHECKPOINT,
    DIGEST,
    EXPIRES,
    RECIPE,
    RUN,
    Tags,
    parse_time,
    read,
    start_time,
    temporary_name,
)
from bake.threads import together

Description = Mapping[str, Any]  # a resource as AWS describes it

# In the order of removal: a spot request may still become a machine, a machine uses its security
# group and its volumes, an image its snapshots. The lease shows that all of them may be removed.
Kind = Literal[
    "spot request",
    "image",
    "machine",
    "volume",
    "security group",
    "key pair",
    "checkpoint",
    "snapshot",
    "lease",
]
KINDS: tuple[Kind, ...] = get_args(Kind)

_FAILED = {"failed", "error", "invalid"}
# A snapshot of an image has no expiry time. No run works on an image for as long as a day.
_WITHOUT_IMAGE = timedelta(days=1)
# For this time EC2 may list the snapshots of a new image, but not the image itself.
_UNKNOWN = timedelta(minutes=1)


@dataclass(frozen=True)
class Orphan:
    """An orphaned resource, and `why` it may be removed. The `id` of a key pair is its name.

    `made_at` is the time of creation that AWS reports, otherwise the start of the run. `gb` is the
    size of a disk; a snapshot of it is charged for at most that much. `placement` is set for a
    running machine, `snapshot_ids` for an image that failed.
    """

    region: str
    kind: Kind
    id: str
    run: str
    recipe: str
    made_at: datetime | None
    why: str = ""
    gb: int = 0
    placement: Placement | None = None
    snapshot_ids: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"

    @property
    def command(self) -> str:
        """The AWS CLI command that removes it."""
        return removal_command(
            "snapshot" if self.kind == "checkpoint" else self.kind,
            self.id,
            region=self.region,
            with_snapshots=bool(self.snapshot_ids),
        )


@dataclass(frozen=True)
class _Listing:
    """The request that lists one kind of temporary resource.

    `id` and `made_at` are the members of the response for the id and the time of creation; `wanted`
    are further filters.
    """

    kind: Kind
    operation: str
    key: str
    id: str
    made_at: str = ""
    wanted: Mapping[str, list[str]] = field(default_factory=dict)


_TEMPORARY = (
    _Listing(
        "machine",
        "DescribeInstances",
        "Reservations",
        "InstanceId",
        "LaunchTime",
        {"instance-state-name": ["pending", "running", "stopping", "stopped"]},
    ),
    # A volume that is attached is deleted together with its machine.
    _Listing(
        "volume",
        "DescribeVolumes",
        "Volumes",
        "VolumeId",
        "CreateTime",
        {"status": ["available", "error"]},
    ),
    _Listing("security group", "DescribeSecurityGroups", "SecurityGroups", "GroupId"),
    _Listing("key pair", "DescribeKeyPairs", "KeyPairs", "KeyName", "CreateTime"),
    # A request that was fulfilled ends together with its machine.
    _Listing(
        "spot request",
        "DescribeSpotInstanceRequests",
        "SpotInstanceRequests",
        "SpotInstanceRequestId",
        "CreateTime",
        {"state": ["open"]},
    ),
)


@dataclass(frozen=True)
class Candidate:
    """A resource that may turn out to be orphaned.

    `broken` is the reason why no run can use it. `of_run` is True if it may be removed as soon as
    its run is dead. `held_by` is the id of an image that has to be removed first.
    """

    orphan: Orphan
    expires_at: datetime | None
    broken: str = ""
    of_run: bool = True
    held_by: str = ""

    def has_expired(self, now: datetime) -> bool:
        return self.expires_at is not None and self.expires_at <= now

    def may_be_removed(self, now: datetime) -> bool:
        """Tell whether it could be removed now if its run were dead."""
        return self.of_run or bool(self.broken) or self.has_expired(now)


def list_candidates(cloud: Cloud, recipe: str | None = None) -> list[Candidate]:
    """Return all resources that could be orphaned, of one recipe or of all.

    Each kind is listed once, all kinds at the same time.
    """
    of_bake = {"tag-key": [RUN]} | ({f"tag:{RECIPE}": [recipe]} if recipe else {})
    listed: dict[str, list[Description]] = {}

    def list_kind(operation: str, key: str, more: Mapping[str, list[str]], **params: Any) -> None:
        filters = [{"Name": name, "Values": values} for name, values in {**of_bake, **more}.items()]
        found = cloud.pages(operation, key, Filters=filters, **params)
        if key == "Reservations":
            found = (instance for each in found for instance in each["Instances"])
        # Checked again: another EC2 endpoint might ignore the filter.
        listed[key] = [each for each in found if _has_run(_tags(each), recipe)]

    own = {"Owners": ["self"], "IncludeDeprecated": True, "IncludeDisabled": True}
    together(
        partial(list_kind, "DescribeImages", "Images", {}, **own),
        partial(list_kind, "DescribeSnapshots", "Snapshots", {}, OwnerIds=["self"]),
        *(
            partial(list_kind, listing.operation, listing.key, listing.wanted)
            for listing in _TEMPORARY
        ),
    )
    return [
        *_images_and_snapshots(cloud.region, listed["Images"], listed["Snapshots"], cloud.now()),
        *(
            _candidate(
                cloud.region,
                listing.kind,
                each[listing.id],
                each,
                each.get(listing.made_at),
                gb=each.get("Size", 0),
                placement=_placement(each),
            )
            for listing in _TEMPORARY
            for each in listed[listing.key]
            if EXPIRES in _tags(each)
        ),
    ]


def _images_and_snapshots(
    region: str, images: Sequence[Description], snapshots: Sequence[Description], now: datetime
) -> Iterator[Candidate]:
    """Yield images that failed or expire, checkpoints, and snapshots that no image uses.

    The snapshots of a pending image can be recognized only by their tags.
    """
    by_snapshot = {
        mapping["Ebs"]["SnapshotId"]: image
        for image in images
        for mapping in image.get("BlockDeviceMappings", [])
        if "SnapshotId" in mapping.get("Ebs", {})
    }
    by_contents = {_contents(image): image for image in images if DIGEST in _tags(image)}
    of_image: dict[str, list[Description]] = defaultdict(list)
    for snapshot in snapshots:
        tags, snapshot_id = _tags(snapshot), snapshot["SnapshotId"]
        image = by_snapshot.get(snapshot_id)
        make = partial(
            _candidate, region, id=snapshot_id, described=snapshot, gb=snapshot["VolumeSize"]
        )
        made_at, failed = snapshot["StartTime"], snapshot["State"] == "error"
        if CHECKPOINT in tags:
            if is_copy(snapshot):
                continue
            # Other runs can use it, even if its own run is dead.
            found = make("checkpoint", made_at=made_at, broken=_failure(snapshot) if failed else "")
            yield replace(found, of_run=False, held_by=image["ImageId"] if image else "")
        elif image := image or by_contents.get(_contents(snapshot)):
            of_image[image["ImageId"]].append(snapshot)
        elif DIGEST in tags and now - made_at > _UNKNOWN:
            found = make("snapshot", made_at=made_at, why="no image uses it")
            yield replace(found, expires_at=made_at + _WITHOUT_IMAGE)
    for image in images:
        made = partial(_candidate, region, "image", image["ImageId"], image)
        made_at, failed = parse_time(image.get("CreationDate", "")), image["State"] in _FAILED
        if EXPIRES in _tags(image):
            if image.get("Name", "").startswith(temporary_name(_tags(image)[RUN])):
                yield made(made_at)
        elif failed and DIGEST in _tags(image):
            held = of_image[image["ImageId"]]
            ids = tuple(snapshot["SnapshotId"] for snapshot in held)
            gb = sum(snapshot["VolumeSize"] for snapshot in held)
            yield made(made_at, broken=_failure(image), gb=gb, snapshot_ids=ids)


def _candidate(
    region: str,
    kind: Kind,
    id: str,
    described: Description,
    made_at: datetime | None = None,
    *,
    broken: str = "",
    **more: Any,
) -> Candidate:
    tags = _tags(described)
    run = tags[RUN]
    orphan = Orphan(region, kind, id, run, tags.get(RECIPE, ""), made_at or start_time(run), **more)
    return Candidate(orphan, parse_time(tags.get(EXPIRES, "")), broken=broken)


def _has_run(tags: Tags, recipe: str | None) -> bool:
    return RUN in tags and recipe in (None, tags.get(RECIPE))


def _tags(described: Description) -> Tags:
    return read(described.get("Tags"))


def _contents(described: Description) -> tuple[str | None, str | None]:
    """Return the run and the digest, which an image and its snapshots have in common."""
    tags = _tags(described)
    return tags.get(RUN), tags.get(DIGEST)


def _failure(described: Description) -> str:
    """Return why an image or a snapshot failed; EC2 describes the two differently."""
    reason = described.get("StateReason", {}).get("Message") or described.get("StateMessage")
    return f"it failed: {reason}" if reason else "it failed"


def _placement(described: Description) -> Placement | None:
    """Return the placement of a machine that is charged for by the hour; None for all others."""
    if "InstanceType" not in described or described["State"]["Name"] not in {"pending", "running"}:
        return None
    return Placement(
        described["InstanceType"],
        described["Placement"]["AvailabilityZone"],
        described.get("SubnetId", ""),
        described.get("VpcId", ""),
        "spot" if described.get("InstanceLifecycle") == "spot" else "on-demand",
    )
