"""Copies of an image in other regions: at most one in each, however often it is requested."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from bake.aws.client.session import Cloud
from bake.aws.client.undo import clean_up
from bake.aws.image import Image, delete_failed_image, find_image_by_name, images
from bake.aws.image_creation import (
    OnProgress,
    find_name_in_use,
    require_imdsv2,
    undo_image,
    wait_until_available,
)
from bake.aws.lease import lease
from bake.aws.tags import NAME, RUN, Run, Tags, new_run, specifications
from bake.errors import CloudError, ImageError, RequestError

_REMEDY = "Copy it again"
# Longer than the wait for an image.
_LIFETIME = timedelta(hours=8)


@dataclass(frozen=True)
class Copy:
    """A copy; `made` is False if it existed already or another run has made it."""

    image: Image
    made: bool


def copy_image(
    cloud: Cloud,
    image: Image,
    source_region: str,
    *,
    name: str | None = None,
    on_progress: OnProgress = lambda text: None,
    on_wait: Callable[[str], None] = lambda text: None,
) -> Copy:
    """Return an available copy of the image in the region of `cloud`, which is not its own region.

    An existing copy with the same digest and proof is returned, even if it has another name. If it
    is pending, this waits for it. `name` is the name of a new copy, by default the image's name.
    When this raises, nothing of the new copy is left. RequestError if the name is in use.
    """
    if existing := _find_copy(cloud, image, on_progress):
        return Copy(existing, made=False)
    name = name or image.name
    if findings := find_name_in_use(cloud, name):
        raise RequestError(
            f"The image cannot have the name {name} in {cloud.region}", findings=findings
        )
    run = new_run(image.recipe, lifetime=_LIFETIME, now=cloud.now())
    with clean_up(cloud.leftovers) as stack:
        find = partial(_find_copy, cloud, image, on_progress)
        result = stack.enter_context(lease(cloud, run, image.digest, found=find, on_wait=on_wait))
        if isinstance(result, Image):
            return Copy(result, made=False)
        return Copy(_copy(cloud, image, source_region, run, name, on_progress), made=True)


def _find_copy(cloud: Cloud, image: Image, on_progress: OnProgress) -> Image | None:
    """Return this region's copy when it is available. A copy that fails is deleted."""
    copies = [
        other
        for other in images(cloud, image.recipe)
        if other.digest == image.digest and other.verified in {image.verified, "gpu"}
    ]
    for copy in copies:
        if copy.state == "available":
            if not copy.imdsv2:  # the run that made it was killed before
                require_imdsv2(cloud, copy.image_id)
            return copy
    for copy in (one for one in copies if one.state == "pending"):
        try:
            return wait_until_available(cloud, copy.image_id, on_progress=on_progress)
        except ImageError:
            with suppress(CloudError):
                delete_failed_image(cloud, copy)
    return None


def _copy(
    cloud: Cloud, image: Image, source_region: str, run: Run, name: str, on_progress: OnProgress
) -> Image:
    # All tags are in the request, instead of CopyImageTags: AWS does not document what happens to a
    # key that is in both, and only the request can tag the snapshot.
    tags = {key: value for key, value in image.tags.items() if not key.startswith("aws:")}
    tags |= {NAME: name, RUN: run.id}
    image_id = ""
    try:
        image_id = _request_copy(cloud, image, source_region, name, tags)
        return wait_until_available(cloud, image_id, on_progress=on_progress, remedy=_REMEDY)
    except BaseException:
        # Needed even without an id: an interrupted call may have had its effect.
        undo_image(cloud, image_id, name, tags)
        raise


def _request_copy(cloud: Cloud, image: Image, source_region: str, name: str, tags: Tags) -> str:
    request = {
        "ClientToken": f"{tags[RUN]}/{cloud.region}",
        "SourceImageId": image.image_id,
        "SourceRegion": source_region,
        "Name": name,
        "TagSpecifications": specifications(tags, "image", "snapshot"),
        # A KMS key belongs to one region; with this, the copy gets the default key of its region.
        **({"Encrypted": True} if image.encrypted else {}),
    }
    try:
        image_id: str = cloud.ec2("CopyImage", **request)["ImageId"]
    except CloudError as error:
        # boto has repeated a request whose response was lost, and EC2 checked the name first.
        taken = error.code == "InvalidAMIName.Duplicate"
        mine = find_image_by_name(cloud, name, tags[RUN]) if taken else None
        if mine is None:
            raise
        return mine.image_id
    return image_id
