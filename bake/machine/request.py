"""A request for a machine, and the placements in which it can be launched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import get_args

from bake import catalog
from bake.aws.client.session import Cloud
from bake.aws.image import Image
from bake.aws.instance_type import with_types
from bake.aws.placement import Market, Placement, cheapest_first
from bake.aws.placement_search import PlacementSearch, find_placements
from bake.aws.price import price_errors, prices
from bake.aws.reservation import Reservation, find_reservation
from bake.aws.tags import rfc3339
from bake.catalog import Catalog
from bake.console.console import Console
from bake.errors import Finding, PreflightError, RequestError
from bake.machine import fit
from bake.machine.lifetime import Lifetime
from bake.threads import together


@dataclass(frozen=True)
class LaunchRequest:
    """A request for a machine. A value that is empty or None is chosen or created.

    `instance_types` and `markets` are in order of preference: each type in each zone in the first
    market, then all of them in the next one. `cheapest` sorts them by price per GPU and hour
    instead. `gpus` is the number of GPUs when no type is named. `via` is "ssm" for a machine
    without a public address that is reached by Session Manager, whose agent on the machine needs
    the permissions of an `instance_profile`. `unchecked` accepts what the catalog does not know.
    `used_by` is the command that launches the machine for itself; it is empty for a user's machine.
    """

    instance_types: tuple[str, ...] = ()
    markets: tuple[Market, ...] = ()
    cheapest: bool = False
    gpus: int | None = None
    reservation_id: str | None = None
    subnet_id: str | None = None
    disk_gb: int | None = None
    key: str | None = None
    name: str | None = None
    lifetime: Lifetime = field(default_factory=Lifetime)
    via: str | None = None
    instance_profile: str | None = None
    unchecked: bool = False
    used_by: str = ""


def read_types(words: str | None) -> tuple[str, ...]:
    """Read a list separated by commas, without duplicates. RequestError for one without words."""
    found = tuple(dict.fromkeys((words or "").replace(",", " ").split()))
    if words is not None and not found:
        raise RequestError(f"This list is empty: {words!r}", hint="Leave it out, or name something")
    return found


def read_markets(words: str | None, *, spot: bool) -> tuple[Market, ...]:
    """Read a list of markets; `spot` stands for `spot` alone. Raises RequestError for others."""
    if spot and words:
        raise RequestError(
            "--spot is short for --market spot", hint="Give one of them, or --market spot,on-demand"
        )
    named = ("spot",) if spot else read_types(words)
    if unknown := [word for word in named if word not in get_args(Market)]:
        raise RequestError(
            f"Unknown market: {', '.join(unknown)}",
            hint="--market takes spot, on-demand, or both in the order in which they are tried",
        )
    return named  # type: ignore[return-value]


def choose_placements(
    cloud: Cloud, image: Image, request: LaunchRequest, usual: Sequence[str], console: Console
) -> list[Placement]:
    """Return the placements to try, in order; nothing is started yet.

    Raises RequestError when the image does not work on the requested types, or when none of them
    is offered.
    """
    _check_combination(request)
    contents = fit.read_contents(catalog.load(), image.tags, image.architecture)
    reserved = find_reservation(cloud, request.reservation_id) if request.reservation_id else None
    named = _named_types(request, reserved)
    if reserved and reserved.block and reserved.ends_at:
        console.note(
            f"  {reserved.reservation_id} ends at {rfc3339(reserved.ends_at)}: half an hour before "
            "it EC2 terminates the machine, with its disk"
        )
    known = with_types(cloud, catalog.load(), (*named, *usual))
    for warning in fit.check_types(known, contents, named, unchecked=request.unchecked):
        console.warn(str(warning))
    if request.cheapest and contents.uses_gpu:
        usual = ()  # all types on which the image works
    types = named or fit.default_types(known, contents, usual, request.gpus)
    if not types:
        gpus = f" with {request.gpus} GPUs" if request.gpus and contents.known else ""
        raise RequestError(
            f"No instance type given, and no type{gpus} is known on which {image.image_id} works",
            hint="Name instance types: --instance-type g4dn.xlarge,g4dn.2xlarge, or m7i.large for "
            "an image that needs no GPU",
        )
    placements, problems = _search(cloud, image, request, types, reserved)
    if not placements:
        raise PreflightError(f"No machine can be started in {cloud.region}", findings=problems)
    for message in dict.fromkeys(each.message for each in problems) if named else ():
        console.note(f"  {message}")
    return _by_price(cloud, known, placements, console) if request.cheapest else placements


def _search(
    cloud: Cloud,
    image: Image,
    request: LaunchRequest,
    types: Sequence[str],
    reserved: Reservation | None,
) -> tuple[list[Placement], list[Finding]]:
    """Search all markets at the same time; return the placements, and what excludes others."""
    markets = request.markets or (("spot", "on-demand") if request.cheapest else ("on-demand",))
    searches: list[PlacementSearch] = together(
        *(
            partial(
                find_placements,
                cloud,
                types,
                market=market,
                image=image,
                subnet_id=request.subnet_id,
                reservation=reserved,
            )
            for market in markets
        )
    )
    problems = [replace(each, place="") for search in searches for each in search.findings]
    placements = [each for search in searches for each in search.placements]
    return placements, list(dict.fromkeys(problems))


def _named_types(request: LaunchRequest, reserved: Reservation | None) -> tuple[str, ...]:
    if reserved is None:
        return request.instance_types
    if request.instance_types not in ((), (reserved.instance_type,)):
        raise RequestError(
            f"The reservation {reserved.reservation_id} is for a {reserved.instance_type}",
            hint="Leave out --instance-type",
        )
    return (reserved.instance_type,)


def _check_combination(request: LaunchRequest) -> None:
    if request.reservation_id and (request.cheapest or "spot" in request.markets):
        raise RequestError(
            "A reservation is for one type in one zone, on demand, so nothing can be chosen",
            hint="Leave out --cheapest, --spot and --market, or --reservation",
        )
    if request.gpus is not None and (request.gpus < 1 or request.instance_types):
        raise RequestError(
            "--gpus is the number of GPUs of a machine, and excludes --instance-type",
            hint="Give 1 or more, and leave out one of the two",
        )


def _by_price(
    cloud: Cloud, known: Catalog, places: Sequence[Placement], console: Console
) -> list[Placement]:
    usd = prices(cloud, places)
    gpus = {name: max(1, machine.gpus) for name, machine in known.instance_types.items()}
    offers = {(place.instance_type, place.market) for place in places}
    priced = {(place.instance_type, place.market) for place in places if usd[place] is not None}
    if unknown := sorted(offers - priced):
        which = ", ".join(f"{name} ({market})" for name, market in unknown)
        why = "".join(f"; {error.message}: {error.code}" for error in price_errors(cloud))
        console.note(f"  No price is known for {which}: tried last{why}")
    return cheapest_first(places, usd, gpus)
