"""TODO docstring."""

from __future__ import annotations

from typing import Any

from invoke import task

from bake.cli.command import running
from bake.cli.context import MANIFESTS, invoke_word, new_console, open_cloud, where
from bake.cli.options import COMMAND


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
        from bake.machine import gpus as choosing_gpus

        known, command = catalog.load(), f"{invoke_word()} quota{where(local, region)}"
        machine = choosing_gpus.meant(known, type) if type else None
        if raise_:
            machine = machine or choosing_gpus.meant(known, choosing.USUAL)
            again = f"{command} --type {machine.name}{' --spot' * spot}"
            code = choosing_gpus.quota_to_raise(machine, raise_, again, spot=spot)
            cloud = open_cloud(console, local=local, region=region)
            now = quotas.read_quota(cloud, code, "spot" if spot else "on-demand")
            asked = quotas.request_increase(cloud, now, raise_)
            choosing.show_asked(console, asked, now, machine)
            return
        cloud = open_cloud(console, local=local, region=region)
        codes = choosing_gpus.codes_of(machine, spot=spot)
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
