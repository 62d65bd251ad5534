"""Reaping: a bake removes what dead runs of its recipe have left, `invoke reap` what all have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

from bake.aws.client.session import Cloud, check_regions, enabled_regions
from bake.aws.orphans import Orphan
from bake.aws.price import prices, snapshot_price, volume_price
from bake.aws.reap import Removal, find_orphans, remove_orphans
from bake.console.console import Console
from bake.errors import BakeError, CloudError, RequestError
from bake.pipeline.job import Job
from bake.threads import TaskGroup

_HOURS_A_MONTH = 730


@dataclass(frozen=True)
class Reaped:
    """The result of one region.

    `usd` maps each orphaned resource to its cost per month, None if the price is not known.
    `removals` is None if nothing was to be removed. `error` says why the region could not be
    searched, or what is left in it.
    """

    region: str
    at: datetime
    remains: Sequence[Orphan] = ()
    usd: dict[Orphan, float | None] = field(default_factory=dict)
    removals: Sequence[Removal] | None = None
    error: BakeError | None = None


def reap_own(job: Job, dead: frozenset[str]) -> None:
    """Remove what dead runs of the job's recipe have left. A failure is only a warning.

    `dead` are the runs from which this one has taken the lease over.
    """
    try:
        orphans = find_orphans(job.cloud, recipe=job.recipe.name, dead=dead, leases=False)
        if not orphans:
            return
        removals = _remove(job.cloud, job.console, orphans)
    except BakeError as error:
        job.console.warn(
            f"What dead runs have left was not removed: {error.message} ({error.code})"
        )
        return
    for removal in removals:
        if removal.leftover:
            job.console.warn(str(removal.leftover))


def regions_of(
    cloud: Cloud, asked: str | None, everywhere: bool, usual: Iterable[str]
) -> list[str]:
    """Return the regions to search: those in `asked`, separated by commas, or all, or `usual`.

    RequestError for a region that this account does not have.
    """
    if everywhere and asked:
        raise RequestError("--all-regions means all of them", hint="Leave out --region")
    wanted = sorted({*(asked or "").replace(",", " ").split()} or {cloud.region, *usual})
    if not everywhere and wanted == [cloud.region]:
        return wanted
    if everywhere:
        return enabled_regions(cloud)
    check_regions(cloud, wanted)
    return wanted


def reap(
    cloud: Cloud, regions: Sequence[str], console: Console, *, recipe: str | None, act: bool
) -> list[Reaped]:
    """Search all regions at the same time, and with `act` remove what is found.

    A failure in one region does not stop the others.
    """
    with TaskGroup[str, Reaped]() as group:
        for region in regions:
            its_cloud = cloud if region == cloud.region else cloud.in_region(region)
            its_console = console.named(region) if len(regions) > 1 else console
            group.start(region, partial(_reap_one, its_cloud, its_console, recipe, act))
        done = dict(group.next() for _ in regions)
    return [done[region] for region in regions]


def _reap_one(cloud: Cloud, console: Console, recipe: str | None, act: bool) -> Reaped:
    try:
        orphans = find_orphans(cloud, recipe=recipe)
        usd = _usd_a_month(cloud, orphans)
        if not act or not orphans:
            return Reaped(cloud.region, cloud.now(), orphans, usd, [] if act else None)
        removals = _remove(cloud, console, orphans)
    except BakeError as error:
        return Reaped(cloud.region, cloud.now(), error=error)
    left = [str(removal.leftover) for removal in removals if removal.leftover]
    failure = CloudError(
        f"Not all that runs have left in {cloud.region} could be removed",
        hint="Run the commands above, or this one again",
        details=left,
    )
    return Reaped(cloud.region, cloud.now(), orphans, usd, removals, failure if left else None)


def _remove(cloud: Cloud, console: Console, orphans: Sequence[Orphan]) -> list[Removal]:
    with console.step("Reaping") as step:
        removals = remove_orphans(cloud, orphans, on_kind=step.update)
        step.done(counted(removal.orphan.kind for removal in removals if not removal.leftover))
    return removals


def _usd_a_month(cloud: Cloud, orphans: Sequence[Orphan]) -> dict[Orphan, float | None]:
    """Return the cost of each orphaned resource per month; None if the price is not known."""
    hourly = prices(cloud, [each.placement for each in orphans if each.placement])

    def usd(each: Orphan) -> float | None:
        if each.placement:
            price, amount = hourly[each.placement], _HOURS_A_MONTH
        elif each.gb:
            price = volume_price(cloud) if each.kind == "volume" else snapshot_price(cloud)
            amount = each.gb
        else:
            return 0.0
        return None if price is None else price * amount

    return {each: usd(each) for each in orphans}


def counted(kinds: Iterable[str]) -> str:
    """Return how many there are of each kind: `1 machine, 2 key pairs`. Pure."""
    return ", ".join(f"{n} {kind}{'s' if n > 1 else ''}" for kind, n in Counter(kinds).items())
