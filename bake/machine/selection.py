"""Which image, and which machine, is meant."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bake.aws.image import Image, find_image, images
from bake.aws.machine import Machine, machines
from bake.aws.session import Cloud
from bake.errors import RequestError


def choose_image(cloud: Cloud, asked: str | None, *, proved: Sequence[str]) -> Image:
    """The newest image that is what was asked for (an id, a name, a recipe; None: any of ours).

    `proved` is what is enough to have been proved on it. RequestError when there is none, with
    those that there are; also an image asked for by its id is refused when less was proved.
    """
    ours = [image for image in images(cloud) if image.state == "available"]
    if asked is None:
        wanted = ours
    elif re.fullmatch(r"ami-[0-9a-f]+", asked):
        found = find_image(cloud, asked)
        wanted = [found] if found else []
    else:
        wanted = [image for image in ours if asked in (image.name, image.recipe)]
    if not wanted:
        raise RequestError(
            f"There is no available image {asked or 'of ours'} in {cloud.region}",
            details=[f"{image.image_id}  {image.name}" for image in ours],
            hint="Bake one: invoke bake. Or look into another region: invoke images --region …",
        )
    enough = [image for image in wanted if image.verified in proved]
    if not enough:
        raise RequestError(
            f"No image {asked or 'of ours'} is verified as it has to be for this "
            f"(bake:verified={' or '.join(proved)})",
            details=[f"{image.image_id}  {image.name}: {image.verified}" for image in wanted],
            hint="Bake it on a machine with a GPU: that is where the proof can be made",
        )
    return enough[0]


def find_ours(cloud: Cloud, word: str | None) -> Machine:
    """The machine of that id or name; without a word, the only one that there is."""
    everything = machines(cloud)
    found = [m for m in everything if word is None or word in (m.instance_id, m.name)]
    if len(found) == 1:
        return found[0]
    listed = [f"{machine.instance_id}  {machine.name} ({machine.state})" for machine in everything]
    if not found:
        message = f"There is no machine {word}" if word else "There is no machine of ours"
        raise RequestError(f"{message} in {cloud.region}", details=listed)
    raise RequestError("Which machine?", details=listed, hint="Give its id or its name")
