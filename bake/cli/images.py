"""Images, and machines from them."""

from __future__ import annotations

from typing import Any

from invoke import task

from bake.cli.command import raise_for, running
from bake.cli.context import new_console, only, open_cloud, where
from bake.cli.options import COMMAND


@task(help={"recipe": "only this recipe's"}, **COMMAND)
def images(
    _context: Any,
    recipe: str | None = None,
    region: str | None = None,
    local: bool = False,
    json: bool = False,
) -> None:
    """List your images, and what was proved on each."""
    console = new_console(json)
    with running(console):
        from bake.aws.image import images as find_images
        from bake.aws.price import price_errors, snapshot_price
        from bake.cli.views import images as listing
        from bake.cli.views.machines import show_unknown

        cloud = open_cloud(console, local=local, region=region)
        found = find_images(cloud, recipe)
        usd = snapshot_price(cloud) if found else None
        listing.show_images(console, found, cloud.now(), usd)
        show_unknown(console, price_errors(cloud))


@task(
    positional=["image"],
    help={
        "image": "id, recipe, name or its beginning of the image (default: the newest verified "
        "one)",
        "to": "regions, with commas: us-west-2,eu-central-1",
        "name": "the copies' name (default: the image's)",
        "unverified": "also an image on which nothing was proved",
    },
    **COMMAND,
)
def copy(
    _context: Any,
    image: Any = None,
    to: str | None = None,
    name: str | None = None,
    unverified: bool = False,
    region: str | None = None,
    local: bool = False,
    json: bool = False,
    quiet: bool = False,
) -> None:
    """Copy an image to other regions; a copy that is there already is not made again."""
    console = new_console(json, quiet)
    with running(console):
        from bake.cli.views import images as listing
        from bake.images import copies, selection

        cloud = open_cloud(console, local=local, region=region)
        wanted = copies.regions(to, cloud.region)
        proved = selection.enough(cpu=True, unverified=unverified)
        flag = where(local, None)
        chosen = selection.choose_image(cloud, only(image, "image"), proved=proved, flags=flag)
        outcomes = copies.copy_everywhere(
            chosen,
            cloud.region,
            wanted,
            lambda there: open_cloud(console, local=local, region=there),
            console,
            name=name,
        )
        listing.show_copies(console, outcomes)
        raise_for(outcomes)


@task(
    positional=["recipe"],
    help={
        "recipe": "only this recipe's images",
        "keep": "how many of the newest verified images of each recipe stay",
        "older_than": "only those that are that old: 30d, 12h, 2w",
        "yes": "remove them; without it, they are only shown",
    },
    **COMMAND,
)
def prune(
    _context: Any,
    recipe: Any = None,
    keep: int = 3,
    older_than: str | None = None,
    yes: bool = False,
    region: str | None = None,
    local: bool = False,
    json: bool = False,
) -> None:
    """Remove old images that nothing uses, with their snapshots; shows them first."""
    console = new_console(json)
    with running(console):
        from bake.aws.price import snapshot_price
        from bake.cli.views import images as listing
        from bake.images import retention

        age = retention.read_age(older_than)
        retention.check(keep)
        cloud = open_cloud(console, local=local, region=region)
        verdicts = retention.judge(cloud, only(recipe, "recipe"), keep=keep, older_than=age)
        removals = None
        if yes:
            with console.step("Removing") as step:
                removals = retention.remove(cloud, verdicts, on_image=step.update)
        listing.show_verdicts(console, verdicts, removals, snapshot_price(cloud))
        raise_for(removals or ())
