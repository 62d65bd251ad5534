"""Reaping: a bake removes what dead runs of its recipe have left, `invoke reap` what all have."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from bake.aws.client.session import Cloud, enabled_regions
from bake.aws.orphans import Orphan
from bake.aws.price import prices, snapshot_price, volume_price
from bake.aws.reap import Removal, find_orphans, remove_orphans
from bake.console.console import Console
from bake.errors import BakeError, CloudError, RequestError
from bake.pipeline.job import Context, Job
from bake.threads import TaskGroup

_HOURS_A_MONTH = 730


@dataclass(frozen=True)
class Reaped:
    """One region. `removals` is None where nothing was to be removed; `usd` costs a month, by what
    it is for. `error`: why it could not be looked at, or what is left of it."""

    region: str
    at: datetime
    remains: Sequence[Orphan] = ()
    usd: dict[Orphan, float | None] = field(default_factory=dict)
    removals: Sequence[Removal] | None = None
    error: BakeError | None = None


def reap_own(context: Context, job: Job, dead: frozenset[str]) -> None:
    """What dead runs of the recipe have left, before this one starts a machine. Never raises what a
    bake would have to end for. `dead` are those from which it has taken over."""
    cloud, console = context.cloud, context.console
    try:
        remains = find_orphans(cloud, recipe=job.recipe.name, dead=dead, leases=False)
        if not remains:
            return
        removals = _remove(cloud, console, remains)
    except BakeError as error:
        console.warn(f"What dead runs have left is still there: {error.message} ({error.code})")
        return
    for removal in removals:
        if removal.leftover:
            console.warn(str(removal.leftover))


def regions_of(
    cloud: Cloud, asked: str | None, everywhere: bool, usual: Iterable[str]
) -> list[str]:
    """Those that are asked for, with commas; or all that the account has; or `usual` ones.

    RequestError for what is no region of this account.
    """
    if everywhere and asked:
        raise RequestError("--all-regions means all of them", hint="Leave out --region")
    wanted = sorted({*(asked or "").replace(",", " ").split()} or {cloud.region, *usual})
    if not everywhere and wanted == [cloud.region]:
        return wanted
    known = enabled_regions(cloud)
    for name in () if everywhere else wanted:
        if name not in known:
            near = " or ".join(difflib.get_close_matches(name, known))
            raise RequestError(
                f"This account has no region {name}", hint=f"Is it {near}?" if near else ""
            )
    return known if everywhere else wanted


def reap(
    cloud: Cloud, regions: Sequence[str], console: Console, *, recipe: str | None, act: bool
) -> list[Reaped]:
    """Each region, all at the same time; one that refuses does not keep the others."""
    with TaskGroup[str, Reaped]() as group:
        for region in regions:
            there = cloud if region == cloud.region else cloud.in_region(region)
            mine = console.named(region) if len(regions) > 1 else console
            group.start(region, partial(_reap_one, there, mine, recipe, act))
        done = dict(group.next() for _ in regions)
    return [done[region] for region in regions]


def _reap_one(cloud: Cloud, console: Console, recipe: str | None, act: bool) -> Reaped:
    try:
        remains = find_orphans(cloud, recipe=recipe)
        usd = _usd_a_month(cloud, remains)
        if not act or not remains:
            return Reaped(cloud.region, cloud.now(), remains, usd, [] if act else None)
        removals = _remove(cloud, console, remains)
    except BakeError as error:
        return Reaped(cloud.region, cloud.now(), error=error)
    left = [str(removal.leftover) for removal in removals if removal.leftover]
    stays = CloudError(
        f"Not all that runs have left in {cloud.region} could be removed",
        hint="Run the commands above, or this one again",
        details=left,
    )
    return Reaped(cloud.region, cloud.now(), remains, usd, removals, stays if left else None)


def _remove(cloud: Cloud, console: Console, remains: Sequence[Orphan]) -> list[Removal]:
    with console.step("Reaping") as step:
        removals = remove_orphans(cloud, remains, on_kind=step.update)
        step.done(_said(removal.orphan for removal in removals if not removal.leftover))
    return removals


def _usd_a_month(cloud: Cloud, remains: Sequence[Orphan]) -> dict[Orphan, float | None]:
    """None where a price is not known."""
    hourly = prices(cloud, [each.placement for each in remains if each.placement])

    def usd(each: Orphan) -> float | None:
        if each.placement:
            price, amount = hourly[each.placement], _HOURS_A_MONTH
        elif each.gb:
            price = volume_price(cloud) if each.kind == "volume" else snapshot_price(cloud)
            amount = each.gb
        else:
            return 0.0
        return None if price is None else price * amount

    return {each: usd(each) for each in remains}


def _said(remains: Iterable[Orphan]) -> str:
    """`1 machine, 2 key pairs`."""
    counts = Counter(each.kind for each in remains)
    return ", ".join(f"{n} {kind}{'s' if n > 1 else ''}" for kind, n in counts.items())


# For people and programs ----------------------------------------------------------------------
