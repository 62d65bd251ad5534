"""The commands that list, copy and remove finished images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bake.cli.command import command, raise_for
from bake.cli.environment import at_most_one, open_cloud
from bake.cli.image_choice import chosen_image
from bake.cli.options import CommonOptions
from bake.cli.recipes import check_recipe, current_images

if TYPE_CHECKING:
    from bake.console.console import Console


@command(
    "region",
    "local",
    "json",
    help={"recipe": "only this recipe's"},
    examples=["invoke images", "invoke images --recipe pytorch-cu126"],
    document="images.ImagesDocument",
)
def images(console: Console, common: CommonOptions, recipe: str | None = None) -> None:
    """List your images, and what was proved on each."""
    from bake import catalog
    from bake.aws.image import images as find_images
    from bake.aws.price import price_errors, snapshot_price
    from bake.cli.views.images import show_images
    from bake.cli.views.machines import show_unknown

    cloud = open_cloud(console, common)
    everything = find_images(cloud)
    found = [image for image in everything if recipe in (None, image.recipe)]
    if not found:
        check_recipe(recipe, (image.recipe for image in everything))
    price = snapshot_price(cloud) if found else None
    show_images(console, catalog.load(), found, cloud.now(), price, recipe)
    show_unknown(console, price_errors(cloud))


@command(
    "region",
    "local",
    "json",
    "quiet",
    positional=["image"],
    help={
        "image": "the image's id, recipe, name or the beginning of its name (default: the newest "
        "verified one, if only one recipe has images)",
        "to": "regions, separated by commas: us-west-2,eu-central-1",
        "name": "the copies' name (default: the image's)",
        "unverified": "also an image on which nothing was proved",
    },
    arguments="[IMAGE]",
    examples=[
        "invoke copy --to us-west-2,eu-central-1",
        "invoke copy pytorch-cu126 --to us-west-2 --name lab",
    ],
    document="images.CopyDocument",
)
def copy(
    console: Console,
    common: CommonOptions,
    image: tuple[str, ...] = (),
    to: str | None = None,
    name: str | None = None,
    unverified: bool = False,
) -> None:
    """Copy an image to other regions; existing copies are not made again."""
    from functools import partial

    from bake.aws.client.session import check_regions
    from bake.aws.image_creation import check_name
    from bake.cli.views.images import show_copies
    from bake.images import copies
    from bake.images.selection import accepted_proofs

    if name is not None:
        check_name(name)
    cloud = open_cloud(console, common)
    wanted = copies.read_regions(to, cloud.region)
    check_regions(cloud, wanted)
    proved = accepted_proofs(cpu=True, unverified=unverified)
    named = at_most_one(image, "image")
    chosen = chosen_image(console, cloud, named, proved=proved, option=())
    connect = partial(open_cloud, console, common)
    outcomes = copies.copy_everywhere(chosen, cloud.region, wanted, connect, console, name=name)
    show_copies(console, outcomes)
    raise_for(console, {each.region: each.error for each in outcomes})


@command(
    "region",
    "local",
    "json",
    positional=["recipe"],
    help={
        "recipe": "only this recipe's images",
        "keep": "how many of the newest verified images of each recipe to keep",
        "older_than": "only images at least this old: 30d, 12h, 2w",
        "yes": "remove them; without this option, they are only shown",
    },
    arguments="[RECIPE]",
    examples=["invoke prune --keep 3", "invoke prune mxnet-cu101 --older-than 30d --yes"],
    document="images.PruneDocument",
)
def prune(
    console: Console,
    common: CommonOptions,
    recipe: tuple[str, ...] = (),
    keep: int = 3,
    older_than: str | None = None,
    yes: bool = False,
) -> None:
    """Remove old images that are not in use, with their snapshots; shows them first."""
    from bake.aws.price import snapshot_price
    from bake.cli.views.images import show_verdicts
    from bake.images import retention

    age = retention.read_age(older_than)
    retention.check_keep(keep)
    name = at_most_one(recipe, "recipe")
    cloud = open_cloud(console, common)
    verdicts = retention.judge(
        cloud,
        name,
        keep=keep,
        older_than=age,
        is_current=current_images(),
        on_warning=console.warn,
    )
    if not verdicts:
        check_recipe(name)
    removals = None
    if yes:
        with console.step("Removing") as step:
            removals = retention.remove(cloud, verdicts, on_image=step.update)
    show_verdicts(console, verdicts, removals, snapshot_price(cloud))
    raise_for(console, {each.image.image_id: each.error for each in removals or ()})
