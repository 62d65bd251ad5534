"""Images (AMIs): listing them, and deleting them with their snapshots."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from bake.aws.client.commands import removal_command
from bake.aws.client.response import Response
from bake.aws.client.session import Cloud, filters_for, pages
from bake.aws.client.undo import Leftover, undo
from bake.aws.client.wait import poll
from bake.aws.snapshot import delete_snapshot, snapshots_of_image
from bake.aws.tags import (
    DIGEST,
    EXPIRES,
    PAYLOAD,
    RECIPE,
    RUN,
    VERIFIED,
    Tags,
    parse_time,
    read,
)
from bake.errors import CloudError, ImageError

NOT_FOUND = {"InvalidAMIID.NotFound", "InvalidAMIID.Unavailable"}


@dataclass(frozen=True)
class Image:
    """An image as EC2 describes it.

    `size_gb` is the size of the root volume. `snapshot_ids` may be empty while the image is
    pending. `reason` and `reason_code` are AWS's explanation of a failed state. A `protected` image
    cannot be deregistered. `launched_at` is the last time a machine was started from it, which EC2
    reports a day later.
    """

    image_id: str
    name: str
    state: str
    architecture: str
    root_device_name: str
    boot_mode: str | None
    ena: bool | None
    size_gb: int
    snapshot_ids: tuple[str, ...]
    created_at: datetime
    reason_code: str
    reason: str
    tags: Tags
    encrypted: bool = False
    public: bool = False
    imdsv2: bool = False
    protected: bool = False
    launched_at: datetime | None = None

    @property
    def finished(self) -> bool:
        """True if the image is complete. A killed run may leave an image without IMDSv2."""
        return self.state == "available" and self.imdsv2

    @property
    def run_id(self) -> str:
        return self.tags.get(RUN, "")

    @property
    def recipe(self) -> str:
        return self.tags.get(RECIPE, "")

    @property
    def digest(self) -> str:
        return self.tags.get(DIGEST, "")

    @property
    def verified(self) -> str:
        """The kind of machine that the image was proved on: "gpu" or "cpu"; "no" if on none."""
        return self.tags.get(VERIFIED, "no")

    @property
    def payload(self) -> str:
        return self.tags.get(PAYLOAD, "")


def images(cloud: Cloud, recipe: str | None = None, *, once: bool = False) -> list[Image]:
    """Return this account's images with a bake's digest, in all states, the newest first.

    Other images with tags of bake are left out: temporary ones, which a run registers from a
    checkpoint, and images that a person, AWS Backup or a lifecycle policy made of a launched
    machine and to which the machine's tags were copied. If `once` is True, the call is not retried
    when AWS is busy or does not answer.
    """
    filters = {"tag-key": DIGEST} | ({f"tag:{RECIPE}": recipe} if recipe else {})
    call = cloud.ec2_once if once else cloud.ec2
    found = [
        image
        for image in map(_image, _describe_own(call, filters))
        if RUN in image.tags and EXPIRES not in image.tags
    ]
    return sorted(found, key=lambda image: image.created_at, reverse=True)


def account_images(cloud: Cloud) -> list[Image]:
    """Return all images of this account, also those not made by bake and disabled ones."""
    return [_image(image) for image in _describe_own(cloud.ec2, {}, IncludeDisabled=True)]


def find_image(cloud: Cloud, image_id: str) -> Image | None:
    """Return an image that this account can use; None if EC2 does not know it (yet)."""
    try:
        response = cloud.ec2("DescribeImages", ImageIds=[image_id], IncludeDeprecated=True)
    except CloudError as error:
        if error.code in {*NOT_FOUND, "InvalidAMIID.Malformed"}:
            return None
        raise
    return next(map(_image, response["Images"]), None)


def find_image_by_name(cloud: Cloud, name: str, run_id: str) -> Image | None:
    """Return the image with this name that the run has made; None if EC2 does not list it (yet)."""
    return next(map(_image, _describe_own(cloud.ec2, {"name": name, f"tag:{RUN}": run_id})), None)


def shared_with(cloud: Cloud, image_id: str) -> list[dict[str, str]]:
    """Return the accounts, organizations and groups that may start machines from the image."""
    request = {"ImageId": image_id, "Attribute": "launchPermission"}
    return list(cloud.ec2("DescribeImageAttribute", **request).get("LaunchPermissions", []))


def deregister_image(cloud: Cloud, image_id: str) -> bool | None:
    """Deregister an image, but keep its snapshots; None if EC2 does not know the image."""
    try:
        cloud.ec2("DeregisterImage", ImageId=image_id)
    except CloudError as error:
        if error.code in NOT_FOUND:
            return None
        raise
    return True


def delete_image(cloud: Cloud, image: Image) -> None:
    """Deregister an image and delete its snapshots. ImageError lists what could not be removed."""
    leftovers: list[Leftover] = []
    known = image.snapshot_ids if image.state == "available" else ()
    remove_image(cloud, leftovers, image.image_id, image.tags, known)
    if leftovers:
        raise ImageError(
            f"The image {image.image_id} could not be removed completely",
            hint="Repeat the command, or run the commands below",
            details=[str(leftover) for leftover in leftovers],
        )


def delete_failed_image(cloud: Cloud, image: Image) -> None:
    """Delete an image that does not become available, with its snapshots.

    An image that is available stays, even if it cannot be used, for example because it is shared:
    it may be a person's copy. Raises the errors of `delete_image`.
    """
    current = find_image(cloud, image.image_id)
    if current is None or current.state != "available":
        delete_image(cloud, image)


def remove_image(
    cloud: Cloud,
    leftovers: list[Leftover],
    image_id: str,
    tags: Mapping[str, str],
    known: Collection[str] = (),
    *,
    unknown_for_s: float = 0,
) -> None:
    """Deregister an image and delete its snapshots: `known`, or if empty all with its tags.

    `unknown_for_s` is the time in which EC2 may not yet list new snapshots.
    """

    def snapshot_ids() -> set[str] | None:
        if known:
            return set(known)
        tagged = {snapshot["SnapshotId"] for snapshot in snapshots_of_image(cloud, tags)}
        return tagged | listed or None

    wait = partial(poll, timeout_s=unknown_for_s, clock=cloud.clock)
    command = removal_command("image", image_id, region=cloud.region, with_snapshots=True)
    with undo(leftovers, f"image {image_id} and its snapshots", command):
        image = find_image(cloud, image_id)
        listed = set(image.snapshot_ids) if image else set()
        wait(partial(deregister_image, cloud, image_id))
        for snapshot_id in wait(snapshot_ids) or ():
            command = removal_command("snapshot", snapshot_id, region=cloud.region)
            with undo(leftovers, f"snapshot {snapshot_id}", command):
                delete_snapshot(cloud, snapshot_id)


def _describe_own(
    call: Callable[..., Response], filters: Mapping[str, str], **more: Any
) -> Iterator[Response]:
    return pages(
        call,
        "DescribeImages",
        "Images",
        Owners=["self"],
        IncludeDeprecated=True,
        Filters=filters_for(filters),
        **more,
    )


def _image(image: Response) -> Image:
    volumes = [
        (mapping["DeviceName"], mapping["Ebs"])
        for mapping in image.get("BlockDeviceMappings", [])
        if "Ebs" in mapping
    ]
    root = image.get("RootDeviceName", "")
    reason = image.get("StateReason", {})
    return Image(
        image_id=image["ImageId"],
        name=image.get("Name", ""),
        state=image["State"],
        architecture=image.get("Architecture", ""),
        root_device_name=root,
        boot_mode=image.get("BootMode"),
        ena=image.get("EnaSupport"),
        size_gb=dict(volumes).get(root, {}).get("VolumeSize", 0),
        snapshot_ids=tuple(ebs["SnapshotId"] for _, ebs in volumes if ebs.get("SnapshotId")),
        created_at=image.time("CreationDate"),
        reason_code=reason.get("Code", ""),
        reason=reason.get("Message", ""),
        tags=read(image.get("Tags")),
        encrypted=any(ebs.get("Encrypted") for _, ebs in volumes),
        public=bool(image.get("Public")),
        imdsv2=image.get("ImdsSupport") == "v2.0",
        protected=image.get("DeregistrationProtection", "disabled") != "disabled",
        launched_at=parse_time(image.get("LastLaunchedTime") or ""),
    )
