"""What the account has, may do and still holds."""

from __future__ import annotations

from typing import Any

from invoke import task
from invoke.exceptions import Exit

from bake.cli.command import raise_for, running
from bake.cli.context import MANIFESTS, ROOT, invoke_word, new_console, open_cloud, where
from bake.cli.options import COMMAND
from bake.cli.orders import chosen_recipes


@task(
    positional=["recipe"],
    help={"recipe": "what is to be baked (default: the recipe for CUDA 10.1)"},
    **COMMAND,
)
def doctor(
    _context: Any,
    recipe: Any = None,
    region: str | None = None,
    local: bool = False,
    json: bool = False,
) -> None:
    """Say what is missing here, and at AWS, before anything is started; nothing is changed."""
    console = new_console(json)
    with running(console):
        import json as json_library
        from functools import partial

        from bake.pipeline import doctor as doctors

        if local:
            from bake.local.needs import needs

            diagnosis = doctors.examine(None, needs())
        else:
            [chosen] = chosen_recipes(recipe, cuda=None if recipe else "10.1", local=False)
            policy = json_library.loads((ROOT / "docs" / "iam-policy.json").read_text())
            connect = partial(open_cloud, console, local=False, region=region or chosen.region)
            diagnosis = doctors.examine(doctors.Wanted(chosen, policy, connect))
        doctors.show(console, diagnosis)
        if not diagnosis.well:
            raise Exit(code=1)


@task(
    help={
        "type": "that which counts this instance type, or this family: g4dn.xlarge, p4d",
        "spot": "of the spot market",
        "raise_": "ask AWS that it be raised to so many vCPUs (without --type: g4dn's)",
    },
    **COMMAND,
)
def quota(
    _context: Any,
    type: str | None = None,
    spot: bool = False,
    raise_: int = 0,
    region: str | None = None,
    local: bool = False,
    json: bool = False,
) -> None:
    """List your quotas of GPU machines, or ask AWS to raise one."""
    console = new_console(json)
    with running(console):
        from bake import catalog
        from bake.aws import quota as quotas
        from bake.cli.views import gpus as choosing

        known, command = catalog.load(), f"{invoke_word()} quota{where(local, region)}"
        machine = choosing.meant(known, type) if type else None
        if raise_:
            machine = machine or choosing.meant(known, choosing.USUAL)
            again = f"{command} --type {machine.name}{' --spot' * spot}"
            code = choosing.quota_to_raise(machine, raise_, again, spot=spot)
            cloud = open_cloud(console, local=local, region=region)
            now = quotas.read_quota(cloud, code, "spot" if spot else "on-demand")
            asked = quotas.ask_for_more(cloud, now, raise_)
            choosing.show_asked(console, asked, now, machine)
            return
        cloud = open_cloud(console, local=local, region=region)
        codes = choosing.codes_of(machine, spot=spot)
        found = quotas.read_quotas(cloud, codes)
        requests = quotas.read_requests(cloud, codes)
        choosing.show_quotas(console, known, found, requests, cloud.now(), machine, command)


@task(
    help={
        "gpu": "only these GPUs: t4,a10g",
        "count": "only with so many GPUs",
        "cuda": "only those on which this CUDA works: 10.1",
        "min_memory": "only GPUs with at least so many GB each: 24",
        "max_price": "only what costs at most so many USD an hour, on demand or on the spot market",
        "offered": "only what this region has",
        "recipe": "only those on which this recipe works",
        "ami": "only those on which this image works: its id, recipe or name",
        "all": "also families that AWS has retired",
        "sort": "by price, spot, memory, gpu, left or type",
    },
    **COMMAND,
)
def gpus(
    _context: Any,
    gpu: str | None = None,
    count: int = 0,
    cuda: str | None = None,
    min_memory: str | None = None,
    max_price: str | None = None,
    offered: bool = False,
    recipe: str | None = None,
    ami: str | None = None,
    all: bool = False,
    sort: str = "price",
    region: str | None = None,
    local: bool = False,
    json: bool = False,
) -> None:
    """List GPU machines: which CUDA works, how many you may start here, and what they cost."""
    console = new_console(json)
    with running(console):
        from bake import catalog
        from bake.cli.views import gpus as choosing
        from bake.machine import gpus as machines
        from bake.recipe import recipe as recipes

        known = catalog.load()
        works = None
        if recipe:
            works = machines.works_for_recipe(known, recipes.find(recipe, MANIFESTS))
        wanted = machines.read_filter(
            known,
            gpu=gpu,
            count=count,
            cuda=cuda,
            min_memory=min_memory,
            max_price=max_price,
            offered=offered,
            retired=all,
            only=works,
            order=sort,
        )
        cloud = open_cloud(console, local=local, region=region)
        if ami:
            from bake.images import selection

            image = selection.choose_image(cloud, ami, proved=("gpu", "cpu", "no"))
            wanted = machines.narrowed(wanted, machines.works_for_image(known, image))
        found = machines.survey(cloud, known, wanted)
        choosing.show_gpus(console, found, f"{invoke_word()} quota{where(local, region)}")


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
        from bake.cli.views import images

        cloud = open_cloud(console, local=local, region=region)
        found = find_checkpoints(cloud, recipe)
        images.show_checkpoints(console, found, snapshot_price(cloud), cloud.now(), recipe)


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
        reaping.show(console, reaped, shlex.join(words))
        raise_for(reaped)
