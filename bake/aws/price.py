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

from bake import files
from bake.aws.client.session import Cloud, pages
from bake.aws.placement import Placement
from bake.errors import CloudError

T = TypeVar("T")
Price = float | None

_LINUX = "Linux/UNIX"
# Before the colon stands the region's short name and a hyphen, in us-east-1 nothing. What ends in
# .outposts is a machine of one's own, and what is called Archive another kind of snapshot.
_SNAPSHOT = re.compile(r"(.+-)?EBS:SnapshotUsage")
_VOLUME = r"(.+-)?EBS:VolumeUsage\.{kind}"
# Those whose gigabytes are all that they cost; of io1 and io2 IOPS are most of the price.
_KINDS = {"gp2", "gp3", "sc1", "st1"}
# GetProducts, "Filter": the longest value. Several in one are for ANY_OF, with commas.
_LONGEST = 1024


@dataclass
class _Known:
    """What one session was told; its lock is held while AWS is asked, so that nobody asks twice."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    answers: dict[Hashable, Price] = field(default_factory=dict)
    spot: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)
    errors: dict[str, CloudError] = field(default_factory=dict)


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
    wanted = list(dict.fromkeys(instance_types))
    known = _of(cloud)
    with known.lock:
        new = [name for name in wanted if (cloud.region, name) not in known.answers]
        if new:
            found = _asked(known, "pricing", lambda: _machines(cloud, new)) or {}
            known.answers.update({(cloud.region, name): found.get(name) for name in new})
        return {name: known.answers[cloud.region, name] for name in wanted}


def spot(cloud: Cloud, placements: Iterable[Placement]) -> dict[Placement, Price]:
    """USD per hour, now, of a spot machine of this type in this zone."""
    wanted = list(placements)
    found = spot_by_zone(cloud, {place.instance_type for place in wanted})
    return {place: found[place.instance_type].get(place.zone) for place in wanted}


def spot_by_zone(cloud: Cloud, instance_types: Iterable[str]) -> dict[str, dict[str, float]]:
    """USD per hour, now, of each type in each zone that has it on the spot market."""
    wanted = sorted(set(instance_types))
    known = _of(cloud)
    with known.lock:
        new = [name for name in wanted if (cloud.region, name) not in known.spot]
        if new:
            known.spot.update({(cloud.region, name): {} for name in new})
            for (name, zone), usd in (
                _asked(known, "ec2", lambda: _spot_history(cloud, new)) or {}
            ).items():
                known.spot.setdefault((cloud.region, name), {})[zone] = usd
        return {name: dict(known.spot[cloud.region, name]) for name in wanted}


def snapshot_price(cloud: Cloud) -> Price:
    """USD per GB and month, of those blocks that no older snapshot of the volume holds."""
    return _storage(cloud, "Storage Snapshot", _SNAPSHOT)


def volume_price(cloud: Cloud, kind: str = "gp3") -> Price:
    """USD per GB and month, with the IOPS and the throughput that a volume has for nothing.

    None for a kind whose price is more than its gigabytes.
    """
    if kind not in _KINDS:
        return None
    usage = re.compile(_VOLUME.format(kind=kind))
    return _storage(cloud, "Storage", usage, volumeApiName=kind)


def price_errors(cloud: Cloud) -> list[CloudError]:
    """Why prices are not known: what AWS refused, or could not be asked."""
    return list(_of(cloud).errors.values())


def unanswered_services(cloud: Cloud) -> frozenset[str]:
    """Those of `pricing` and `ec2` (the spot market) that have not answered."""
    return frozenset(_of(cloud).errors)


def _storage(cloud: Cloud, family: str, usage: re.Pattern[str], **terms: str) -> Price:
    """The price per GB and month of the one product with this usage in this region."""
    terms = {"productFamily": family, **terms}
    known, key = _of(cloud), (cloud.region, *sorted(terms.items()))
    with known.lock:
        if key not in known.answers:
            found = _asked(
                known,
                "pricing",
                lambda: [
                    usd
                    for attributes, usd in _offers(cloud, "GB-Mo", **terms)
                    if usage.fullmatch(attributes.get("usagetype", ""))
                ],
            )
            known.answers[key] = max(found or (), default=None)
        return known.answers[key]


def _machines(cloud: Cloud, names: Iterable[str]) -> dict[str, float]:
    """All of them in as few calls as the length of a filter allows."""
    found: dict[str, float] = {}
    for some in _in_pieces(names):
        for attributes, usd in _offers(
            cloud,
            "Hrs",
            instanceType=some,
            operatingSystem="Linux",
            tenancy="Shared",
            preInstalledSw="NA",
            capacitystatus="Used",
        ):
            # Without these: what is reserved, for Capacity Blocks, or has a licence in its price.
            if attributes.get("operation") != "RunInstances":
                continue
            if attributes.get("marketoption", "OnDemand") == "OnDemand":
                name = attributes["instanceType"]
                found[name] = max(usd, found.get(name, 0))
    return found


def _in_pieces(names: Iterable[str]) -> Iterator[str]:
    piece = ""
    for name in names:
        if len(piece) + len(name) + 1 > _LONGEST:
            yield piece
            piece = ""
        piece += f",{name}" if piece else name
    if piece:
        yield piece


def _offers(cloud: Cloud, unit: str, **terms: str) -> Iterator[tuple[Mapping[str, str], float]]:
    """Attributes and USD of each product of EC2 in this region that is sold so; `a,b`: any."""
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


def _asked(known: _Known, service: str, ask: Callable[[], T]) -> T | None:
    """None where the service has refused; it is not asked a second time then."""
    if service in known.errors:
        return None
    try:
        return ask()
    except CloudError as error:
        known.errors[service] = error
    except _ILLEGIBLE as error:
        reason = f"{type(error).__name__}: {error}"
        known.errors[service] = CloudError(f"{service}'s prices cannot be read", reason=reason)
    return None


def _of(cloud: Cloud) -> _Known:
    return _known.setdefault(cloud.session, _Known())
