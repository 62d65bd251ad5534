"""What things cost here, in USD. A price that cannot be had is None, and no error.

On-demand machines, volumes and snapshots by the Price List API, whose products are JSON documents:
https://docs.aws.amazon.com/awsaccountbilling/latest/aboutv2/reading-service-price-list-file-for-services.html
Spot machines by EC2's own history of prices. Each is asked once, for all bakes of one process.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from bake import json_text
from bake.aws.market import Placement
from bake.aws.session import Cloud, pages
from bake.errors import CloudError

T = TypeVar("T")
Price = float | None

_LINUX = "Linux/UNIX"
# Before the colon stands the region's short name and a hyphen, in us-east-1 nothing. What ends in
# .outposts is a machine of one's own, and what is called Archive another kind of snapshot.
_SNAPSHOT = re.compile(r"(.+-)?EBS:SnapshotUsage")
_VOLUME = re.compile(r"(.+-)?EBS:VolumeUsage\.gp3")


@dataclass
class _Known:
    """What one session was told; its lock is held while AWS is asked, so that nobody asks twice."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    answers: dict[Hashable, Price] = field(default_factory=dict)
    refusals: dict[str, CloudError] = field(default_factory=dict)


# What reading a document of another form than AWS describes may end with.
_ILLEGIBLE = (
    ArithmeticError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)

_known: WeakKeyDictionary[Any, _Known] = WeakKeyDictionary()


def prices(cloud: Cloud, placements: Iterable[Placement]) -> dict[Placement, Price]:
    """USD per hour of each machine, in its market."""
    wanted = list(placements)
    on_spot = spot(cloud, [place for place in wanted if place.market == "spot"])
    on_order = on_demand(cloud, [p.instance_type for p in wanted if p.market == "on-demand"])
    return {
        place: on_spot[place] if place.market == "spot" else on_order[place.instance_type]
        for place in wanted
    }


def on_demand(cloud: Cloud, instance_types: Iterable[str]) -> dict[str, Price]:
    """USD per hour of a Linux machine without other licences, on shared hardware."""
    return {
        name: _product(
            cloud,
            "Hrs",
            lambda attributes: (
                # Without it: what is reserved, for Capacity Blocks, or has a licence in its price.
                attributes.get("operation") == "RunInstances"
                and attributes.get("marketoption", "OnDemand") == "OnDemand"
            ),
            instanceType=name,
            operatingSystem="Linux",
            tenancy="Shared",
            preInstalledSw="NA",
            capacitystatus="Used",
        )
        for name in dict.fromkeys(instance_types)
    }


def spot(cloud: Cloud, placements: Iterable[Placement]) -> dict[Placement, Price]:
    """USD per hour, now, of a spot machine of this type in this zone."""
    wanted = list(placements)
    known = _of(cloud)
    with known.lock:
        new = {(p.instance_type, p.zone) for p in wanted if _spot_key(p) not in known.answers}
        if new:
            types = sorted({instance_type for instance_type, _ in new})
            newest = _asked(known, "ec2", lambda: _spot_history(cloud, types)) or {}
            known.answers.update({("spot", *key): newest.get(key) for key in new | newest.keys()})
        return {place: known.answers[_spot_key(place)] for place in wanted}


def snapshot_price(cloud: Cloud) -> Price:
    """USD per GB and month, of those blocks that no older snapshot of the volume holds."""
    return _storage(cloud, "Storage Snapshot", _SNAPSHOT)


def volume_price(cloud: Cloud) -> Price:
    """USD per GB and month of gp3, with the IOPS and the throughput that it has for nothing."""
    return _storage(cloud, "Storage", _VOLUME, volumeApiName="gp3")


def refusals(cloud: Cloud) -> list[CloudError]:
    """Why prices are not known: what AWS refused, or could not be asked."""
    return list(_of(cloud).refusals.values())


def _storage(cloud: Cloud, family: str, usage: re.Pattern[str], **terms: str) -> Price:
    return _product(
        cloud,
        "GB-Mo",
        lambda attributes: bool(usage.fullmatch(attributes.get("usagetype", ""))),
        productFamily=family,
        **terms,
    )


def _product(
    cloud: Cloud, unit: str, wanted: Callable[[Mapping[str, str]], bool], **terms: str
) -> Price:
    """The price per `unit` of the one product of EC2 in this region with these attributes."""
    known, key = _of(cloud), (cloud.region, *sorted(terms.items()))
    with known.lock:
        if key not in known.answers:
            found = _asked(
                known,
                "pricing",
                lambda: [
                    usd
                    for document in _products(cloud, {"regionCode": cloud.region, **terms})
                    if wanted(document.get("product", {}).get("attributes", {}))
                    for usd in _on_demand_usd(document, unit)
                ],
            )
            known.answers[key] = max(found or (), default=None)
        return known.answers[key]


def _products(cloud: Cloud, terms: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    filters = [
        {"Type": "TERM_MATCH", "Field": name, "Value": value} for name, value in terms.items()
    ]
    request = {"ServiceCode": "AmazonEC2", "FormatVersion": "aws_v1", "Filters": filters}
    for text in pages(cloud.pricing, "GetProducts", "PriceList", **request):
        yield json_text.read(text)


def _on_demand_usd(document: Mapping[str, Any], unit: str) -> Iterator[float]:
    """Nothing for a product that is only to be reserved, or is not sold in USD (China)."""
    for term in document.get("terms", {}).get("OnDemand", {}).values():
        for dimension in term["priceDimensions"].values():
            if dimension["unit"] == unit and "USD" in dimension["pricePerUnit"]:
                yield float(dimension["pricePerUnit"]["USD"])


def _spot_history(cloud: Cloud, types: list[str]) -> dict[tuple[str, str], float]:
    """From now on, which is the last change before now: "the effective price as of the start"."""
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


def _spot_key(place: Placement) -> Hashable:
    return ("spot", place.instance_type, place.zone)


def _asked(known: _Known, service: str, ask: Callable[[], T]) -> T | None:
    """None where the service has refused; it is not asked a second time then."""
    if service in known.refusals:
        return None
    try:
        return ask()
    except CloudError as error:
        known.refusals[service] = error
    except _ILLEGIBLE as error:
        reason = f"{type(error).__name__}: {error}"
        known.refusals[service] = CloudError(f"{service}'s prices cannot be read", reason=reason)
    return None


def _of(cloud: Cloud) -> _Known:
    return _known.setdefault(cloud.session, _Known())
