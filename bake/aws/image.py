"""Images (AMIs): creating one from a machine, listing them, deleting them with their snapshots."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from bake import threads
from bake.aws.client.commands import removal_command, run_resources
from bake.aws.client.errors import was_refused
from bake.aws.client.response import Response
from bake.aws.client.retry import retry
from bake.aws.client.session import Cloud, pages
from bake.aws.client.undo import Leftover, undo
from bake.aws.client.wait import HOUR, MINUTE, poll, wait_until
from bake.aws.machine import Machine, stop
from bake.aws.snapshot import delete_snapshot, retry_after_pause, snapshots_of_image
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
    specifications,
)
from bake.errors import CloudError, Finding, ImageError

OnProgress = Callable[[str], None]

# It usually takes minutes, hours in the worst case.
_AVAILABLE_S = 6 * HOUR
# How long a new image, or its snapshots, may be unknown to some of EC2's servers.
_KNOWN_S = MINUTE
_LOST_S = 10 * MINUTE
_PENDING = {"pending", "transient"}
_NOT_FOUND = {"InvalidAMIID.NotFound", "InvalidAMIID.Unavailable"}


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


def image_name(recipe: str, started_at: datetime, digest: str) -> str:
    """Return a name that sorts by time and is different for two bakes of the same plan."""
    return f"bake/{recipe}/{started_at.astimezone(UTC):%Y%m%d-%H%M%S}-{digest[:8]}"


def images(cloud: Cloud, recipe: str | None = None, *, once: bool = False) -> list[Image]:
    """Return this account's images with the tag `bake:run`, in all states, the newest first.

    Temporary images, which a run registers from a checkpoint, are left out. With `once`, the call
    is not retried when AWS is busy or does not answer.
    """
    filters = {"tag-key": RUN} | ({f"tag:{RECIPE}": recipe} if recipe else {})
    call = cloud.ec2_once if once else cloud.ec2
    found = [image for image in map(_image, _own(call, filters)) if EXPIRES not in image.tags]
    return sorted(found, key=lambda image: image.created_at, reverse=True)


def account_images(cloud: Cloud) -> list[Image]:
    """Return all images of this account, also those not made by bake and disabled ones."""
    return [_image(image) for image in _own(cloud.ec2, {}, IncludeDisabled=True)]


def find_image(cloud: Cloud, image_id: str) -> Image | None:
    """Return an image that this account can use; None if EC2 does not know it (yet)."""
    try:
        response = cloud.ec2("DescribeImages", ImageIds=[image_id], IncludeDeprecated=True)
    except CloudError as error:
        if error.code in {*_NOT_FOUND, "InvalidAMIID.Malformed"}:
            return None
        raise
    return next(map(_image, response["Images"]), None)


def find_image_by_name(cloud: Cloud, name: str, run_id: str) -> Image | None:
    """Return the image with this name that the run has made; None if EC2 does not list it (yet)."""
    return next(map(_image, _own(cloud.ec2, {"name": name, f"tag:{RUN}": run_id})), None)


def create_image(
    cloud: Cloud,
    machine: Machine,
    *,
    name: str,
    description: str,
    tags: Tags,
    on_progress: OnProgress = lambda text: None,
    meanwhile: Callable[[], None] = lambda: None,
) -> Image:
    """Create an image of the machine's disk; return it when it is available, private, with IMDSv2.

    The machine is stopped first, so that its disk is consistent. A one-time spot machine cannot be
    stopped; EC2 shuts it down for the snapshot and starts it again. `meanwhile` is called while
    EC2 creates the image. When anything fails, the image and its snapshots are removed. ImageError
    with AWS's reason if the image fails.
    """
    if machine.market == "on-demand":
        stop(cloud, machine.instance_id, on_state=on_progress)
    threads.check()  # after an interrupt, CreateImage is never requested
    image_id = ""
    try:
        image_id = _create(cloud, machine.instance_id, name, description, tags)
        meanwhile()
        image = wait_until_available(cloud, image_id, on_progress=on_progress)
        threads.check()  # an image that is available at once was not waited for
        return image
    except BaseException as error:
        # Even without an id: an interrupted call may have had its effect.
        if image_id or not was_refused(error):
            undo_image(cloud, image_id, name, tags)
        raise


def wait_until_available(
    cloud: Cloud,
    image_id: str,
    *,
    on_progress: OnProgress = lambda text: None,
    remedy: str = "Bake again",
) -> Image:
    """Wait for a pending image, then require IMDSv2 and check that the image is not shared.

    CreateImage has no parameter for IMDSv2, so ModifyImageAttribute sets it here. `remedy` is the
    hint for an image that fails.
    """

    seen_at = cloud.clock.now()

    def probe() -> Image | None:
        nonlocal seen_at
        image = find_image(cloud, image_id)
        if image is None:
            if cloud.clock.now() - seen_at > _LOST_S:
                raise ImageError(
                    f"The image {image_id} was deregistered",
                    hint=f"It was deregistered outside of this command. {remedy}",
                )
            return None
        seen_at = cloud.clock.now()
        if image.state == "available":
            return image
        if image.state not in _PENDING:
            raise ImageError(
                f"The image {image_id} went into the state {image.state}",
                hint=f"{remedy}. The incomplete image is removed",
                code=image.reason_code,
                reason=image.reason,
            )
        on_progress(_progress(cloud, image, remedy))
        return None

    image = wait_until(
        probe,
        what=f"The image {image_id} is still pending",
        timeout_s=_AVAILABLE_S,
        clock=cloud.clock,
        failure=ImageError,
    )
    # Another of EC2's servers may not know yet that the image is available.
    when_known = partial(retry, clock=cloud.clock, codes=_NOT_FOUND)
    when_known(partial(require_imdsv2, cloud, image_id))
    if accounts := when_known(partial(shared_with, cloud, image_id)):
        raise ImageError(
            f"The image {image_id} is shared, but has to be private: {accounts}",
            hint="An automation in this account shares new images. Find it and turn it off",
        )
    return image


def require_imdsv2(cloud: Cloud, image_id: str) -> None:
    """Make machines that are started from the image accept IMDSv2 only."""
    cloud.ec2("ModifyImageAttribute", ImageId=image_id, ImdsSupport={"Value": "v2.0"})


def shared_with(cloud: Cloud, image_id: str) -> list[dict[str, str]]:
    """Return the accounts, organizations and groups that may start machines from the image."""
    request = {"ImageId": image_id, "Attribute": "launchPermission"}
    return list(cloud.ec2("DescribeImageAttribute", **request).get("LaunchPermissions", []))


def undo_image(cloud: Cloud, image_id: str, name: str, tags: Tags) -> None:
    """Remove an incomplete image with its snapshots; without an id, the one of this name and run.

    What cannot be removed becomes a Leftover.
    """
    if not image_id:
        ids = run_resources("image", tags[RUN], region=cloud.region, also={"name": name})
        with undo(cloud.leftovers, f"image {name}", _removal_command(cloud, ids)):
            look = partial(find_image_by_name, cloud, name, tags[RUN])
            image = poll(look, timeout_s=_KNOWN_S, clock=cloud.clock)
            image_id = image.image_id if image else ""
    if image_id:
        _remove(cloud, cloud.leftovers, image_id, tags, unknown_for_s=_KNOWN_S)


def deregister_image(cloud: Cloud, image_id: str) -> bool | None:
    """Deregister an image, but keep its snapshots; None if EC2 does not know the image."""
    try:
        cloud.ec2("DeregisterImage", ImageId=image_id)
    except CloudError as error:
        if error.code in _NOT_FOUND:
            return None
        raise
    return True


def delete_image(cloud: Cloud, image: Image) -> None:
    """Deregister an image and delete its snapshots. ImageError lists what could not be removed."""
    leftovers: list[Leftover] = []
    known = image.snapshot_ids if image.state == "available" else ()
    _remove(cloud, leftovers, image.image_id, image.tags, known)
    if leftovers:
        raise ImageError(
            f"The image {image.image_id} could not be removed completely",
            hint="Repeat the command, or run the commands below",
            details=[str(leftover) for leftover in leftovers],
        )


def _create(cloud: Cloud, instance_id: str, name: str, description: str, tags: Tags) -> str:
    request = {
        "InstanceId": instance_id,
        "Name": name,
        "Description": description,
        "TagSpecifications": specifications(tags, "image", "snapshot"),
    }
    try:
        image_id: str = retry_after_pause(cloud, lambda: cloud.ec2("CreateImage", **request))[
            "ImageId"
        ]
    except CloudError as error:
        # CreateImage has no ClientToken, so boto may have repeated a successful request.
        look = partial(find_image_by_name, cloud, name, tags[RUN])
        taken = error.code == "InvalidAMIName.Duplicate"
        mine = poll(look, timeout_s=_KNOWN_S, clock=cloud.clock) if taken else None
        if mine is None:
            raise
        return mine.image_id
    return image_id


def _progress(cloud: Cloud, image: Image, remedy: str) -> str:
    """Return the progress of the image's snapshots; ImageError if one of them has failed."""
    done = []
    for snapshot in snapshots_of_image(cloud, image.tags):
        if snapshot["State"] == "error":
            raise ImageError(
                f"The snapshot {snapshot['SnapshotId']} of the image {image.image_id} failed",
                hint=f"{remedy}. The incomplete image is removed",
                reason=snapshot.get("StateMessage", ""),
            )
        done.append(snapshot.get("Progress") or "0%")
    return f"pending, snapshot {', '.join(done)}" if done else "pending"


def _remove(
    cloud: Cloud,
    leftovers: list[Leftover],
    image_id: str,
    tags: Mapping[str, str],
    known: Collection[str] = (),
    *,
    unknown_for_s: float = 0,
) -> None:
    """Deregister an image and delete its snapshots: `known`, or if empty those with its tags.

    `unknown_for_s`: for so long EC2 may not list new ones yet.
    """

    def snapshot_ids() -> set[str] | None:
        if known:
            return set(known)
        tagged = {snapshot["SnapshotId"] for snapshot in snapshots_of_image(cloud, tags)}
        return tagged | listed or None

    wait = partial(poll, timeout_s=unknown_for_s, clock=cloud.clock)
    with undo(leftovers, f"image {image_id} and its snapshots", _removal_command(cloud, image_id)):
        image = find_image(cloud, image_id)
        listed = set(image.snapshot_ids) if image else set()
        wait(partial(deregister_image, cloud, image_id))
        for snapshot_id in wait(snapshot_ids) or ():
            command = removal_command("snapshot", snapshot_id, region=cloud.region)
            with undo(leftovers, f"snapshot {snapshot_id}", command):
                delete_snapshot(cloud, snapshot_id)


def _removal_command(cloud: Cloud, image_id: str) -> str:
    return removal_command("image", image_id, region=cloud.region, with_snapshots=True)


def _own(
    call: Callable[..., Response], filters: Mapping[str, str], **more: Any
) -> Iterator[Response]:
    return pages(
        call,
        "DescribeImages",
        "Images",
        Owners=["self"],
        IncludeDeprecated=True,
        Filters=[{"Name": key, "Values": [value]} for key, value in filters.items()],
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


# CreateImage, "Name".
_IMAGE_NAME = re.compile(r"[A-Za-z0-9()\[\] ./\-'@_]{3,128}")


def check_name(cloud: Cloud, image_name: str) -> list[Finding]:
    """Return what prevents a new image from having this name: it is invalid, or it is in use."""
    if not _IMAGE_NAME.fullmatch(image_name):
        message = f"invalid image name {image_name!r}"
        hint = "A name has 3 to 128 characters: letters, digits, spaces and ()[]./-'@_"
        return [Finding("name", message, hint)]
    taken = cloud.pages(
        "DescribeImages",
        "Images",
        Owners=["self"],
        IncludeDeprecated=True,
        IncludeDisabled=True,
        Filters=[{"Name": "name", "Values": [image_name]}],
    )
    return [
        Finding(
            "name",
            f"the image {image['ImageId']} ({image['State']}) already has the name {image_name}",
            "Choose another --name, or remove that image: "
            + _removal_command(cloud, image["ImageId"]),
        )
        for image in taken
    ]
