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

_TARGET = "CapacityReservationSpecification.CapacityReservationTarget.CapacityReservationId"


class CapacityReservations:
    """The requests for capacity reservations, and RunInstances with a reservation as target."""

    def create_capacity_reservation(self: Any) -> ActionResult:
        self.error_on_dryrun()
        reservation_id = f"cr-0{secrets.token_hex(8)}"
        self._reservations()[reservation_id] = {
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
        return ActionResult({"CapacityReservation": self._described(reservation_id)})

    def describe_capacity_reservations(self: Any) -> ActionResult:
        self.error_on_dryrun()
        wanted = self._get_param("CapacityReservationIds", []) or list(self._reservations())
        return ActionResult({"CapacityReservations": [self._described(each) for each in wanted]})

    def cancel_capacity_reservation(self: Any) -> ActionResult:
        self.error_on_dryrun()
        self._described(reservation_id := self._get_param("CapacityReservationId"))
        self._reservations()[reservation_id]["State"] = "cancelled"
        return ActionResult({"Return": True})

    def run_instances(self: Any) -> ActionResult:
        """Launch instances, in the target reservation if the request names one."""
        reservation_id = self._get_param(_TARGET)
        if reservation_id:
            self._check_reservation(self._described(reservation_id))
        result = super().run_instances()  # type: ignore[misc]
        for instance in result.result.instances:
            instance.capacity_reservation_id = reservation_id
        return result

    def _check_reservation(self: Any, reservation: dict[str, Any]) -> None:
        subnets = [nic.get("SubnetId") for nic in self._get_param("NetworkInterfaces", [])]
        subnets = [each for each in (*subnets, self._get_param("SubnetId")) if each]
        zones = {self.ec2_backend.get_subnet(each).availability_zone for each in subnets}
        zones |= {zone for zone in [self._get_param("Placement.AvailabilityZone")] if zone}
        requested = (self._get_param("InstanceType"), zones or {reservation["AvailabilityZone"]})
        if requested != (reservation["InstanceType"], {reservation["AvailabilityZone"]}):
            raise EC2ClientError(
                "InvalidParameterValue",
                "The instance's attributes do not match those of the Capacity Reservation "
                f"{reservation['CapacityReservationId']}.",
            )
        free = reservation["AvailableInstanceCount"]
        if reservation["State"] != "active" or free < int(self._get_param("MinCount") or 1):
            raise EC2ClientError(
                "ReservationCapacityExceeded",
                "The targeted Capacity Reservation does not have enough available instances.",
            )

    def _described(self: Any, reservation_id: str) -> dict[str, Any]:
        known = self._reservations().get(reservation_id)
        if known is None:
            raise EC2ClientError(
                "InvalidCapacityReservationId.NotFound",
                f"The Capacity Reservation {reservation_id} does not exist.",
            )
        used = sum(
            getattr(instance, "capacity_reservation_id", None) == reservation_id
            for instance in self.ec2_backend.all_instances()
            if instance.state in ("pending", "running", "stopping")
        )
        free = known["TotalInstanceCount"] - used if known["State"] == "active" else 0
        return {**known, "AvailableInstanceCount": free}

    def _reservations(self: Any) -> dict[str, dict[str, Any]]:
        known: dict[str, dict[str, Any]] = vars(self.ec2_backend).setdefault("reserved", {})
        return known
