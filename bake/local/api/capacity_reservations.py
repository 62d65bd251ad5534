"""Capacity reservations of the local cloud: a number of machines of one type in one zone.

The local cloud never lacks capacity, but a reservation can be full, which tests use. Reservations
are lost when the local cloud ends. Source: AWS's API reference,
https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateCapacityReservation.html
"""

from __future__ import annotations

import secrets
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError

from bake.local.api.image import now
from bake.local.api.launch.parameters import Parameters, reservation_of


class CapacityReservations:
    """The requests for capacity reservations."""

    def create_capacity_reservation(self: Any) -> ActionResult:
        self.error_on_dryrun()
        reservation_id = f"cr-0{secrets.token_hex(8)}"
        reservations(self.ec2_backend)[reservation_id] = {
            "CapacityReservationId": reservation_id,
            "OwnerId": self.current_account,
            "InstanceType": self._get_param("InstanceType"),
            "InstancePlatform": self._get_param("InstancePlatform"),
            "AvailabilityZone": self._get_param("AvailabilityZone"),
            "Tenancy": self._get_param("Tenancy", "default"),
            "TotalInstanceCount": self._get_int_param("InstanceCount"),
            "State": "active",
            "StartDate": now(),
            "CreateDate": now(),
            "EndDateType": "unlimited",
            "InstanceMatchCriteria": self._get_param("InstanceMatchCriteria", "open"),
            "ReservationType": "default",
        }
        return ActionResult({"CapacityReservation": described(self.ec2_backend, reservation_id)})

    def describe_capacity_reservations(self: Any) -> ActionResult:
        self.error_on_dryrun()
        wanted = self._get_param("CapacityReservationIds", []) or list(
            reservations(self.ec2_backend)
        )
        return ActionResult(
            {"CapacityReservations": [described(self.ec2_backend, each) for each in wanted]}
        )

    def cancel_capacity_reservation(self: Any) -> ActionResult:
        self.error_on_dryrun()
        described(self.ec2_backend, reservation_id := self._get_param("CapacityReservationId"))
        reservations(self.ec2_backend)[reservation_id]["State"] = "cancelled"
        return ActionResult({"Return": True})


def check_reservation(backend: Any, launch: Parameters, zone: str) -> None:
    """Raise EC2's error if a launch names a reservation that it cannot use as its target."""
    reservation_id = reservation_of(launch)
    if reservation_id is None:
        return
    reservation = described(backend, reservation_id)
    wanted = (launch.get("InstanceType"), zone)
    if wanted != (reservation["InstanceType"], reservation["AvailabilityZone"]):
        raise EC2ClientError(
            "InvalidParameterValue",
            "The instance's attributes do not match those of the Capacity Reservation "
            f"{reservation['CapacityReservationId']}.",
        )
    free = reservation["AvailableInstanceCount"]
    if reservation["State"] != "active" or free < int(launch["MinCount"]):
        raise EC2ClientError(
            "ReservationCapacityExceeded",
            "The targeted Capacity Reservation does not have enough available instances.",
        )


def described(backend: Any, reservation_id: str) -> dict[str, Any]:
    """Return a reservation in the form of the API. Raises EC2's error if it is unknown."""
    known = reservations(backend).get(reservation_id)
    if known is None:
        raise EC2ClientError(
            "InvalidCapacityReservationId.NotFound",
            f"The Capacity Reservation {reservation_id} does not exist.",
        )
    used = sum(
        getattr(instance, "capacity_reservation_id", None) == reservation_id
        for instance in backend.all_instances()
        if instance.state in ("pending", "running", "stopping")
    )
    free = known["TotalInstanceCount"] - used if known["State"] == "active" else 0
    return {**known, "AvailableInstanceCount": free}


def reservations(backend: Any) -> dict[str, dict[str, Any]]:
    known: dict[str, dict[str, Any]] = vars(backend).setdefault("reserved", {})
    return known
