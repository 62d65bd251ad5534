"""The commands that list checkpoints and remove orphaned resources."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from bake.cli.command import command, raise_for
from bake.cli.environment import open_cloud, project, this_program
from bake.cli.options import CommonOptions
from bake.cli.recipes import check_recipe, warn_about

if TYPE_CHECKING:
    from bake.console.console import Console


@command(
    "region",
    "local",
    "json",
    help={"recipe": "only this recipe's"},
    examples=["invoke checkpoints", "invoke checkpoints --recipe mxnet-cu101"],
    document="images.CheckpointsDocument",
)
def checkpoints(console: Console, common: CommonOptions, recipe: str | None = None) -> None:
    """List the checkpoints from which bakes can start, and what they cost."""
    from bake.aws.checkpoint import checkpoints as find_checkpoints
    from bake.aws.price import snapshot_price
    from bake.cli.views.checkpoints import show_checkpoints

    cloud = open_cloud(console, common)
    everything = find_checkpoints(cloud)
    found = [each for each in everything if recipe in (None, each.recipe)]
    if not found:
        check_recipe(recipe, (each.recipe for each in everything))
    show_checkpoints(console, found, snapshot_price(cloud), cloud.now(), recipe)


@command(
    "region",
    "local",
    "json",
    "quiet",
    help={
        "recipe": "only this recipe's",
        "region": "regions, separated by commas (default: your configuration's, and the recipes')",
        "all_regions": "every region that the account may use",
        "yes": "remove them; without this option, they are only shown",
    },
    interrupted="to find and remove what is left, run the same command again",
    examples=["invoke reap", "invoke reap --region us-west-2,eu-central-1 --yes"],
    document="reap.ReapDocument",
)
def reap(
    console: Console,
    common: CommonOptions,
    recipe: str | None = None,
    all_regions: bool = False,
    yes: bool = False,
) -> None:
    """Remove orphaned resources of interrupted runs; shows them first."""
    import shlex

    from bake.cli.views.reap import show_reaped
    from bake.errors import RecipeError
    from bake.pipeline import reaping
    from bake.recipe.recipes import read_all

    first = common.region.replace(",", " ").split()[:1] if common.region else []
    cloud = open_cloud(console, replace(common, region=first[0] if first else None))
    try:
        found, broken = read_all(project())
        warn_about(console, broken)
        usual = [each.region for each in found if each.region]
    except RecipeError as error:
        console.warn(f"{error.message}: the regions that recipes name are not searched")
        usual = []
    regions = reaping.regions_of(cloud, common.region, all_regions, usual)
    reaped = reaping.reap(cloud, regions, console, recipe=recipe, act=yes)
    if not any(each.remains or each.error for each in reaped):
        check_recipe(recipe)
    where = ["--all-regions"] if all_regions else ["--region", ",".join(regions)]
    which = ["--recipe", recipe] if recipe else []
    again = [this_program(), "reap", *where, *which, "--yes"]
    show_reaped(console, reaped, shlex.join(again) + common.local_flag)
    raise_for(console, {each.region: each.error for each in reaped})
