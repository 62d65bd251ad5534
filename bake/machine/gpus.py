"""List GPU machines: the CUDA versions that work on them, their zones, quotas and prices.

The machines come from the catalog, their availability zones from EC2, the number that may still be
started from Service Quotas, prices from the Price List and the spot market. A value that AWS does
not return is unknown, and not an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from bake.aws.client.session import Cloud
from bake.aws.image import Image
from bake.aws.instance_type import add_types, describe_types
from bake.aws.placement import Market
from bake.aws.placement_search import offered_zones
from bake.aws.price import on_demand, price_errors, spot_by_zone, unanswered_services
from bake.aws.quota import Quota, gpu_quotas, quota_code, read_quotas
from bake.catalog import Catalog, Gpu, InstanceType, nearest, numbers, runs_on
from bake.errors import CloudError, RequestError
from bake.machine import fit
from bake.recipe.compatibility import check, refuse_incompatible
from bake.recipe.gpu_checks import driver_problem
from bake.recipe.resolved import Resolved
from bake.threads import together

MARKETS: tuple[Market, ...] = ("on-demand", "spot")
# The service that returns the prices of each market.
_PRICES: Mapping[Market, str] = {"on-demand": "pricing", "spot": "ec2"}


@dataclass(frozen=True)
class Filter:
    """The filter for a list of machines. `only` are the types on which a recipe or image works."""

    gpus: tuple[str, ...] = ()
    count: int | None = None
    cuda: str | None = None
    min_memory_gb: float = 0
    max_usd: float | None = None
    offered: bool = False
    retired: bool = False
    only: frozenset[str] | None = None
    order: str = "price"


@dataclass(frozen=True)
class Offer:
    """An instance type in this region. None is an unknown value; empty `zones`: not offered.

    `cuda` are the CUDA versions that work, `left` is the number of machines that the quota of each
    market still allows. Prices are in USD per hour, `spot` by zone.
    """

    machine: InstanceType
    cuda: tuple[str, ...]
    zones: tuple[str, ...] | None
    left: Mapping[Market, int | None]
    on_demand: float | None
    spot: Mapping[str, float]

    @property
    def cheapest_spot(self) -> float | None:
        return min(self.spot.values(), default=None)

    @property
    def cheapest(self) -> float | None:
        known = [usd for usd in (self.on_demand, self.cheapest_spot) if usd is not None]
        return min(known, default=None)


@dataclass(frozen=True)
class Survey:
    """The offers of a region. `quotas` are by code; `refusals` are the errors of unknown values.

    An offer without a price in a market of `priced` is not sold in that market.
    """

    offers: tuple[Offer, ...]
    quotas: Mapping[str, Quota | CloudError] = field(default_factory=dict)
    refusals: tuple[CloudError, ...] = ()
    priced: frozenset[Market] = frozenset(MARKETS)


def memory_gb(machine: InstanceType) -> int:
    """Return the memory of one GPU in GB, as NVIDIA states it; EC2 uses GiB for some."""
    mib = machine.gpu_memory_mib
    return mib // 1024 if mib % 1024 == 0 else round(mib * 2**20 / 1e9)


def cuda_versions(catalog: Catalog, machine: InstanceType) -> tuple[str, ...]:
    """Return the CUDA versions that support a machine, with a driver on an OS of the catalog."""
    if machine.fractional or machine.unserved:
        return ()  # a slice of a GPU needs AWS's GRID driver
    gpu = catalog.gpus[machine.gpu]
    return tuple(
        version
        for version, cuda in catalog.cuda.items()
        if runs_on(cuda.capabilities, gpu.capability)
        and any(
            driver.os in cuda.on
            and catalog.os_images[driver.os].architecture == machine.architecture
            and numbers(driver.version) >= numbers(catalog.min_driver(cuda))
            and not driver_problem(gpu, driver.version, driver.branch, driver.modules)
            and (driver.fabric_manager or not machine.fabric_manager)
            for driver in catalog.drivers
        )
    )


def read_filter(
    catalog: Catalog,
    *,
    gpu: str | None = None,
    count: int = 0,
    cuda: str | None = None,
    min_memory: str | None = None,
    max_price: str | None = None,
    offered: bool = False,
    retired: bool = False,
    only: Iterable[str] | None = None,
    order: str = "price",
) -> Filter:
    """Read the options of a command line. Raises RequestError for unknown values."""
    if order not in ORDERS:
        hint = f"Give one of {', '.join(ORDERS)}"
        raise RequestError(f"Invalid --sort {order}", hint=hint)
    if count < 0:
        raise RequestError(f"Invalid --count {count}: it is a number of GPUs, like 1")
    if cuda is not None and cuda not in catalog.cuda:
        raise RequestError(f"unknown CUDA version: {cuda}", hint=nearest(cuda, catalog.cuda))
    words = [word for word in re.split(r"\s*,\s*", (gpu or "").strip()) if word]
    return Filter(
        gpus=tuple(_find_gpu(catalog, word).name for word in words),
        count=count or None,
        cuda=cuda,
        min_memory_gb=_read_number("--min-memory", min_memory, "24") or 0,
        max_usd=_read_number("--max-price", max_price, "1.50"),
        offered=offered,
        retired=retired,
        only=None if only is None else frozenset(only),
        order=order,
    )


def narrow_filter(wanted: Filter, names: Iterable[str]) -> Filter:
    """Return the filter, restricted to these machines."""
    names = frozenset(names)
    return replace(wanted, only=names if wanted.only is None else wanted.only & names)


def types_for_recipe(resolved: Resolved) -> list[str]:
    """List the instance types on which a recipe can be baked and used.

    IncompatibleError if there is none.
    """
    machines = resolved.catalog.instance_types.values()
    found = [each.name for each in machines if not check(replace(resolved, machines=(each,)))]
    if not found:
        refuse_incompatible(resolved)
    return found


def types_for_image(catalog: Catalog, image: Image) -> list[str]:
    """Return the types on which an image works, by its tags."""
    contents = fit.read_contents(catalog, image.tags, image.architecture)
    return [machine.name for machine in fit.fitting_types(catalog, contents)]


def select_types(catalog: Catalog, wanted: Filter) -> list[InstanceType]:
    """Return the types that match the filter, as far as the catalog knows them."""
    return [
        machine
        for machine in catalog.instance_types.values()
        if (wanted.retired or not machine.retired)
        and (not wanted.gpus or machine.gpu in wanted.gpus)
        and wanted.count in (None, machine.gpus)
        and memory_gb(machine) >= wanted.min_memory_gb
        and (wanted.only is None or machine.name in wanted.only)
        and (wanted.cuda is None or wanted.cuda in cuda_versions(catalog, machine))
    ]


def survey(cloud: Cloud, catalog: Catalog, wanted: Filter) -> Survey:
    """Return the offers for the filter, in its order, with all requests at the same time."""
    machines = select_types(catalog, wanted)
    if not machines:
        return Survey(())
    names = [machine.name for machine in machines]
    codes = {code: m for n in names for m in MARKETS if (code := quota_code(n, m))}
    (zones, refused), quotas, by_type, by_zone = together(
        partial(_zones, cloud, names),
        partial(read_quotas, cloud, codes),
        partial(on_demand, cloud, names),
        partial(spot_by_zone, cloud, names),
    )
    offers = [
        Offer(
            machine=machine,
            cuda=cuda_versions(catalog, machine),
            zones=None if zones is None else tuple(sorted(zones[machine.name])),
            left={market: _machines_left(machine, market, quotas) for market in MARKETS},
            on_demand=by_type[machine.name],
            spot=by_zone[machine.name],
        )
        for machine in machines
    ]
    # The quota of machines that the region does not offer may not exist either.
    offered_codes = {
        quota_code(offer.machine.name, m) for offer in offers if offer.zones != () for m in MARKETS
    }
    relevant = [quotas[code] for code in codes if code in offered_codes]
    return Survey(
        tuple(sorted((o for o in offers if _meets_filter(o, wanted)), key=ORDERS[wanted.order])),
        quotas,
        (
            *refused,
            *(each for each in relevant if isinstance(each, CloudError)),
            *price_errors(cloud),
        ),
        frozenset(
            market
            for market, service in _PRICES.items()
            if service not in unanswered_services(cloud)
        ),
    )


def _meets_filter(offer: Offer, wanted: Filter) -> bool:
    if wanted.offered and offer.zones is not None and not offer.zones:
        return False
    if wanted.max_usd is None:
        return True
    return offer.cheapest is not None and offer.cheapest <= wanted.max_usd


# The cheapest, the largest or the oldest first; unknown values come last.
_LAST = float("inf")
ORDERS: Mapping[str, Callable[[Offer], Any]] = {
    "price": lambda offer: _LAST if offer.on_demand is None else offer.on_demand,
    "spot": lambda offer: _LAST if offer.cheapest_spot is None else offer.cheapest_spot,
    "memory": lambda offer: -memory_gb(offer.machine) * max(offer.machine.gpus, 1),
    "gpu": lambda offer: (numbers(offer.machine.capability), offer.machine.gpu),
    "left": lambda offer: -max(left or 0 for left in offer.left.values()),
    "type": lambda offer: (offer.machine.family, offer.machine.vcpus),
}


def exhausted_quotas(found: Survey) -> list[tuple[Quota, Market, InstanceType]]:
    """Return the quotas that allow none of the machines, each with its smallest machine.

    A machine without a working CUDA version is named only if no other one is left.
    """
    smallest: dict[str, tuple[Quota, Market, InstanceType]] = {}
    offers = [offer for offer in found.offers if offer.zones != ()]
    for offer in sorted(offers, key=lambda offer: (not offer.cuda, offer.machine.vcpus)):
        for market in MARKETS:
            code = quota_code(offer.machine.name, market) or ""
            quota = found.quotas.get(code)
            if isinstance(quota, Quota):
                smallest.setdefault(code, (quota, market, offer.machine))
    return [each for each in smallest.values() if each[0].free < each[2].vcpus]


def _find_gpu(catalog: Catalog, word: str) -> Gpu:
    known = {_normalized(name): gpu for name, gpu in catalog.gpus.items()}
    if _normalized(word) not in known:
        hint = nearest(word.upper(), catalog.gpus)
        raise RequestError(f"unknown GPU: {word}", hint=hint)
    return known[_normalized(word)]


def _normalized(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _read_number(option: str, text: str | None, example: str) -> float | None:
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text):
        raise RequestError(f"Invalid {option} {text}: it is a number, like {example}")
    return float(text)


def _zones(
    cloud: Cloud, names: Sequence[str]
) -> tuple[Mapping[str, set[str]] | None, tuple[CloudError, ...]]:
    try:
        return offered_zones(cloud, names), ()
    except CloudError as error:
        return None, (error,)


def _machines_left(
    machine: InstanceType, market: Market, quotas: Mapping[str, Quota | CloudError]
) -> int | None:
    quota = quotas.get(quota_code(machine.name, market) or "")
    return max(0, quota.free) // machine.vcpus if isinstance(quota, Quota) else None


def find_type(catalog: Catalog, word: str) -> InstanceType | None:
    """Return the type of that name, or the smallest of that family; None for an unknown name."""
    family = [each for each in catalog.instance_types.values() if each.family == word]
    if family:
        return min(family, key=lambda each: each.vcpus)
    return catalog.instance_types.get(word)


def find_type_of_region(cloud: Cloud, catalog: Catalog, word: str) -> InstanceType:
    """Return the same for a name that is not in the catalog, as EC2 describes it.

    Raises RequestError if the region does not offer it.
    """
    described = describe_types(cloud, [word if "." in word else f"{word}.*"])
    if found := find_type(add_types(catalog, described.values()), word):
        return found
    families = dict.fromkeys(each.family for each in catalog.instance_types.values())
    hint = nearest(word, catalog.instance_types if "." in word else families)
    raise RequestError(f"{cloud.region} offers no instance type or family {word}", hint=hint)


def quota_codes(machine: InstanceType | None, *, spot: bool) -> dict[str, Market]:
    """Return the codes of the quotas that count this machine, or of all GPU quotas for None."""
    if machine is None:
        found = gpu_quotas()
    else:
        found = {code: m for m in MARKETS if (code := quota_code(machine.name, m))}
    return {code: market for code, market in found.items() if market == "spot" or not spot}


def quota_code_to_raise(machine: InstanceType, vcpus: int, again: str, *, spot: bool) -> str:
    """Return the code of the quota to raise.

    Raises RequestError for a value that would not allow a single machine. `again` is the command
    without the value, for the hint.
    """
    if vcpus < machine.vcpus:
        raise RequestError(
            f"Quotas are in vCPUs, and one {machine.name} has {machine.vcpus}: "
            f"{vcpus} would allow none",
            hint=f"{again} --raise {machine.vcpus}",
        )
    code = quota_code(machine.name, "spot" if spot else "on-demand")
    if code is None:
        raise RequestError(
            f"The quota for {machine.family} machines on the spot market is unknown",
            hint="Request it in the Service Quotas console (AWS services, Amazon EC2, All … Spot)",
        )
    return code


def describe_vcpus(vcpus: int, machine: InstanceType) -> str:
    return f"{vcpus} vCPUs ({vcpus // machine.vcpus} × {machine.name})"
