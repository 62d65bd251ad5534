"""Search for placements: where each instance type can be launched, according to AWS."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from bake import catalog
from bake.aws.client.commands import aws_command
from bake.aws.client.response import Response
from bake.aws.client.session import Cloud, filters_for
from bake.aws.instance_type import MOST_VALUES, TypeDescription, describe_types
from bake.aws.placement import Market, Placement
from bake.aws.quota import Quota, how_to_raise, quota_code, read_quotas
from bake.aws.reservation import Reservation
from bake.catalog import nearest
from bake.errors import CloudError, Finding
from bake.threads import together

_PLACE = "builder.instance_types"


class Bootable(Protocol):
    """The attributes of an image that decide on which types it boots; None if not specified."""

    @property
    def architecture(self) -> str: ...
    @property
    def boot_mode(self) -> str | None: ...
    @property
    def ena(self) -> bool | None: ...


@dataclass(frozen=True)
class PlacementSearch:
    """The result of a search. `findings` name the types that are left out, and unknown values."""

    placements: tuple[Placement, ...]
    findings: tuple[Finding, ...]


def find_placements(
    cloud: Cloud,
    instance_types: Sequence[str],
    *,
    market: Market,
    image: Bootable | None,
    subnet_id: str | None = None,
    reservation: Reservation | None = None,
) -> PlacementSearch:
    """Return a placement for each type and zone, in the order of the types.

    With `subnet_id` only its zone counts, otherwise the zones of the default subnets. A type that
    cannot be used becomes a finding. If `image` is None, the types are not compared with an image.
    With a reservation, only its type and zone count, and the quota is ignored.
    """
    types: dict[str, TypeDescription]
    zones: defaultdict[str, set[str]]
    quotas: dict[str, Quota | CloudError]
    (subnets, problem), types, zones, quotas = together(
        partial(_subnets, cloud, subnet_id),
        partial(describe_types, cloud, instance_types),
        partial(offered_zones, cloud, instance_types),
        partial(_quotas, cloud, () if reservation else instance_types, market),
    )
    if reservation:
        zones[reservation.instance_type] &= {reservation.zone}
    findings = [problem] if problem else []
    found: list[Placement] = []
    for name in instance_types:
        usage = "capacity-block" if reservation and reservation.block else market
        problem = _unfit(cloud, name, types.get(name), zones[name], image, usage)
        if not problem:
            free, problem = _within_quota(cloud, types[name], market, quotas)
            usable = [subnet for subnet in subnets if subnet["AvailabilityZone"] in zones[name]]
            if free and subnets and not usable:
                problem = _no_common_zone(cloud, name, zones[name], subnets)
            elif free:
                found += [_placement(name, subnet, market, reservation) for subnet in usable]
        if problem:
            findings.append(problem)
    return PlacementSearch(tuple(found), tuple(findings))


def _subnets(cloud: Cloud, subnet_id: str | None) -> tuple[list[Response], Finding | None]:
    if subnet_id:
        try:
            return list(cloud.pages("DescribeSubnets", "Subnets", SubnetIds=[subnet_id])), None
        except CloudError as error:
            if error.code != "InvalidSubnetID.NotFound":
                raise
            command = aws_command("ec2", "describe-subnets", region=cloud.region)
            hint = f"To list the subnets: {command}"
            return [], Finding("subnet", f"subnet {subnet_id} not found in {cloud.region}", hint)
    filters = filters_for({"default-for-az": "true", "state": "available"})
    found = cloud.pages("DescribeSubnets", "Subnets", Filters=filters)
    subnets = sorted(found, key=lambda subnet: str(subnet["AvailabilityZone"]))
    if subnets:
        return subnets, None
    vpc = aws_command("ec2", "create-default-vpc", region=cloud.region)
    subnet = aws_command(
        "ec2", "create-default-subnet", region=cloud.region, availability_zone=f"{cloud.region}a"
    )
    hint = f"Create the default VPC: {vpc}. If it exists, create its subnets: {subnet}"
    return [], Finding("subnet", f"{cloud.region} has no default VPC with subnets", hint)


def _unfit(
    cloud: Cloud,
    name: str,
    described: TypeDescription | None,
    zones: set[str],
    image: Bootable | None,
    usage: str,
) -> Finding | None:
    """Return why the type cannot be used here; None if it can.

    `usage` is EC2's usage class: spot, on-demand or capacity-block.
    """
    if described is None or not zones:
        near = nearest(name, catalog.load().instance_types)
        hint = near if near.startswith("Did you mean") and name not in near else ""
        hint += (
            f"{' ' if hint else ''}Choose another region, or another type: "
            f"`invoke gpus --region {cloud.region}` lists the GPU machines of this region"
        )
        return Finding(_PLACE, f"{name} is not offered in {cloud.region}", hint)
    if usage not in (described.usage_classes or (usage,)):
        return Finding(_PLACE, f"{name} is not offered as {usage}", "Use the other market")
    if image is None:
        return None
    if image.architecture not in described.architectures:
        own = "/".join(described.architectures)
        message = f"{name} is {own}, but the image is {image.architecture}"
        return Finding(_PLACE, message, "Choose a type with the architecture of the image")
    modes = described.boot_modes
    if image.boot_mode in {"uefi", "legacy-bios"} and modes and image.boot_mode not in modes:
        message = f"{name} boots only by {'/'.join(modes)}, but the image by {image.boot_mode}"
        return Finding(_PLACE, message, "Choose another type or another base image")
    if image.ena is False and described.ena == "required":
        message = f"{name} needs an image with ENA (enhanced networking), but this image has none"
        return Finding(_PLACE, message, "Choose another type or another base image")
    return None


def _quotas(cloud: Cloud, names: Sequence[str], market: Market) -> dict[str, Quota | CloudError]:
    """Return each quota by its code, which several types share; an error if it is unreadable."""
    codes = sorted({code for name in names if (code := quota_code(name, market))})
    return read_quotas(cloud, dict.fromkeys(codes, market))


def _within_quota(
    cloud: Cloud,
    described: TypeDescription,
    market: Market,
    quotas: Mapping[str, Quota | CloudError],
) -> tuple[bool, Finding | None]:
    name, vcpus = described.name, described.vcpus
    code = quota_code(name, market)
    if code is None or code not in quotas:
        return True, None
    quota = quotas[code]
    if isinstance(quota, CloudError):
        message = (
            f"the vCPU quota {code} for {name} could not be read ({quota.message}: {quota.code})"
        )
        return True, Finding(
            "quota", message, "This is a warning: if it is too low, the launch fails"
        )
    if quota.free >= vcpus:
        return True, None
    message = f"{name} ({market}) needs {vcpus} vCPUs of the quota '{quota.name}' ({code}), "
    message += f"which is {quota.vcpus}" + (f", {quota.used} in use" if quota.used else "")
    hint = how_to_raise(cloud, name, market, quota.used + vcpus)
    if quota.vcpus >= vcpus:
        hint = f"Terminate machines that you no longer need, or raise the quota. {hint}"
    return False, Finding("quota", message, hint)


def _no_common_zone(
    cloud: Cloud, name: str, zones: set[str], subnets: Sequence[dict[str, Any]]
) -> Finding:
    have = ", ".join(sorted({subnet["AvailabilityZone"] for subnet in subnets}))
    create = aws_command(
        "ec2", "create-default-subnet", region=cloud.region, availability_zone=min(zones)
    )
    return Finding(
        _PLACE,
        f"{name} is offered in {', '.join(sorted(zones))}, but the subnets are in {have}",
        f"Give another type, or create a default subnet in one of these zones: {create}",
    )


def _placement(
    name: str, subnet: dict[str, Any], market: Market, reservation: Reservation | None
) -> Placement:
    return Placement(
        instance_type=name,
        zone=subnet["AvailabilityZone"],
        subnet_id=subnet["SubnetId"],
        vpc_id=subnet["VpcId"],
        market=market,
        reservation=reservation,
    )


def offered_zones(cloud: Cloud, names: Sequence[str]) -> defaultdict[str, set[str]]:
    """Return the zones that offer each type; an empty set for an unknown type."""
    zones: defaultdict[str, set[str]] = defaultdict(set)
    for start in range(0, len(names), MOST_VALUES):
        some = list(names[start : start + MOST_VALUES])
        for offering in cloud.pages(
            "DescribeInstanceTypeOfferings",
            "InstanceTypeOfferings",
            LocationType="availability-zone",
            Filters=[{"Name": "instance-type", "Values": some}],
        ):
            zones[offering["InstanceType"]].add(offering["Location"])
    return zones
