"""Prices in a region, in USD. An unknown price is None, not an error.

Prices of on-demand machines, volumes and snapshots come from the Price List API as JSON documents:
https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/reading-service-price-list-file-for-services.html
Spot prices come from EC2's price history. Each price is requested once for all bakes of a process.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from bake import files
from bake.aws.client.session import Cloud, pages
from bake.aws.placement import Placement
from bake.errors import CloudError

T = TypeVar("T")
Price = float | None

_LINUX = "Linux/UNIX"
# A short name of the region and a hyphen come first, except in us-east-1. A usage type that ends in
# .outposts is for hardware at the customer's site, and Archive is another kind of snapshot.
_SNAPSHOT = re.compile(r"(.+-)?EBS:SnapshotUsage")
_VOLUME = r"(.+-)?EBS:VolumeUsage\.{kind}"
# Volumes that are charged by size alone; for io1 and io2 most of the price is for IOPS.
_KINDS = {"gp2", "gp3", "sc1", "st1"}
# GetProducts, "Filter": the longest value. ANY_OF takes several values, separated by commas.
_LONGEST = 1024


@dataclass
class _PriceCache:
    """The known prices of one session. A request holds the lock, so that none is repeated."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    prices: dict[Hashable, Price] = field(default_factory=dict)
    spot: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)
    errors: dict[str, CloudError] = field(default_factory=dict)


# Errors of reading a document whose form differs from AWS's documentation.
_UNREADABLE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)

_caches: WeakKeyDictionary[Any, _PriceCache] = WeakKeyDictionary()


def prices(cloud: Cloud, placements: Iterable[Placement]) -> dict[Placement, Price]:
    """Return USD per hour of a machine in each placement."""
    wanted = list(placements)
    on_spot = spot(cloud, [place for place in wanted if place.market == "spot"])
    on_order = on_demand(cloud, [p.instance_type for p in wanted if p.market == "on-demand"])
    return {
        place: on_spot[place] if place.market == "spot" else on_order[place.instance_type]
        for place in wanted
    }


def on_demand(cloud: Cloud, instance_types: Iterable[str]) -> dict[str, Price]:
    """Return USD per hour of each type: Linux without other licences, on shared hardware."""
    wanted = list(dict.fromkeys(instance_types))
    cache = _cache_of(cloud)
    with cache.lock:
        new = [name for name in wanted if (cloud.region, name) not in cache.prices]
        if new:
            found = _request(cache, "pricing", lambda: _machines(cloud, new)) or {}
            cache.prices.update({(cloud.region, name): found.get(name) for name in new})
        return {name: cache.prices[cloud.region, name] for name in wanted}


def spot(cloud: Cloud, placements: Iterable[Placement]) -> dict[Placement, Price]:
    """Return the current USD per hour of a spot machine in each placement."""
    wanted = list(placements)
    found = spot_by_zone(cloud, {place.instance_type for place in wanted})
    return {place: found[place.instance_type].get(place.zone) for place in wanted}


def spot_by_zone(cloud: Cloud, instance_types: Iterable[str]) -> dict[str, dict[str, float]]:
    """Return the current spot price of each type in each zone that offers it, in USD per hour."""
    wanted = sorted(set(instance_types))
    cache = _cache_of(cloud)
    with cache.lock:
        new = [name for name in wanted if (cloud.region, name) not in cache.spot]
        if new:
            cache.spot.update({(cloud.region, name): {} for name in new})
            for (name, zone), usd in (
                _request(cache, "ec2", lambda: _spot_history(cloud, new)) or {}
            ).items():
                cache.spot.setdefault((cloud.region, name), {})[zone] = usd
        return {name: dict(cache.spot[cloud.region, name]) for name in wanted}


def snapshot_price(cloud: Cloud) -> Price:
    """Return USD per GB and month, for the blocks that no older snapshot of the volume has."""
    return _storage(cloud, "Storage Snapshot", _SNAPSHOT)


def volume_price(cloud: Cloud, kind: str = "gp3") -> Price:
    """Return USD per GB and month, with the IOPS and throughput that are included.

    None for a kind of volume that is not charged by size alone.
    """
    if kind not in _KINDS:
        return None
    usage = re.compile(_VOLUME.format(kind=kind))
    return _storage(cloud, "Storage", usage, volumeApiName=kind)


def price_errors(cloud: Cloud) -> list[CloudError]:
    """Return why prices are unknown: the errors of the services that did not provide them."""
    return list(_cache_of(cloud).errors.values())


def unanswered_services(cloud: Cloud) -> frozenset[str]:
    """Return which of `pricing` and `ec2` (for spot prices) did not provide prices."""
    return frozenset(_cache_of(cloud).errors)


def _storage(cloud: Cloud, family: str, usage: re.Pattern[str], **terms: str) -> Price:
    """Return the price per GB and month of the product with this usage type in this region."""
    terms = {"productFamily": family, **terms}
    cache, key = _cache_of(cloud), (cloud.region, *sorted(terms.items()))
    with cache.lock:
        if key not in cache.prices:
            found = _request(
                cache,
                "pricing",
                lambda: [
                    usd
                    for attributes, usd in _offers(cloud, "GB-Mo", **terms)
                    if usage.fullmatch(attributes.get("usagetype", ""))
                ],
            )
            cache.prices[key] = max(found or (), default=None)
        return cache.prices[key]


def _machines(cloud: Cloud, names: Iterable[str]) -> dict[str, float]:
    """Return USD per hour of each type, in as few calls as the length of a filter allows."""
    found: dict[str, float] = {}
    for some in _filter_values(names):
        for attributes, usd in _offers(
            cloud,
            "Hrs",
            instanceType=some,
            operatingSystem="Linux",
            tenancy="Shared",
            preInstalledSw="NA",
            capacitystatus="Used",
        ):
            # Skip reserved capacity, Capacity Blocks, and prices that include a licence.
            if attributes.get("operation") != "RunInstances":
                continue
            if attributes.get("marketoption", "OnDemand") == "OnDemand":
                name = attributes["instanceType"]
                found[name] = max(usd, found.get(name, 0))
    return found


def _filter_values(names: Iterable[str]) -> Iterator[str]:
    piece = ""
    for name in names:
        if len(piece) + len(name) + 1 > _LONGEST:
            yield piece
            piece = ""
        piece += f",{name}" if piece else name
    if piece:
        yield piece


def _offers(cloud: Cloud, unit: str, **terms: str) -> Iterator[tuple[Mapping[str, str], float]]:
    """Yield the attributes and the price of each EC2 product in this region that has these terms.

    A value with commas matches any of its parts.
    """
    filters = [
        {"Type": "ANY_OF" if "," in value else "TERM_MATCH", "Field": name, "Value": value}
        for name, value in {"regionCode": cloud.region, **terms}.items()
    ]
    request = {"ServiceCode": "AmazonEC2", "FormatVersion": "aws_v1", "Filters": filters}
    for text in pages(cloud.pricing, "GetProducts", "PriceList", **request):
        document = files.parse_json(text)
        for usd in _on_demand_usd(document, unit):
            yield document.get("product", {}).get("attributes", {}), usd


def _on_demand_usd(document: Mapping[str, Any], unit: str) -> Iterator[float]:
    """Yield the on-demand prices; none for a product that is only reserved or not sold in USD."""
    for term in document.get("terms", {}).get("OnDemand", {}).values():
        for dimension in term["priceDimensions"].values():
            if dimension["unit"] == unit and "USD" in dimension["pricePerUnit"]:
                yield float(dimension["pricePerUnit"]["USD"])


def _spot_history(cloud: Cloud, types: list[str]) -> dict[tuple[str, str], float]:
    """Return the current price by type and zone.

    A history that starts now contains "the effective price as of the start". In China the prices
    are in yuan, so they are left out.
    """
    if cloud.partition == "aws-cn":
        return {}
    history = cloud.pages(
        "DescribeSpotPriceHistory",
        "SpotPriceHistory",
        InstanceTypes=types,
        ProductDescriptions=[_LINUX],
        StartTime=cloud.now(),
    )
    return {
        (entry["InstanceType"], entry["AvailabilityZone"]): float(entry["SpotPrice"])
        for entry in sorted(history, key=lambda entry: entry["Timestamp"])
    }


def _request(cache: _PriceCache, service: str, call: Callable[[], T]) -> T | None:
    """Return the result of `call`, or None after an error; the service is not called again."""
    if service in cache.errors:
        return None
    try:
        return call()
    except CloudError as error:
        cache.errors[service] = error
    except _UNREADABLE as error:
        reason = f"{type(error).__name__}: {error}"
        cache.errors[service] = CloudError(f"The prices of {service} cannot be read", reason=reason)
    return None


def _cache_of(cloud: Cloud) -> _PriceCache:
    return _caches.setdefault(cloud.session, _PriceCache())
