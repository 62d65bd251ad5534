"""The image that a command uses: the one that is named, else the only one that can be meant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from invoke.exceptions import Exit

from bake.cli.environment import project, this_command
from bake.cli.parser import WRONG_REQUEST

if TYPE_CHECKING:
    from bake.aws.client.session import Cloud
    from bake.aws.image import Image
    from bake.console.console import Console


def chosen_image(
    console: Console,
    cloud: Cloud,
    asked: str | None,
    *,
    proved: Sequence[str],
    option: Sequence[str] = ("--ami",),
) -> Image:
    """Return the image that is named, or meant without a name, and note which one it is.

    If several recipes have images, a terminal gets a question, and anything else a RequestError.
    `option` is what comes before a name in the command. Exits with 2 if no image is chosen.
    """
    from bake.images import selection
    from bake.recipe.recipe_files import descriptions

    def ask(newest: Sequence[Image]) -> Image | None:
        if not console.can_ask:
            return None
        number = console.choose("Which image?", [_line(image) for image in newest])
        if number is None:
            console.warn("Nothing was done.")
            raise Exit(code=WRONG_REQUEST)
        return newest[number]

    image = selection.choose_image(
        cloud,
        asked,
        proved=proved,
        ask=ask,
        naming=lambda name: this_command(*option, name),
        recipes=[*descriptions(project())],
    )
    if asked != image.image_id:
        console.note(f"Using the image {image.image_id}  {image.name}")
    return image


def _line(image: Image) -> str:
    recipe = "" if image.recipe in image.name else f" ({image.recipe})"
    return f"{image.image_id}  {image.name}{recipe}"
