"""Choosing an image by its id, its recipe or its name."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from functools import partial

from bake.aws.client.session import Cloud, enabled_regions
from bake.aws.image import Image, find_image, images
from bake.errors import CloudError, RequestError
from bake.threads import together

_IMAGE_ID = re.compile(r"ami-[0-9a-f]+")


def accepted_proofs(*, cpu: bool, unverified: bool) -> tuple[str, ...]:
    """Return the values of `bake:verified` that are accepted. A proof on a GPU always is."""
    return ("gpu", "cpu", "no") if unverified else ("gpu", "cpu") if cpu else ("gpu",)


def choose_image(
    cloud: Cloud,
    asked: str | None,
    *,
    proved: Sequence[str],
    ask: Callable[[Sequence[Image]], Image | None] = lambda images: None,
    naming: Callable[[str], str] = "--ami {}".format,
    recipes: Collection[str] = (),
) -> Image:
    """Return the image that `asked` names: an id, a recipe, a name or the beginning of a name.

    For a recipe it is the newest finished image; a name must be unique. None is the newest image of
    the only recipe that has one. If several have, `ask` gets the newest of each and returns the
    one that the user chooses, or None if no question is possible. `naming` returns how to name a
    recipe. `proved` are the values of `bake:verified` that are accepted, also for an id. `recipes`
    are the names that a bake knows, for a hint.

    RequestError if no image or several images match. It lists them, and names other regions that
    have the image.
    """
    known = images(cloud)
    if asked and _IMAGE_ID.fullmatch(asked):
        wanted = [found for found in [find_image(cloud, asked)] if found]
    else:
        wanted = matching(known, asked)
    if not wanted:
        raise _not_found(cloud, asked, known, recipes)
    name = f" {asked}" if asked else ""
    newest_counts = asked in (None, wanted[0].recipe)
    ready = [i for i in wanted if (i.finished if newest_counts else i.state == "available")]
    if not ready:
        raise _not_ready(wanted)
    accepted = [image for image in ready if image.verified in proved]
    if not accepted:
        raise RequestError(
            f"No image{name} with the required proof, bake:verified={' or '.join(proved)}",
            details=[f"{_line(image)}: {image.verified}" for image in ready],
            hint="Bake it on a machine with a GPU, on which it can be proved, or add --unverified "
            "to use it as it is",
        )
    if len(accepted) > 1 and not newest_counts:
        raise RequestError(
            f"The name {asked} is ambiguous: {len(accepted)} images have a name that begins so",
            details=[_line(image) for image in accepted],
            hint="Give an id, a whole name, or a recipe, whose newest image is taken",
        )
    newest = newest_of_each_recipe(accepted)
    if asked is None and len(newest) > 1:
        if chosen := ask(newest):
            return chosen
        raise RequestError(
            f"{len(newest)} recipes have images in {cloud.region}, and none is named",
            details=[_line(image) for image in newest],
            hint=f"Name a recipe or an image: {naming(newest[0].recipe)}",
        )
    return accepted[0]


def newest_of_each_recipe(images: Sequence[Image]) -> list[Image]:
    """Return the newest image of each recipe; `images` begin with the newest. Pure."""
    newest: dict[str, Image] = {}
    for image in images:
        newest.setdefault(image.recipe, image)
    return list(newest.values())


def matching(known: Sequence[Image], asked: str | None) -> list[Image]:
    """Return the images that `asked` names; None names all. Pure.

    An id or a recipe comes first, then a whole name, then the beginning of a name.
    """
    if asked is None:
        return list(known)
    ways: tuple[Callable[[Image], bool], ...] = (
        lambda image: asked in (image.image_id, image.recipe),
        lambda image: asked == image.name,
        lambda image: image.name.removeprefix("bake/").startswith(asked.removeprefix("bake/")),
    )
    found = ([image for image in known if way(image)] for way in ways)
    return next((some for some in found if some), [])


def _not_found(
    cloud: Cloud, asked: str | None, known: Sequence[Image], recipes: Collection[str]
) -> RequestError:
    name = f" {asked}" if asked else ""
    if others := _elsewhere(cloud, asked):
        region, image = others[0]
        return RequestError(
            f"No image{name} in {cloud.region}, but in {_listed([r for r, _ in others])}",
            details=[f"{region}  {_line(image)}" for region, image in others],
            hint=f"Copy it: invoke copy {image.image_id} --region {region} --to {cloud.region}. "
            f"Or use the region that has it: --region {region}",
        )
    return RequestError(
        f"No available image{name} in {cloud.region}",
        details=[_line(image) for image in known],
        hint=("Name one of these, or bake one: " if known else "Bake one: ")
        + f"invoke bake {asked if asked in recipes else 'pytorch-cu126'}",
    )


def _elsewhere(cloud: Cloud, asked: str | None) -> list[tuple[str, Image]]:
    """Return the newest matching image of each other region.

    It is only for a hint: each region is asked once, and one that does not answer is left out.
    """

    def look(region: str) -> list[tuple[str, Image]]:
        try:
            found = images(cloud.in_region(region), once=True)
        except CloudError:
            return []
        ready = [image for image in matching(found, asked) if image.state == "available"]
        return [(region, image) for image in ready[:1]]

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
        hint="A pending image is available in some minutes (`invoke images` shows it), an "
        "unfinished one after the next bake of its recipe; a failed image never becomes available",
    )


def _line(image: Image) -> str:
    return f"{image.image_id}  {image.name}"


def _listed(words: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(words))
