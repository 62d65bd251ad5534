"""Placements of a machine, in order of preference, tried until one has capacity."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from bake.aws.reservation import Reservation
from bake.errors import CapacityError, CloudError

T = TypeVar("T")
Market = Literal["on-demand", "spot"]

# EC2's "Error codes" after which another zone or another type may have capacity.
NO_CAPACITY_HERE = {
    "InsufficientInstanceCapacity",
    "InsufficientHostCapacity",
    "InsufficientReservedInstanceCapacity",
    "InsufficientFreeAddressesInSubnet",
    "ReservationCapacityExceeded",
    "SpotMaxPriceTooLow",
    "Unsupported",  # the zone does not offer the type
    "UnfulfillableCapacity",
    # The reason of a machine that was accepted, and terminated while it was pending.
    "Server.InsufficientInstanceCapacity",
}
# A quota counts in every zone; a smaller type, or one with another quota, may still fit.
NO_QUOTA_FOR_TYPE = {"VcpuLimitExceeded", "MaxSpotInstanceCountExceeded", "InstanceLimitExceeded"}


@dataclass(frozen=True)
class Placement:
    """Instance type, zone and market in which a machine can be launched."""

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
    """Return the placements by price per GPU and hour; those of unknown price come last.

    Placements of the same price keep their order. `gpus` is the number of GPUs of each type.
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
    """Return the result of `start` for the first placement with capacity.

    Without capacity the next placement is tried at once. Any other error is raised, since another
    placement would not help. CapacityError lists every attempt with AWS's reason.
    """
    tried: list[Placement] = []
    attempts: list[str] = []
    over_quota: set[tuple[str, Market]] = set()
    last: CloudError | None = None
    for placement in placements:
        if (placement.instance_type, placement.market) in over_quota:
            continue
        try:
            return start(placement)
        except CloudError as error:
            if error.code in NO_QUOTA_FOR_TYPE:
                over_quota.add((placement.instance_type, placement.market))
            elif error.code not in NO_CAPACITY_HERE:
                raise
            last = error
            tried.append(placement)
            attempts.append(f"{placement}: {error.cloud_words}")
            on_no_capacity(placement, error)
    raise CapacityError(
        f"No capacity for {tried[0]}"
        if len(tried) == 1
        else f"No capacity in any of {len(tried)} placements",
        hint=last.hint if last else "Give at least one instance type with --instance-type",
        code=last.code if last else "",
        details=attempts,
    )
