"""Where a machine can be had: placements in order of preference, tried until one has room."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from bake.aws.reservation import Reservation
from bake.errors import CapacityError, CloudError

T = TypeVar("T")
Market = Literal["on-demand", "spot"]

# EC2's "Error codes": what another zone or another type may well have.
NO_CAPACITY_HERE = {
    "InsufficientInstanceCapacity",
    "InsufficientHostCapacity",
    "InsufficientReservedInstanceCapacity",
    "InsufficientFreeAddressesInSubnet",
    "ReservationCapacityExceeded",
    "SpotMaxPriceTooLow",
    "Unsupported",  # the type is not offered in this zone (after all)
    "UnfulfillableCapacity",
    # The reason of a machine that was taken on, and then ended while it was pending.
    "Server.InsufficientInstanceCapacity",
}
# A limit of the account counts in every zone; a smaller or another type may still fit.
NO_QUOTA_FOR_TYPE = {"VcpuLimitExceeded", "MaxSpotInstanceCountExceeded", "InstanceLimitExceeded"}


@dataclass(frozen=True)
class Placement:
    """One way to have the machine."""

    instance_type: str
    zone: str
    subnet_id: str
    vpc_id: str
    market: Market
    reservation: Reservation | None = None

    def __str__(self) -> str:
        how = self.reservation.reservation_id if self.reservation else self.market
        return f"{self.instance_type} in {self.zone} ({how})"


def cheapest_first(
    placements: Sequence[Placement],
    usd_per_hour: Mapping[Placement, float | None],
    gpus: Mapping[str, int],
) -> list[Placement]:
    """By price per GPU and hour; what has none that is known comes last. Else their order stays.

    `gpus` is how many a type has. Pure.
    """

    def per_gpu(placement: Placement) -> tuple[bool, float]:
        usd, count = usd_per_hour.get(placement), gpus.get(placement.instance_type)
        return (False, usd / count) if usd is not None and count else (True, 0.0)

    return sorted(placements, key=per_gpu)


def first_with_capacity(
    placements: Sequence[Placement],
    start: Callable[[Placement], T],
    *,
    on_no_capacity: Callable[[Placement, CloudError], None] = lambda placement, error: None,
) -> T:
    """What `start` gives for the first placement that AWS has room for.

    Goes on at once where AWS has none; any other refusal ends it, since no placement would
    change that. CapacityError lists every try with AWS's answer.
    """
    refusals: list[str] = []
    full: set[tuple[str, Market]] = set()
    last: CloudError | None = None
    for placement in placements:
        if (placement.instance_type, placement.market) in full:
            continue
        try:
            return start(placement)
        except CloudError as error:
            if error.code in NO_QUOTA_FOR_TYPE:
                full.add((placement.instance_type, placement.market))
            elif error.code not in NO_CAPACITY_HERE:
                raise
            last = error
            refusals.append(f"{placement}: {error.code}: {error.reason}")
            on_no_capacity(placement, error)
    raise CapacityError(
        f"No machine is to be had: {len(refusals)} {'try' if len(refusals) == 1 else 'tries'}, "
        "all refused",
        hint=last.hint if last else "Name at least one instance type",
        code=last.code if last else "",
        details=refusals,
    )
