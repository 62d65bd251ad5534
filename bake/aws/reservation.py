"""Capacity reservations: reserved capacity in one zone, in which a machine can be launched.

EC2 User Guide, "Reserve compute capacity with EC2 On-Demand Capacity Reservations" and "Capacity
Blocks for ML". Reserved capacity already counts towards the vCPU quotas, or (Capacity Blocks) does
not count at all, so quotas are not checked for a launch in a reservation.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from bake.aws.client.commands import aws_command
from bake.aws.client.session import Cloud
from bake.aws.tags import rfc3339
from bake.errors import CloudError, RequestError

_NOT_FOUND = {"InvalidCapacityReservationId.NotFound", "InvalidCapacityReservationId.Malformed"}
_PLATFORM = "Linux/UNIX"


@dataclass(frozen=True)
class Reservation:
    """A reservation with free capacity. A `block` is a Capacity Block, paid for in advance.

    EC2 terminates the machines in a block half an hour before its end.
    """

    reservation_id: str
    instance_type: str
    zone: str
    block: bool = False
    ends_at: datetime | None = None


def find_reservation(cloud: Cloud, reservation_id: str) -> Reservation:
    """Return a reservation. RequestError if it is not found or no machine can be launched in it."""
    try:
        response = cloud.ec2(
            "DescribeCapacityReservations", CapacityReservationIds=[reservation_id]
        )
    except CloudError as error:
        if error.code in _NOT_FOUND:
            raise _unknown(cloud, reservation_id) from None
        raise
    found = next(iter(response["CapacityReservations"]), None)
    if found is None:
        raise _unknown(cloud, reservation_id)
    why = hint = ""
    if found["State"] != "active":
        why = f"is {found['State']}, not active"
        if found["State"] in ("scheduled", "pending") and "StartDate" in found:
            hint = f"It starts at {rfc3339(found['StartDate'])}"
    elif not found["AvailableInstanceCount"]:
        why = f"is full: {found['TotalInstanceCount']} of {found['TotalInstanceCount']} are in use"
        hint = "Terminate a machine in it, or enlarge the reservation"
    elif found.get("InstancePlatform", _PLATFORM) != _PLATFORM:
        why = f"is for {found['InstancePlatform']}, but the image is {_PLATFORM}"
    elif found.get("Tenancy", "default") != "default":
        why = "is for dedicated hardware, but bake launches machines on shared hardware"
    elif found.get("Interruptible"):
        why = "is interruptible: its owner may take the machine away"
        hint = "If this is acceptable, launch without the reservation and with --market spot"
    if why:
        raise RequestError(f"The reservation {reservation_id} {why}", hint=hint)
    return Reservation(
        reservation_id,
        found["InstanceType"],
        found["AvailabilityZone"],
        block=found.get("ReservationType") == "capacity-block",
        ends_at=found.get("EndDate"),
    )


def _unknown(cloud: Cloud, reservation_id: str) -> RequestError:
    return RequestError(
        f"Capacity reservation {reservation_id} not found in {cloud.region}",
        hint="To list the reservations: "
        + aws_command("ec2", "describe-capacity-reservations", region=cloud.region),
    )
