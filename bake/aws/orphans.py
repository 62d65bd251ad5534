"""What runs can leave behind, as it is found by their tags.

Never what carries no `bake:run`, a finished image with its snapshots, or what is meant to last (it
carries no `bake:expires`): nor a backup of such, to which its tags may have been copied.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Literal, get_args

from bake.aws.client.commands import aws_command
from bake.aws.client.session import Cloud
from bake.aws.market import Placement
from bake.aws.tags import CHECKPOINT, DIGEST, EXPIRES, RECIPE, RUN, Tags, began, moment, read
from bake.threads import together

Thing = Mapping[str, Any]  # as AWS describes it

# In the order in which they are removed: a request could still become a machine, a machine holds
# its group and its volumes, an image its snapshots. A lease says why all the rest may go.
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

# The service, the operation and the parameter of the AWS CLI that remove a resource of this kind.
_COMMANDS: dict[Kind, tuple[str, str, str]] = {
    "spot request": ("ec2", "cancel-spot-instance-requests", "spot_instance_request_ids"),
    "image": ("ec2", "deregister-image", "image_id"),
    "machine": ("ec2", "terminate-instances", "instance_ids"),
    "volume": ("ec2", "delete-volume", "volume_id"),
    "security group": ("ec2", "delete-security-group", "group_id"),
    "key pair": ("ec2", "delete-key-pair", "key_name"),
    "checkpoint": ("ec2", "delete-snapshot", "snapshot_id"),
    "snapshot": ("ec2", "delete-snapshot", "snapshot_id"),
    "lease": ("ssm", "delete-parameter", "name"),
}
_FAILED = {"failed", "error", "invalid"}
# A snapshot of an image carries no time. A day is longer than any run works on an image.
_WITHOUT_IMAGE = timedelta(days=1)
# How long a new image may be unknown to some of EC2's servers, where its snapshots are known.
_UNKNOWN = timedelta(minutes=1)


@dataclass(frozen=True)
class Orphans:
    """One thing, and `why` it may be removed. A key pair's `id` is its name.

    `made_at` is AWS's word where it has one, else the beginning of the run. `gb` is the size of a
    disk, which a snapshot of it costs at most. `placement` is a running machine's. `snapshot_ids`
    are those of an image that failed.
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
        """What removes it by hand."""
        service, operation, parameter = _COMMANDS[self.kind]
        return aws_command(
            service,
            operation,
            region=self.region,
            delete_associated_snapshots=bool(self.snapshot_ids),
            **{parameter: self.id},
        )


@dataclass(frozen=True)
class _Look:
    """How one kind of what is temporary is listed: where its id and the time of its making are."""

    kind: Kind
    operation: str
    key: str
    id: str
    made_at: str = ""
    wanted: Mapping[str, list[str]] = field(default_factory=dict)


_TEMPORARY = (
    _Look(
        "machine",
        "DescribeInstances",
        "Reservations",
        "InstanceId",
        "LaunchTime",
        {"instance-state-name": ["pending", "running", "stopping", "stopped"]},
    ),
    # One that is attached goes with its machine.
    _Look(
        "volume",
        "DescribeVolumes",
        "Volumes",
        "VolumeId",
        "CreateTime",
        {"status": ["available", "error"]},
    ),
    _Look("security group", "DescribeSecurityGroups", "SecurityGroups", "GroupId"),
    _Look("key pair", "DescribeKeyPairs", "KeyPairs", "KeyName", "CreateTime"),
    # One that has got its machine ends with it.
    _Look(
        "spot request",
        "DescribeSpotInstanceRequests",
        "SpotInstanceRequests",
        "SpotInstanceRequestId",
        "CreateTime",
        {"state": ["open"]},
    ),
)


@dataclass(frozen=True)
class Orphan:
    """`broken`: why it is of no use to anybody. `of_run`: it may go as soon as its run is dead.

    `held_by` is an image that has to go before.
    """

    remains: Orphans
    expires_at: datetime | None
    broken: str = ""
    of_run: bool = True
    held_by: str = ""

    def has_expired(self, now: datetime) -> bool:
        return self.expires_at is not None and self.expires_at <= now

    def may_go(self, now: datetime) -> bool:
        """Whether there is a reason, if its run should turn out to be dead."""
        return self.of_run or bool(self.broken) or self.has_expired(now)


def look(cloud: Cloud, recipe: str | None = None) -> list[Orphan]:
    """Everything that could be left; each kind is asked for once, all at the same time."""
    ours = {"tag-key": [RUN]} | ({f"tag:{RECIPE}": [recipe]} if recipe else {})
    there: dict[str, list[Thing]] = {}

    def ask(operation: str, key: str, more: Mapping[str, list[str]], **params: Any) -> None:
        filters = [{"Name": name, "Values": values} for name, values in {**ours, **more}.items()]
        listed = cloud.pages(operation, key, Filters=filters, **params)
        if key == "Reservations":
            listed = (instance for each in listed for instance in each["Instances"])
        # Looked at again here: what answers might not know the filter.
        there[key] = [thing for thing in listed if _is_ours(_tags(thing), recipe)]

    own = {"Owners": ["self"], "IncludeDeprecated": True, "IncludeDisabled": True}
    together(
        partial(ask, "DescribeImages", "Images", {}, **own),
        partial(ask, "DescribeSnapshots", "Snapshots", {}, OwnerIds=["self"]),
        *(partial(ask, look.operation, look.key, look.wanted) for look in _TEMPORARY),
    )
    return [
        *_images_and_snapshots(cloud.region, there["Images"], there["Snapshots"], cloud.now()),
        *(
            _found(
                cloud.region,
                look.kind,
                each[look.id],
                each,
                each.get(look.made_at),
                gb=each.get("Size", 0),
                placement=_placement(each),
            )
            for look in _TEMPORARY
            for each in there[look.key]
            if EXPIRES in _tags(each)
        ),
    ]


def _images_and_snapshots(
    region: str, images: Sequence[Thing], snapshots: Sequence[Thing], now: datetime
) -> Iterator[Orphan]:
    """Images that failed, or that a run has registered of a checkpoint; checkpoints; snapshots that
    no image has. Of a pending image's snapshots only their tags say so."""
    by_snapshot = {
        mapping["Ebs"]["SnapshotId"]: image
        for image in images
        for mapping in image.get("BlockDeviceMappings", [])
        if "SnapshotId" in mapping.get("Ebs", {})
    }
    by_contents = {_contents(image): image for image in images if DIGEST in _tags(image)}
    of_image: dict[str, list[Thing]] = defaultdict(list)
    for snapshot in snapshots:
        tags, snapshot_id = _tags(snapshot), snapshot["SnapshotId"]
        image = by_snapshot.get(snapshot_id)
        make = partial(_found, region, id=snapshot_id, thing=snapshot, gb=snapshot["VolumeSize"])
        made_at, failed = snapshot["StartTime"], snapshot["State"] == "error"
        if CHECKPOINT in tags or EXPIRES in tags:
            # It is of use to other runs than its own, dead or not.
            found = make("checkpoint", made_at=made_at, broken=_failure(snapshot) if failed else "")
            yield replace(found, of_run=False, held_by=image["ImageId"] if image else "")
        elif image := image or by_contents.get(_contents(snapshot)):
            of_image[image["ImageId"]].append(snapshot)
        elif DIGEST in tags and now - made_at > _UNKNOWN:
            found = make("snapshot", made_at=made_at, why="no image has it")
            yield replace(found, expires_at=made_at + _WITHOUT_IMAGE)
    for image in images:
        made = partial(_found, region, "image", image["ImageId"], image)
        made_at, failed = moment(image.get("CreationDate", "")), image["State"] in _FAILED
        if EXPIRES in _tags(image):
            yield made(made_at)
        elif failed and DIGEST in _tags(image):
            held = of_image[image["ImageId"]]
            ids = tuple(snapshot["SnapshotId"] for snapshot in held)
            gb = sum(snapshot["VolumeSize"] for snapshot in held)
            yield made(made_at, broken=_failure(image), gb=gb, snapshot_ids=ids)


def _found(
    region: str,
    kind: Kind,
    id: str,
    thing: Thing,
    made_at: datetime | None = None,
    *,
    broken: str = "",
    **more: Any,
) -> Orphan:
    tags = _tags(thing)
    run = tags[RUN]
    remains = Orphans(region, kind, id, run, tags.get(RECIPE, ""), made_at or began(run), **more)
    return Orphan(remains, moment(tags.get(EXPIRES, "")), broken=broken)


def _is_ours(tags: Tags, recipe: str | None) -> bool:
    return RUN in tags and recipe in (None, tags.get(RECIPE))


def _tags(thing: Thing) -> Tags:
    return read(thing.get("Tags"))


def _contents(thing: Thing) -> tuple[str | None, str | None]:
    """What an image and its snapshots have in common."""
    tags = _tags(thing)
    return tags.get(RUN), tags.get(DIGEST)


def _failure(thing: Thing) -> str:
    """An image says why in one place, a snapshot in another."""
    said = thing.get("StateReason", {}).get("Message") or thing.get("StateMessage")
    return f"it failed: {said}" if said else "it failed"


def _placement(thing: Thing) -> Placement | None:
    """Of a machine that costs something as long as it runs; its disk is not counted."""
    if "InstanceType" not in thing or thing["State"]["Name"] not in {"pending", "running"}:
        return None
    return Placement(
        thing["InstanceType"],
        thing["Placement"]["AvailabilityZone"],
        thing.get("SubnetId", ""),
        thing.get("VpcId", ""),
        "spot" if thing.get("InstanceLifecycle") == "spot" else "on-demand",
    )
