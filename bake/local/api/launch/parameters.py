"""The parameters of a launch, whatever request they come from, in the form of RunInstances.

Four requests launch instances: RunInstances, RunInstances with a launch template, CreateFleet and
RequestSpotInstances. They are brought into one form here, so that one function launches them all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Parameters = Mapping[str, Any]

# Structures of which a request changes only the members that it names.
_MERGED = ("Placement", "MetadataOptions", "InstanceMarketOptions")
_TAKEN_FROM_OVERRIDE = ("ImageId", "InstanceType", "BlockDeviceMappings", "Placement")


def is_given(value: Any) -> bool:
    """Return whether a parameter has a value; clients send empty ones, too."""
    return value not in (None, "", [], {})


def given(parameters: Parameters) -> dict[str, Any]:
    """Return the parameters that have a value, also those within structures and lists."""
    values = {name: _given(value) for name, value in parameters.items() if name != "NoDevice"}
    kept = {name: value for name, value in values.items() if is_given(value)}
    return kept | ({"NoDevice": ""} if "NoDevice" in parameters else {})


def _given(value: Any) -> Any:
    if isinstance(value, Mapping):
        return given(value)
    return [_given(each) for each in value] if isinstance(value, list) else value


def with_template(request: Parameters, template: Parameters) -> dict[str, Any]:
    """Return the parameters of a request, and those of its launch template where it has none."""
    theirs, own = given(template), given(request)
    merged = {**theirs, **own}
    for name in _MERGED:
        if name in theirs and name in own:
            merged[name] = {**theirs[name], **own[name]}
    named = {each.get("DeviceName") for each in own.get("BlockDeviceMappings", ())}
    for name in ("BlockDeviceMappings", "TagSpecifications"):
        if name in theirs and name in own:
            kept = [each for each in theirs[name] if each.get("DeviceName", "") not in named]
            merged[name] = [*kept, *own[name]]
    return merged


def with_override(template: Parameters, override: Parameters) -> dict[str, Any]:
    """Return a launch template's parameters with one of the overrides of CreateFleet."""
    own = {name: override[name] for name in _TAKEN_FROM_OVERRIDE if name in override}
    if zone := override.get("AvailabilityZone"):
        own["Placement"] = {**own.get("Placement", {}), "AvailabilityZone": zone}
    if price := override.get("MaxPrice"):
        own["InstanceMarketOptions"] = {"SpotOptions": {"MaxPrice": price}}
    merged = with_template(own, template)
    if subnet := override.get("SubnetId"):
        interfaces = merged.get("NetworkInterfaces")
        if interfaces:
            merged["NetworkInterfaces"] = [{**each, "SubnetId": subnet} for each in interfaces]
        else:
            merged["SubnetId"] = subnet
    return merged


def of_spot_request(request: Parameters) -> dict[str, Any]:
    """Return the launch that RequestSpotInstances requests."""
    options = {
        "MaxPrice": request.get("SpotPrice"),
        "SpotInstanceType": request.get("Type"),
        "InstanceInterruptionBehavior": request.get("InstanceInterruptionBehavior"),
    }
    count = request.get("InstanceCount", 1)
    return {
        **request.get("LaunchSpecification", {}),
        "MinCount": count,
        "MaxCount": count,
        "InstanceMarketOptions": {
            "MarketType": "spot",
            "SpotOptions": {name: value for name, value in options.items() if is_given(value)},
        },
        "TagSpecifications": request.get("TagSpecifications", []),
    }


def spot_options(launch: Parameters) -> dict[str, Any] | None:
    """Return the options of a spot launch, or None if the launch is not for the spot market."""
    market = launch.get("InstanceMarketOptions", {})
    return dict(market.get("SpotOptions", {})) if market.get("MarketType") == "spot" else None


def tags_of(launch: Parameters) -> dict[str, dict[str, str]]:
    """Return the tags of each type of resource."""
    tags: dict[str, dict[str, str]] = {}
    for kind, key, value in _tags(launch.get("TagSpecifications", ())):
        tags.setdefault(kind, {})[key] = value
    return tags


def _tags(specifications: Sequence[Parameters]) -> Iterator[tuple[str, str, str]]:
    for each in specifications:
        for tag in each.get("Tags", ()):
            yield each["ResourceType"], tag["Key"], tag.get("Value", "")


def reservation_of(launch: Parameters) -> str | None:
    """Return the id of the capacity reservation that a launch names as its target."""
    target = launch.get("CapacityReservationSpecification", {}).get("CapacityReservationTarget", {})
    reservation_id: str | None = target.get("CapacityReservationId")
    return reservation_id
