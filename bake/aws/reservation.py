"""Capacity that somebody has reserved in one zone, and that a machine can be started in.

EC2 User Guide, "Reserve compute capacity with EC2 On-Demand Capacity Reservations" and "Capacity
Blocks for ML". What is reserved counts towards the account's vCPU quotas already, or not at all (a
Capacity Block), so no quota is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from bake.aws.client.session import Cloud
from bake.aws.tags import rfc3339
from bake.errors import CloudError, RequestError

_NOT_FOUND = {"InvalidCapacityReservationId.NotFound", "InvalidCapacityReservationId.Malformed"}
_PLATFORM = "Linux/UNIX"


@dataclass(frozen=True)
class Reservation:
    """One that has room. `block`: a Capacity Block, which is paid for in advance.

    Half an hour before the end of a block EC2 begins to terminate what runs in it.
    """

    reservation_id: str
    instance_type: str
    zone: str
    block: bool = False
    ends_at: datetime | None = None


def find_reservation(cloud: Cloud, reservation_id: str) -> Reservation:
    """RequestError where there is none, or none of our machines can be started in it."""
    try:
        answer = cloud.ec2("DescribeCapacityReservations", CapacityReservationIds=[reservation_id])
    except CloudError as error:
        if error.code in _NOT_FOUND:
            raise _unknown(cloud, reservation_id) from None
        raise
    found = next(iter(answer["CapacityReservations"]), None)
    if found is None:
        raise _unknown(cloud, reservation_id)
    why = hint = ""
    if found["State"] != "active":
        why = f"is {found['State']}, not active"
        if found["State"] in ("scheduled", "pending") and "StartDate" in found:
            hint = f"It starts at {rfc3339(found['StartDate'])}"
    elif not found["AvailableInstanceCount"]:
        why = f"is full: {found['TotalInstanceCount']} of {found['TotalInstanceCount']} are in use"
        hint = "End a machine in it, or make it larger"
    elif found.get("InstancePlatform", _PLATFORM) != _PLATFORM:
        why = f"is for {found['InstancePlatform']}, and the image is {_PLATFORM}"
    elif found.get("Tenancy", "default") != "default":
        why = "is for dedicated hardware, and our machines share theirs"
    elif found.get("Interruptible"):
        why = "is interruptible: its owner may take the machine away"
        hint = "Take --market spot, where that is what you want"
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
        f"There is no capacity reservation {reservation_id} in {cloud.region}",
        hint=f"aws ec2 describe-capacity-reservations --region {cloud.region} lists those that "
        "there are",
    )
