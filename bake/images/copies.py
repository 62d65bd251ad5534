"""Copying an image to other regions, all at the same time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic

from bake.aws.client.session import Cloud
from bake.aws.client.undo import note_leftovers
from bake.aws.image import Image
from bake.aws.image_copy import copy_image
from bake.console.console import Console
from bake.errors import BakeError, RequestError
from bake.threads import TaskGroup


@dataclass(frozen=True)
class Copied:
    """The result of one region; `status` is "copied", "exists" or "failed"."""

    region: str
    status: str
    seconds: float
    image: Image | None = None
    error: BakeError | None = None


def read_regions(text: str | None, source: str) -> list[str]:
    """Return the regions of a list separated by commas, each once.

    RequestError if it is empty, or contains `source`, the region of the image.
    """
    wanted = list(dict.fromkeys((text or "").replace(",", " ").split()))
    if not wanted:
        raise RequestError(
            "No target region given", hint="Give regions: --to us-west-2,eu-central-1"
        )
    if source in wanted:
        raise RequestError(
            f"The image is in {source} already: it cannot be copied there",
            hint="Leave that region out of --to",
        )
    return wanted


def check_can_be_copied(image: Image) -> None:
    """Raise RequestError for an image that bake did not make, or that is not available."""
    if not image.digest:
        raise RequestError(
            f"{image.image_id} was not made by bake: it has no tag bake:digest",
            hint="`invoke images` lists the images that were",
        )
    if image.state != "available":
        raise RequestError(
            f"The image {image.image_id} is {image.state}", hint="It can be copied once available"
        )


def copy_everywhere(
    image: Image,
    source: str,
    wanted: Sequence[str],
    connect: Callable[[str], Cloud],
    console: Console,
    *,
    name: str | None = None,
) -> list[Copied]:
    """Copy the image to each wanted region; the failure of one does not stop the others.

    `source` is the image's region. After a failure the same command can be repeated: a copy that
    exists is not made again.
    """
    check_can_be_copied(image)
    clouds: list[Cloud] = []
    consoles = {each: console.named(each) if len(wanted) > 1 else console for each in wanted}

    def work(region: str) -> Copied:
        began, mine = monotonic(), consoles[region]
        try:
            cloud = connect(region)
            clouds.append(cloud)
            with mine.step(f"Copy to {region}") as step, mine.waiting() as wait:
                made = copy_image(
                    cloud, image, source, name=name, on_progress=step.update, on_wait=wait
                )
                step.done(made.image.image_id + ("" if made.made else " already exists"))
            for leftover in cloud.leftovers:
                mine.warn(str(leftover))
        except BakeError as error:
            return Copied(region, "failed", monotonic() - began, error=error)
        status = "copied" if made.made else "exists"
        return Copied(region, status, monotonic() - began, made.image)

    try:
        with TaskGroup[str, Copied]() as group:
            for region in wanted:
                group.start(region, partial(work, region))
            done = dict(group.next() for _ in wanted)
    except BaseException as error:
        for cloud in clouds:
            note_leftovers(error, cloud.leftovers)
        raise
    return [done[region] for region in wanted]
