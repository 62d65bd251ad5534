"""Which image, and which machine, is meant."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial

from bake.aws.client.session import Cloud, enabled_regions
from bake.aws.image import Image, find_image, images
from bake.errors import CloudError, RequestError
from bake.threads import together

_IMAGE_ID = re.compile(r"ami-[0-9a-f]+")


def enough(*, cpu: bool, unverified: bool) -> tuple[str, ...]:
    """What has to have been proved on an image: on the GPU; or on the CPU, too; or nothing."""
    return ("gpu", "cpu", "no") if unverified else ("gpu", "cpu") if cpu else ("gpu",)


def choose_image(
    cloud: Cloud, asked: str | None, *, proved: Sequence[str], flags: str = ""
) -> Image:
    """The image that is meant by an id, a recipe, a name or its beginning; None: any of ours.

    Of a recipe, and of any, it is the newest finished one; a name has to mean one alone. `proved`
    is what is enough to have been proved on it, also where it is asked for by its id. `flags` are
    options that a command shown in a hint has to have, like --local.

    RequestError when there is none, or several: it lists them, and says where else it is.
    """
    ours = images(cloud)
    if asked and _IMAGE_ID.fullmatch(asked):
        wanted = [found for found in [find_image(cloud, asked)] if found]
    else:
        wanted = _meant(ours, asked)
    if not wanted:
        raise _not_here(cloud, asked, ours, flags)
    any_of_them = asked in (None, wanted[0].recipe)
    ready = [i for i in wanted if (i.finished if any_of_them else i.state == "available")]
    if not ready:
        raise _not_ready(wanted)
    enough = [image for image in ready if image.verified in proved]
    if not enough:
        raise RequestError(
            f"No image {asked or 'of ours'} is verified as it has to be for this "
            f"(bake:verified={' or '.join(proved)})",
            details=[f"{_line(image)}: {image.verified}" for image in ready],
            hint="Bake it on a machine with a GPU, where the proof can be made; or, if it will do "
            "as it is, add --unverified",
        )
    if len(enough) > 1 and not any_of_them:
        raise RequestError(
            f"Which image? {len(enough)} have a name that begins with {asked}",
            details=[_line(image) for image in enough],
            hint="Give an id, a whole name, or a recipe, of which the newest is taken",
        )
    return enough[0]


def _meant(known: Sequence[Image], asked: str | None) -> list[Image]:
    """Whatever is called so: a whole name or recipe counts more than the beginning of a name."""
    if asked is None:
        return list(known)
    ways: tuple[Callable[[Image], bool], ...] = (
        lambda image: asked in (image.image_id, image.recipe),
        lambda image: asked == image.name,
        lambda image: image.name.removeprefix("bake/").startswith(asked.removeprefix("bake/")),
    )
    found = ([image for image in known if way(image)] for way in ways)
    return next((some for some in found if some), [])


def _not_here(cloud: Cloud, asked: str | None, ours: Sequence[Image], flags: str) -> RequestError:
    what = f"image {asked or 'of ours'}"
    if others := _elsewhere(cloud, asked):
        region, image = others[0]
        add = "".join(f" {flag}" for flag in flags.split())
        return RequestError(
            f"There is no {what} in {cloud.region}, but in {_listed([r for r, _ in others])}",
            details=[f"{region}  {_line(image)}" for region, image in others],
            hint=f"Copy it: invoke copy {image.image_id} --region {region} --to {cloud.region}{add}"
            f". Or work where it is: --region {region}",
        )
    return RequestError(
        f"There is no available {what} in {cloud.region}",
        details=[_line(image) for image in ours],
        hint="Bake one: invoke bake" + (", or name one of these" if ours else ""),
    )


def _elsewhere(cloud: Cloud, asked: str | None) -> list[tuple[str, Image]]:
    """What of it other regions have, the newest of each. It is only a hint, so each is asked once,
    and one that does not answer has none."""

    def look(region: str) -> list[tuple[str, Image]]:
        try:
            there = images(cloud.in_region(region), once=True)
        except CloudError:
            return []
        found = [image for image in _meant(there, asked) if image.state == "available"]
        return [(region, image) for image in found[:1]]

    try:
        others = [region for region in enabled_regions(cloud) if region != cloud.region]
    except CloudError:
        return []
    return [
        each for found in together(*(partial(look, region) for region in others)) for each in found
    ]


def _not_ready(wanted: Sequence[Image]) -> RequestError:
    first = wanted[0]
    what = f"The image {first.image_id} is" if len(wanted) == 1 else "These images are"
    state = first.state if len(wanted) == 1 and first.state != "available" else "not available"
    return RequestError(
        f"{what} {state}",
        code=first.reason_code if len(wanted) == 1 else "",
        reason=first.reason if len(wanted) == 1 else "",
        details=[f"{_line(image)}: {image.state}" for image in wanted],
        hint="A pending one is available in some minutes (`invoke images` shows it), and one that "
        "is not finished after the next bake of its recipe; of a failed one nothing comes any more",
    )


def _line(image: Image) -> str:
    return f"{image.image_id}  {image.name}"


def _listed(words: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(words))
