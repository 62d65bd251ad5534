"""Creating an image (AMI) of a machine, and waiting until an image is complete."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

from bake import threads
from bake.aws.client.commands import removal_command, run_resources
from bake.aws.client.errors import hint_for, was_refused
from bake.aws.client.retry import retry
from bake.aws.client.session import Cloud, filters_for
from bake.aws.client.undo import undo
from bake.aws.client.wait import HOUR, MINUTE, poll, wait_until
from bake.aws.image import (
    NOT_FOUND,
    Image,
    find_image,
    find_image_by_name,
    remove_image,
    shared_with,
)
from bake.aws.machine import Machine, stop
from bake.aws.snapshot import BETWEEN_S, NOT_YET, snapshots_of_image
from bake.aws.tags import RUN, Tags, specifications
from bake.errors import CloudError, Finding, ImageError, RequestError

OnProgress = Callable[[str], None]

# A pending image usually becomes available within minutes, in the worst case within hours.
_AVAILABLE_S = 6 * HOUR
# How long a new image, or its snapshots, may be unknown to some of EC2's servers.
_KNOWN_S = MINUTE
_LOST_S = 10 * MINUTE
_PENDING = {"pending", "transient"}
# An hour: EBS copies a snapshot of a large disk for that long.
_ATTEMPTS = 240
# CreateImage, "Name". EC2 also takes a name of blanks, by which no person can name the image.
_IMAGE_NAME = re.compile(r"(?=.*[A-Za-z0-9])[A-Za-z0-9()\[\] ./\-'@_]{3,128}")


def image_name(recipe: str, started_at: datetime, digest: str) -> str:
    """Return a name that sorts by time and is different for two bakes of the same plan."""
    return f"bake/{recipe}/{started_at.astimezone(UTC):%Y%m%d-%H%M%S}-{digest[:8]}"


def check_name(image_name: str) -> None:
    """Raise RequestError for a name that no image can have."""
    if not _IMAGE_NAME.fullmatch(image_name):
        raise RequestError(
            f"Invalid image name: {image_name!r}",
            hint="A name has 3 to 128 characters: letters, digits, spaces and ()[]./-'@_",
        )


def find_name_in_use(cloud: Cloud, image_name: str) -> list[Finding]:
    """Return a finding if an image already has this name."""
    taken = cloud.pages(
        "DescribeImages",
        "Images",
        Owners=["self"],
        IncludeDeprecated=True,
        IncludeDisabled=True,
        Filters=filters_for({"name": image_name}),
    )
    return [
        Finding(
            "name",
            f"the image {image['ImageId']} ({image['State']}) already has the name {image_name}",
            "Choose another --name, or remove that image: "
            + removal_command("image", image["ImageId"], region=cloud.region, with_snapshots=True),
        )
        for image in taken
    ]


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
    """Create an image of the machine's disk. Return it when it is available and private.

    The machine is stopped first, so that its disk is consistent. A one-time spot machine cannot be
    stopped; EC2 shuts it down for the snapshot and starts it again. Machines that are started from
    the image accept IMDSv2 only. `meanwhile` is called while EC2 creates the image. When anything
    fails, the image and its snapshots are removed. ImageError with AWS's reason if the image fails.
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
        # Needed even without an id: an interrupted call may have had its effect.
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
    image = _wait_while_pending(cloud, image_id, on_progress, remedy)
    # Another of EC2's servers may not know yet that the image is available.
    when_known = partial(retry, clock=cloud.clock, codes=NOT_FOUND)
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


def undo_image(cloud: Cloud, image_id: str, name: str, tags: Tags) -> None:
    """Remove an incomplete image and its snapshots. If `image_id` is empty, look for `name`.

    A resource that cannot be removed becomes a Leftover.
    """
    if not image_id:
        ids = run_resources("image", tags[RUN], region=cloud.region, also={"name": name})
        command = removal_command("image", ids, region=cloud.region, with_snapshots=True)
        with undo(cloud.leftovers, f"image {name}", command):
            look = partial(find_image_by_name, cloud, name, tags[RUN])
            image = poll(look, timeout_s=_KNOWN_S, clock=cloud.clock)
            image_id = image.image_id if image else ""
    if image_id:
        remove_image(cloud, cloud.leftovers, image_id, tags, unknown_for_s=_KNOWN_S)


def _create(cloud: Cloud, instance_id: str, name: str, description: str, tags: Tags) -> str:
    request = {
        "InstanceId": instance_id,
        "Name": name,
        **({"Description": description} if description else {}),
        "TagSpecifications": specifications(tags, "image", "snapshot"),
    }
    create = partial(cloud.ec2, "CreateImage", **request)
    try:
        # Checkpoints of the disk may still be pending.
        response = retry(create, cloud.clock, codes=NOT_YET, attempts=_ATTEMPTS, pause_s=BETWEEN_S)
        image_id: str = response["ImageId"]
    except CloudError as error:
        # CreateImage has no ClientToken, so boto may have repeated a successful request.
        look = partial(find_image_by_name, cloud, name, tags[RUN])
        taken = error.code == "InvalidAMIName.Duplicate"
        mine = poll(look, timeout_s=_KNOWN_S, clock=cloud.clock) if taken else None
        if mine is None:
            raise
        return mine.image_id
    return image_id


def _wait_while_pending(cloud: Cloud, image_id: str, on_progress: OnProgress, remedy: str) -> Image:
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
                hint=_remedy(remedy, image.reason),
                code=image.reason_code,
                reason=image.reason,
            )
        on_progress(_progress(cloud, image, remedy))
        return None

    return wait_until(
        probe,
        what=f"The image {image_id} is still pending",
        timeout_s=_AVAILABLE_S,
        clock=cloud.clock,
        failure=ImageError,
    )


def _progress(cloud: Cloud, image: Image, remedy: str) -> str:
    """Return the progress of the image's snapshots; ImageError if one of them has failed."""
    done = []
    for snapshot in snapshots_of_image(cloud, image.tags):
        if snapshot["State"] == "error":
            raise ImageError(
                f"The snapshot {snapshot['SnapshotId']} of the image {image.image_id} failed",
                hint=_remedy(remedy, snapshot.get("StateMessage", "")),
                reason=snapshot.get("StateMessage", ""),
            )
        done.append(snapshot.get("Progress") or "0%")
    return f"pending, snapshot {', '.join(done)}" if done else "pending"


def _remedy(remedy: str, reason: str) -> str:
    """Return the hint for an image that failed: a KMS key is the only cause that AWS names."""
    return f"{hint_for('', reason) or remedy}. The incomplete image is removed"
