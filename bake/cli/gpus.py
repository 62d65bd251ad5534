"""The commands that compare GPU machines and show or raise quotas."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bake.cli.command import command
from bake.cli.environment import open_cloud, project, this_program
from bake.cli.options import CommonOptions, option

if TYPE_CHECKING:
    from bake.console.console import Console


@command(
    "region",
    "local",
    "json",
    help={
        "type": "only the quota that counts this instance type or family: g4dn.xlarge, p4d, m7i",
        "spot": "only quotas of spot machines",
        "raise_": "request an increase to this many vCPUs (without --type: of the quota of g4dn)",
    },
    examples=["invoke quota --type g4dn.xlarge", "invoke quota --type g4dn.xlarge --raise 4"],
    document="gpus.QuotaDocument",
)
def quota(
    console: Console,
    common: CommonOptions,
    type: str | None = None,
    spot: bool = False,
    raise_: int = 0,
) -> None:
    """List your quotas of GPU machines, or those of an instance type; request an increase."""
    from bake import catalog
    from bake.aws import quota as quotas
    from bake.cli.views import gpus as views
    from bake.machine import gpus as machines

    known, again = catalog.load(), f"{this_program()} quota{common.flags}"
    name = type or (views.USUAL if raise_ else "")
    machine = machines.find_type(known, name)
    cloud = open_cloud(console, common) if name and not machine else None
    if cloud:
        machine = machines.find_type_of_region(cloud, known, name)
    if raise_ and machine:
        again += f" --type {machine.name}{' --spot' * spot}"
        code = machines.quota_code_to_raise(machine, raise_, again, spot=spot)
        cloud = cloud or open_cloud(console, common)
        now = quotas.read_quota(cloud, code, "spot" if spot else "on-demand")
        increase = quotas.request_increase(cloud, now, raise_)
        views.show_increase(console, known, increase, now, machine)
        return
    cloud = cloud or open_cloud(console, common)
    codes = machines.quota_codes(machine, spot=spot)
    found = quotas.read_quotas(cloud, codes)
    requests = quotas.read_requests(cloud, codes)
    views.show_quotas(console, known, found, requests, cloud.now(), machine, again)


@dataclass(frozen=True)
class GpuOptions:
    """The options that select GPU machines."""

    gpu: str | None = option(None, "only these GPUs: t4,a10g")
    count: int = option(0, "only machines with this many GPUs")
    cuda: str | None = option(None, "only machines on which this CUDA version works: 12.6")
    min_memory: str | None = option(None, "only GPUs with at least this many GB each: 24")
    max_price: str | None = option(
        None, "only machines that cost at most this many USD an hour, on demand or as spot"
    )
    offered: bool = option(False, "only machines that this region offers")
    recipe: str | None = option(None, "only machines on which this recipe works")
    ami: str | None = option(None, "only machines on which this image works: an id, recipe or name")
    all: bool = option(False, "also families that AWS has retired")
    sort: str = option("price", "by price, spot, memory, gpu, left or type")


@command(
    "region",
    "local",
    "json",
    group=GpuOptions,
    examples=["invoke gpus --cuda 12.6 --max-price 2", "invoke gpus --gpu t4,a10g --sort memory"],
    document="gpus.GpusDocument",
)
def gpus(console: Console, common: CommonOptions, options: GpuOptions) -> None:
    """List GPU machines: which CUDA works, how many you may start here, and what they cost."""
    from bake import catalog
    from bake.cli.views import gpus as views
    from bake.machine import gpus as machines
    from bake.recipe import recipes
    from bake.recipe.based import resolve_in

    known = catalog.load()
    works = None
    if options.recipe:
        own = project()
        recipe = recipes.find(options.recipe, own)
        works = machines.types_for_recipe(resolve_in(own, recipe))
    wanted = machines.read_filter(
        known,
        gpu=options.gpu,
        count=options.count,
        cuda=options.cuda,
        min_memory=options.min_memory,
        max_price=options.max_price,
        offered=options.offered,
        retired=options.all,
        only=works,
        order=options.sort,
    )
    cloud = open_cloud(console, common)
    if options.ami:
        from bake.images import selection

        image = selection.choose_image(cloud, options.ami, proved=("gpu", "cpu", "no"))
        wanted = machines.narrow_filter(wanted, machines.types_for_image(known, image))
    found = machines.survey(cloud, known, wanted)
    views.show_gpus(console, found, f"{this_program()} quota{common.flags}")
