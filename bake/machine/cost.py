"""The cost of a machine: per hour, since its launch, and of its disks while it is stopped.

EC2 bills a running machine by the second, for at least a minute, and a volume as long as it exists.
A spot price changes: the present price is used for the whole time, so the cost is approximate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from bake.aws.client.session import Cloud
from bake.aws.machine import Machine
from bake.aws.price import on_demand, price_errors, spot_by_zone, volume_price
from bake.console.format import money, rate
from bake.errors import CloudError
from bake.threads import together

_RUNS = frozenset({"pending", "running"})
_GONE = frozenset({"shutting-down", "terminated"})
_LEAST_S = 60
# EC2's limit for the values of one filter.
_MOST_VALUES = 200


@dataclass(frozen=True)
class Disk:
    kind: str
    size_gb: int


@dataclass(frozen=True)
class Cost:
    """The cost of a machine in USD; None for an unknown value.

    `per_hour` and `disks_per_month` are present prices, also of a stopped machine. EC2's launch
    time is the last start, so `since_launch` counts from then; None while the machine does not run.
    `about` is True if the values are approximate, `prepaid` if nothing is billed by the hour.
    """

    runs: bool
    about: bool
    per_hour: float | None
    since_launch: float | None
    disks_gb: int | None
    disks_per_month: float | None
    prepaid: bool = False


@dataclass(frozen=True)
class Costs:
    """The costs by instance id. `refusals` are the errors that left values unknown."""

    of: Mapping[str, Cost]
    refusals: tuple[CloudError, ...] = ()


def find_costs(cloud: Cloud, machines: Sequence[Machine]) -> Costs:
    """Return the cost of each machine, with four calls at the same time."""
    if not machines:
        return Costs({})
    not_gone = [machine for machine in machines if machine.state not in _GONE]
    on_spot = {machine.instance_type for machine in machines if machine.market == "spot"}
    ordered = {machine.instance_type for machine in machines if machine.market != "spot"}
    by_zone, by_type, _, (disks, refused) = together(
        partial(spot_by_zone, cloud, on_spot),
        partial(on_demand, cloud, sorted(ordered)),
        partial(volume_price, cloud),
        partial(_disks, cloud, [machine.instance_id for machine in not_gone]),
    )
    now = cloud.now()
    found = {}
    for machine in machines:
        if machine.market == "spot":
            usd = by_zone[machine.instance_type].get(machine.zone)
        else:
            usd = by_type[machine.instance_type]
        mine = disks.get(machine.instance_id, ()) if disks is not None else None
        found[machine.instance_id] = compute_cost(
            machine, now, usd, mine, partial(volume_price, cloud)
        )
    return Costs(found, (*price_errors(cloud), *refused))


def compute_cost(
    machine: Machine,
    now: datetime,
    usd_per_hour: float | None,
    disks: Sequence[Disk] | None,
    usd_per_gb_month: Callable[[str], float | None],
) -> Cost:
    """Compute the cost of a machine. A pure function.

    `usd_per_gb_month` returns the price of a type of volume. A terminated machine has no disks.
    """
    runs = machine.state in _RUNS
    usd_per_hour = 0.0 if machine.prepaid else usd_per_hour
    disks = () if machine.state in _GONE else disks
    spent = None
    if runs and usd_per_hour is not None:
        seconds = max((now - machine.launched_at).total_seconds(), _LEAST_S)
        spent = usd_per_hour * seconds / 3600
    return Cost(
        runs=runs,
        about=machine.market == "spot",
        per_hour=usd_per_hour,
        since_launch=spent,
        disks_gb=None if disks is None else sum(disk.size_gb for disk in disks),
        disks_per_month=None if disks is None else _monthly(disks, usd_per_gb_month),
        prepaid=machine.prepaid,
    )


def _monthly(disks: Sequence[Disk], rate: Callable[[str], float | None]) -> float | None:
    total = 0.0
    for disk in disks:
        usd = rate(disk.kind)
        if usd is None:
            return None
        total += disk.size_gb * usd
    return total


def find_cost(cloud: Cloud, machine: Machine) -> Cost:
    """Return the cost of one machine."""
    return find_costs(cloud, [machine]).of[machine.instance_id]


def describe(cost: Cost) -> str:
    """Describe the cost, like `$0.526 an hour, $1.05 since its launch`.

    For a machine that does not run, describe the cost of its disks.
    """
    about = "about " if cost.about else ""
    if not cost.runs:
        if cost.disks_gb == 0:
            return "nothing: it is terminated"
        size = f" ({cost.disks_gb} GB)" if cost.disks_gb is not None else ""
        monthly = cost.disks_per_month
        rent = "price unknown," if monthly is None else f"${money(monthly)} a month"
        return f"{rent} for its disks{size}"
    if cost.prepaid:
        return "paid for in advance"
    if cost.per_hour is None or cost.since_launch is None:
        return "price unknown"
    spent = f"{about}${money(cost.since_launch)} since its launch"
    return f"{about}${rate(cost.per_hour)} an hour, {spent}"


def _disks(
    cloud: Cloud, instance_ids: Sequence[str]
) -> tuple[dict[str, list[Disk]] | None, tuple[CloudError, ...]]:
    """Return the disks by instance id, or None and the error."""
    found: dict[str, list[Disk]] = {}
    try:
        for start in range(0, len(instance_ids), _MOST_VALUES):
            some = instance_ids[start : start + _MOST_VALUES]
            filters = [{"Name": "attachment.instance-id", "Values": some}]
            for volume in cloud.pages("DescribeVolumes", "Volumes", Filters=filters):
                for attachment in volume["Attachments"]:
                    disk = Disk(volume["VolumeType"], volume["Size"])
                    found.setdefault(attachment["InstanceId"], []).append(disk)
    except CloudError as error:
        return None, (error,)
    return found, ()
