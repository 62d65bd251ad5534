"""Placements of a machine, in order of preference, tried until one has capacity."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from bake.aws.reservation import Reservation
from bake.errors import CapacityError, CloudError, LostError

T = TypeVar("T")
Market = Literal["on-demand", "spot"]

Next = Literal["zone", "type"]

_NO_CAPACITY_WHILE_PENDING = "Server.InsufficientInstanceCapacity"

# What may help after an error of RunInstances (EC2's page "Error codes"), or after the reason of a
# machine that was accepted and ended while it was pending (API reference, "StateReason"): another
# zone, or only another type. After any other code, all placements would fail, so the launch stops.
NEXT: dict[str, Next] = {
    "InsufficientAddressCapacity": "zone",
    "InsufficientCapacity": "zone",
    "InsufficientFreeAddressesInSubnet": "zone",
    "InsufficientHostCapacity": "zone",
    "InsufficientInstanceCapacity": "zone",
    "InsufficientReservedInstanceCapacity": "zone",
    "InsufficientVolumeCapacity": "zone",
    "InvalidAvailabilityZone": "zone",
    "InvalidSubnetID.NotFound": "zone",
    "ReservationCapacityExceeded": "zone",
    "SpotMaxPriceTooLow": "zone",
    "UnfulfillableCapacity": "zone",
    "Unsupported": "zone",  # the zone does not offer the type
    "VolumeTypeNotAvailableInZone": "zone",
    _NO_CAPACITY_WHILE_PENDING: "zone",
    "Server.InternalError": "zone",  # of the hardware on which the machine was placed
    "Server.ScheduledStop": "zone",
    "Server.SpotInstanceShutdown": "zone",
    "Server.SpotInstanceTermination": "zone",
    # A quota counts in every zone; a smaller type, or one with another quota, may still fit.
    "InstanceLimitExceeded": "type",
    "MaxSpotInstanceCountExceeded": "type",
    "VcpuLimitExceeded": "type",
    # The type does not fit the image or the disk.
    "EncryptedVolumesNotSupported": "type",
    "UnsupportedOperation": "type",
}


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

    After an error in `NEXT` the next placement is tried at once. Any other error is raised, since
    another placement would not help. Without any machine, CapacityError lists every attempt with
    AWS's reason; or LostError does, if one of the machines was lost while it was pending: the same
    placement may work the next time.
    """
    tried: list[tuple[Placement, CloudError]] = []
    unfit: set[tuple[str, Market]] = set()
    for placement in placements:
        if (placement.instance_type, placement.market) in unfit:
            continue
        try:
            return start(placement)
        except CloudError as error:
            if error.code not in NEXT:
                raise
            if NEXT[error.code] == "type":
                unfit.add((placement.instance_type, placement.market))
            tried.append((placement, error))
            on_no_capacity(placement, error)
    raise _no_machine(tried)


def _no_machine(tried: Sequence[tuple[Placement, CloudError]]) -> CloudError:
    if not tried:
        hint = "Give at least one instance type with --instance-type"
        return CapacityError("No machine could be launched: no placement was given", hint=hint)
    attempts = tuple(f"{placement}: {error.cloud_words}" for placement, error in tried)
    for _, error in tried:
        if isinstance(error, LostError) and error.code != _NO_CAPACITY_WHILE_PENDING:
            error.details = attempts
            return error
    which = str(tried[0][0]) if len(tried) == 1 else f"all {len(tried)} placements"
    return CapacityError(
        f"No machine could be launched: AWS refused {which}",
        hint=". ".join(dict.fromkeys(error.hint for _, error in tried if error.hint)),
        code=tried[-1][1].code,
        details=attempts,
    )
