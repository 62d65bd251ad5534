"""The base image of a bake, as its recipe names it, and the instance types of its builder."""

from __future__ import annotations

from bake.aws.base_image import BaseImage, ImageSource, find_base_image, find_image_of_recipe
from bake.aws.client.session import Cloud
from bake.aws.instance_type import with_types
from bake.recipe.payload import Payload
from bake.recipe.resolved import Resolved, with_catalog
from bake.verify import accepted


def find_base(
    cloud: Cloud, resolved: Resolved, payload: Payload, locked: str = "", *, here: str = ""
) -> BaseImage:
    """Return the base image of a recipe; PreflightError if it is not found or cannot be used.

    `locked` is the id or the name of the only image that is accepted. `here` is the option that
    makes a command use the same cloud, for a hint.
    """
    base, os_image = resolved.recipe.base, resolved.os_image
    if resolved.base:
        stand_in = " --stand-in" if payload.name == "stand-in" else ""
        flags = (here or f"--region {cloud.region}") + stand_in
        return find_image_of_recipe(
            cloud,
            resolved.base.name,
            os_image,
            accepted=accepted(resolved.base, has_checks=True),
            payload=payload.name,
            bake=f"invoke bake {resolved.base.name} {flags}",
            locked=locked,
        )
    source = ImageSource(
        image_id=base.ami or "",
        owner=base.owner or "",
        name=base.name or "",
        parameter=base.ssm_parameter or "",
    )
    owner = None if base.owner == "self" else payload.image_owner
    wanted = None if base.is_of_catalog else source
    return find_base_image(cloud, os_image, owner, locked=locked, source=wanted)


def with_described_types(cloud: Cloud, resolved: Resolved) -> Resolved:
    """Return the recipe with EC2's description of the types that the catalog does not have."""
    known = with_types(cloud, resolved.catalog, resolved.recipe.builder.instance_types)
    return resolved if known is resolved.catalog else with_catalog(resolved, known)
