"""Copies of an image of ours in other regions: one in each, whoever asks for it and how often."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from bake.aws.client.session import Cloud
from bake.aws.client.undo import clean_up
from bake.aws.image import (
    Image,
    OnProgress,
    check_name,
    delete_image,
    find_image_by_name,
    images,
    require_imdsv2,
    undo_image,
    wait_until_available,
)
from bake.aws.lease import lease
from bake.aws.tags import NAME, RUN, Run, Tags, new_run, specifications
from bake.errors import CloudError, ImageError, RequestError

_AGAIN = "Copy it again"
# Longer than an image is waited for.
_LIFETIME = timedelta(hours=8)


@dataclass(frozen=True)
class Copy:
    """`made`: by this call; else it was there, or another run has made it meanwhile."""

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
    """An available copy of the image in the region of `cloud`, which is another than its own.

    One with its digest and its proof that is there already is the answer, whatever its name; one
    that is pending is waited for. `name` is the copy's, else it is the image's. When this raises,
    nothing of the copy is left. RequestError for a name that the region has already.
    """
    if there := _there(cloud, image, on_progress):
        return Copy(there, made=False)
    name = name or image.name
    if findings := check_name(cloud, name):
        raise RequestError(f"No image can be named so in {cloud.region}", findings=findings)
    run = new_run(image.recipe, lifetime=_LIFETIME, now=cloud.now())
    with clean_up(cloud.leftovers) as stack:
        found = partial(_there, cloud, image, on_progress)
        right = lease(cloud, run, image.digest, found=found, on_wait=on_wait)
        held = stack.enter_context(right)
        if isinstance(held, Image):
            return Copy(held, made=False)
        return Copy(_copy(cloud, image, source_region, run, name, on_progress), made=True)


def _there(cloud: Cloud, image: Image, on_progress: OnProgress) -> Image | None:
    """The copy that this region has, as soon as it is available; one that failed is removed."""
    copies = [
        other
        for other in images(cloud, image.recipe)
        if other.digest == image.digest and other.verified in {image.verified, "gpu"}
    ]
    for copy in copies:
        if copy.state == "available":
            if not copy.imdsv2:  # whoever made it was killed before
                require_imdsv2(cloud, copy.image_id)
            return copy
    for copy in (one for one in copies if one.state == "pending"):
        try:
            return wait_until_available(cloud, copy.image_id, on_progress=on_progress)
        except ImageError:
            with suppress(CloudError):
                delete_image(cloud, copy)
    return None


def _copy(
    cloud: Cloud, image: Image, source_region: str, run: Run, name: str, on_progress: OnProgress
) -> Image:
    # All tags are given, and none left to CopyImageTags: what AWS makes of a key that is in both
    # is not documented, and the snapshot gets tags only so.
    tags = {key: value for key, value in image.tags.items() if not key.startswith("aws:")}
    tags |= {NAME: name, RUN: run.id}
    image_id = ""
    try:
        image_id = _ask(cloud, image, source_region, name, tags)
        return wait_until_available(cloud, image_id, on_progress=on_progress, again=_AGAIN)
    except BaseException:
        # Also without an id: a call that was cut off may have taken effect.
        undo_image(cloud, image_id, name, tags)
        raise


def _ask(cloud: Cloud, image: Image, source_region: str, name: str, tags: Tags) -> str:
    request = {
        "ClientToken": f"{tags[RUN]}/{cloud.region}",
        "SourceImageId": image.image_id,
        "SourceRegion": source_region,
        "Name": name,
        "TagSpecifications": specifications(tags, "image", "snapshot"),
        # A key of KMS is one region's: said so, the copy gets the default key of its own.
        **({"Encrypted": True} if image.encrypted else {}),
    }
    try:
        image_id: str = cloud.ec2("CopyImage", **request)["ImageId"]
    except CloudError as error:
        # Asked again by boto, where the first answer was lost and the name came before the token.
        taken = error.code == "InvalidAMIName.Duplicate"
        mine = find_image_by_name(cloud, name, tags[RUN]) if taken else None
        if mine is None:
            raise
        return mine.image_id
    return image_id
