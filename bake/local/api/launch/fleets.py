"""EC2 Fleets of the type `instant`, with which Packer and other clients request spot machines.

Source: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateFleet.html
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError

from bake.local.api.image import now
from bake.local.api.launch.parameters import Parameters, with_override


class Fleets:
    """The requests for fleets. The other types than `instant` would replace machines."""

    def create_fleet(self: Any) -> ActionResult:
        """Launch the target capacity. Refused launches are in the response, as on EC2."""
        self.error_on_dryrun()
        request = self._get_params()
        kind = request.get("Type", "maintain")
        if kind != "instant":
            raise EC2ClientError(
                "UnsupportedOperation", f"The local cloud has no fleets of the type {kind}"
            )
        tags = self._tags_for("fleet", "instance", "volume")
        fleet_id = f"fleet-{secrets.token_hex(4)}-{secrets.token_hex(2)}-{secrets.token_hex(2)}"
        choices = list(self._choices(request))
        instances: list[dict[str, Any]] = []
        errors: list[dict[str, Any]] = []
        for market, target in _targets(request["TargetCapacitySpecification"]):
            self._fill(choices, market, target, request, instances, errors)
        self._fleets()[fleet_id] = {
            "FleetId": fleet_id,
            "FleetState": "active",
            "CreateTime": now(),
            "Type": "instant",
            "TargetCapacitySpecification": request["TargetCapacitySpecification"],
            "LaunchTemplateConfigs": request["LaunchTemplateConfigs"],
            "Tags": [{"Key": key, "Value": tags["fleet"][key]} for key in tags.get("fleet", {})],
            "Instances": instances,
            "Errors": errors,
        }
        return ActionResult({"FleetId": fleet_id, "Instances": instances, "Errors": errors})

    def _choices(self: Any, request: Parameters) -> Iterator[tuple[dict[str, Any], Any, float]]:
        """Yield each template with each of its overrides: as shown, as launched, its weight."""
        for config in request["LaunchTemplateConfigs"]:
            named = config["LaunchTemplateSpecification"]
            version = self.ec2_backend.template_version(named)
            shown = {
                "LaunchTemplateSpecification": {
                    "LaunchTemplateId": version.template.id,
                    "Version": str(version.number),
                }
            }
            overrides = sorted(
                config.get("Overrides") or [{}],
                key=lambda each: float(each.get("Priority", math.inf)),
            )
            for override in overrides:
                weight = float(override.get("WeightedCapacity", 1))
                launch = with_override(version.data, override)
                yield {**shown, "Overrides": override}, launch, weight

    def _fill(
        self: Any,
        choices: list[tuple[dict[str, Any], Any, float]],
        market: str,
        target: float,
        request: Parameters,
        instances: list[dict[str, Any]],
        errors: list[dict[str, Any]],
    ) -> None:
        """Launch `target` in one market, from the first choice that can be launched."""
        for shown, launch, weight in choices:
            if target <= 0:
                return
            common = {"LaunchTemplateAndOverrides": shown, "Lifecycle": market}
            count = math.ceil(target / weight)
            try:
                reservation = self.ec2_backend.launch(
                    _of_fleet(launch, request, market=market, count=count)
                )
            except EC2ClientError as error:
                errors.append({**common, "ErrorCode": error.code, "ErrorMessage": error.message})
                continue
            target -= weight * count
            instances.append(
                {
                    **common,
                    "InstanceIds": [instance.id for instance in reservation.instances],
                    "InstanceType": reservation.instances[0].instance_type,
                }
            )

    def describe_fleets(self: Any) -> ActionResult:
        self.error_on_dryrun()
        return ActionResult({"Fleets": [self._fleet(each) for each in self._named_fleets()]})

    def describe_fleet_instances(self: Any) -> ActionResult:
        raise EC2ClientError(
            "Unsupported", "DescribeFleetInstances is not supported for fleets of type instant"
        )

    def delete_fleets(self: Any) -> ActionResult:
        """Delete fleets. EC2 terminates the instances of instant fleets with them."""
        self.error_on_dryrun()
        if not self._get_bool_param("TerminateInstances"):
            raise EC2ClientError(
                "InvalidParameterValue", "Instances of an instant fleet have to be terminated"
            )
        deleted = []
        for fleet_id in self._named_fleets():
            fleet = self._fleet(fleet_id)
            previous, fleet["FleetState"] = fleet["FleetState"], "deleted_terminating"
            ids = [id for each in fleet["Instances"] for id in each["InstanceIds"]]
            for instance in self.ec2_backend.all_instances():
                if instance.id in ids:
                    instance.terminate()
            states = {"CurrentFleetState": fleet["FleetState"], "PreviousFleetState": previous}
            deleted.append({"FleetId": fleet_id, **states})
        return ActionResult({"SuccessfulFleetDeletions": deleted})

    def _named_fleets(self: Any) -> list[str]:
        return list(self._get_param("FleetIds", []) or self._fleets())

    def _fleet(self: Any, fleet_id: str) -> dict[str, Any]:
        fleet: dict[str, Any] | None = self._fleets().get(fleet_id)
        if fleet is None:
            raise EC2ClientError(
                "InvalidFleetId.NotFound", f"The fleet ID '{fleet_id}' does not exist"
            )
        return fleet

    def _fleets(self: Any) -> dict[str, dict[str, Any]]:
        fleets: dict[str, dict[str, Any]] = vars(self.ec2_backend).setdefault("instant_fleets", {})
        return fleets


def _targets(specification: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Return the markets of a fleet, each with its target capacity."""
    targets = {
        "spot": float(specification.get("SpotTargetCapacity", 0)),
        "on-demand": float(specification.get("OnDemandTargetCapacity", 0)),
    }
    rest = float(specification["TotalTargetCapacity"]) - sum(targets.values())
    targets[specification.get("DefaultTargetCapacityType", "on-demand")] += max(rest, 0.0)
    return list(targets.items())


def _of_fleet(launch: Parameters, request: Parameters, *, market: str, count: int) -> Parameters:
    """Return the launch with the fleet's market, count and tags."""
    options = launch.get("InstanceMarketOptions", {}).get("SpotOptions", {})
    tags = [
        each for each in request.get("TagSpecifications", ()) if each["ResourceType"] != "fleet"
    ]
    own: dict[str, Any] = {name: launch[name] for name in launch if name != "InstanceMarketOptions"}
    if market == "spot":
        own["InstanceMarketOptions"] = {"MarketType": "spot", "SpotOptions": options}
    own["TagSpecifications"] = [*launch.get("TagSpecifications", ()), *tags]
    return {**own, "MinCount": count, "MaxCount": count}
