"""TODO docstring."""

from __future__ import annotations

from typing import Any

from invoke import task

from bake.cli.command import raise_for, running
from bake.cli.context import MANIFESTS, invoke_word, new_console, open_cloud
from bake.cli.options import COMMAND


@task(help={"recipe": "only this recipe's"}, **COMMAND)
def checkpoints(
    _context: Any,
    recipe: str | None = None,
    region: str | None = None,
    local: bool = False,
    json: bool = False,
) -> None:
    """List the checkpoints from which bakes can start, and what they cost."""
    console = new_console(json)
    with running(console):
        from bake.aws.checkpoint import checkpoints as find_checkpoints
        from bake.aws.price import snapshot_price
        from bake.cli.views import checkpoints as images_checkpoints

        cloud = open_cloud(console, local=local, region=region)
        found = find_checkpoints(cloud, recipe)
        images_checkpoints.show_checkpoints(
            console, found, snapshot_price(cloud), cloud.now(), recipe
        )


@task(
    help={
        "recipe": "only this recipe's",
        "region": "AWS regions, with commas (default: your configuration's, and those of recipes)",
        "all_regions": "every region that the account may use",
        "yes": "remove it; without it, it is only shown",
    },
    **COMMAND,
)
def reap(
    _context: Any,
    recipe: str | None = None,
    region: str | None = None,
    all_regions: bool = False,
    yes: bool = False,
    local: bool = False,
    json: bool = False,
    quiet: bool = False,
) -> None:
    """Remove what killed runs have left behind, by its tags; shows it first."""
    console = new_console(json, quiet)
    with running(console, interrupted="what is still there, the same command finds"):
        import shlex

        from bake.cli.views import reap as reaping_reap
        from bake.errors import RecipeError
        from bake.pipeline import reaping
        from bake.recipe import recipe as recipes

        first = region.replace(",", " ").split()[:1] if region else []
        cloud = open_cloud(console, local=local, region=first[0] if first else None)
        try:
            usual = [each.region for each in recipes.all_recipes(MANIFESTS) if each.region]
        except RecipeError as error:
            console.warn(f"{error.message}: the regions that recipes name are not looked at")
            usual = []
        regions = reaping.regions_of(cloud, region, all_regions, usual)
        reaped = reaping.reap(cloud, regions, console, recipe=recipe, act=yes)
        where = ["--all-regions"] if all_regions else ["--region", ",".join(regions)]
        which = ["--recipe", recipe] if recipe else []
        words = [invoke_word(), "reap", *where, *which, "--yes", *(["--local"] if local else [])]
        reaping_reap.show(console, reaped, shlex.join(words))
        raise_for(reaped)
