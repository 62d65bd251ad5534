"""Which instance types can be had where, by what AWS says before anything is started."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from bake.aws.client.response import Response
from bake.aws.client.session import Cloud
from bake.aws.placement import Market, Placement
from bake.aws.quota import Quota, how_to_raise, quota_code, read_quota
from bake.aws.reservation import Reservation
from bake.errors import CloudError, Finding
from bake.threads import together

_PLACE = "builder.instance_types"


class Bootable(Protocol):
    """What of an image decides where it can boot; None where it does not say."""

    @property
    def architecture(self) -> str: ...
    @property
    def boot_mode(self) -> str | None: ...
    @property
    def ena(self) -> bool | None: ...


@dataclass(frozen=True)
class PlacementSearch:
    """`findings` say what is wrong with types that are left out, or what could not be asked."""

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
    """Types × zones, in the order of the types; `subnet_id` takes the default subnets' place.

    A type that cannot be had is a finding; the others stand. `image` None: its fit is not asked.
    With a reservation: of its type and in its zone, whatever the quota is.
    """
    types: dict[str, dict[str, Any]]
    zones: defaultdict[str, set[str]]
    quotas: dict[str, Quota | CloudError]
    (subnets, problem), types, zones, quotas = together(
        partial(_subnets, cloud, subnet_id),
        partial(_types, cloud, instance_types),
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
            there = [subnet for subnet in subnets if subnet["AvailabilityZone"] in zones[name]]
            if free and subnets and not there:
                problem = _elsewhere(name, zones[name], subnets)
            elif free:
                found += [_placement(name, subnet, market, reservation) for subnet in there]
        if problem:
            findings.append(problem)
    return PlacementSearch(tuple(found), tuple(findings))


def _types(cloud: Cloud, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    # By filter: asked by name, one unknown type would hide what is known of the others.
    wanted = [{"Name": "instance-type", "Values": list(names)}]
    found = cloud.pages("DescribeInstanceTypes", "InstanceTypes", Filters=wanted)
    return {info["InstanceType"]: info for info in found}


def _subnets(cloud: Cloud, subnet_id: str | None) -> tuple[list[Response], Finding | None]:
    if subnet_id:
        try:
            return list(cloud.pages("DescribeSubnets", "Subnets", SubnetIds=[subnet_id])), None
        except CloudError as error:
            if error.code != "InvalidSubnetID.NotFound":
                raise
            hint = f"aws ec2 describe-subnets --region {cloud.region} lists those that there are"
            return [], Finding("subnet", f"there is no subnet {subnet_id}", hint)
    filters = {"default-for-az": "true", "state": "available"}
    found = cloud.pages(
        "DescribeSubnets",
        "Subnets",
        Filters=[{"Name": key, "Values": [value]} for key, value in filters.items()],
    )
    subnets = sorted(found, key=lambda subnet: str(subnet["AvailabilityZone"]))
    if subnets:
        return subnets, None
    hint = (
        f"Make it: aws ec2 create-default-vpc --region {cloud.region}; "
        "or name a subnet of your own that reaches the Internet"
    )
    return [], Finding("subnet", f"{cloud.region} has no default VPC with subnets", hint)


def _unfit(
    cloud: Cloud,
    name: str,
    info: dict[str, Any] | None,
    zones: set[str],
    image: Bootable | None,
    usage: str,
) -> Finding | None:
    """`usage` is a class of EC2's: spot, on-demand or capacity-block."""
    if info is None or not zones:
        hint = (
            "Try another type or region: aws ec2 describe-instance-type-offerings --region REGION "
            f"--filters Name=instance-type,Values={name} shows whether a region has it"
        )
        return Finding(_PLACE, f"{name} is not offered in {cloud.region}", hint)
    if usage not in info.get("SupportedUsageClasses", [usage]):
        return Finding(_PLACE, f"{name} cannot be had as {usage}", "Use the other market")
    if image is None:
        return None
    architectures = info["ProcessorInfo"]["SupportedArchitectures"]
    if image.architecture not in architectures:
        message = f"{name} is {'/'.join(architectures)}, the image is {image.architecture}"
        return Finding(_PLACE, message, "Choose a type of the image's architecture")
    modes = info.get("SupportedBootModes", [])
    if image.boot_mode in {"uefi", "legacy-bios"} and modes and image.boot_mode not in modes:
        message = f"{name} boots by {'/'.join(modes)} alone, the image by {image.boot_mode}"
        return Finding(_PLACE, message, "Choose another type or another base image")
    if image.ena is False and info["NetworkInfo"]["EnaSupport"] == "required":
        message = f"{name} needs an image with ENA (enhanced networking), which this one has not"
        return Finding(_PLACE, message, "Choose another type or another base image")
    return None


def _quotas(cloud: Cloud, names: Sequence[str], market: Market) -> dict[str, Quota | CloudError]:
    """By code, of which many types share one; why it could not be read, where it could not."""

    def read(code: str) -> Quota | CloudError:
        try:
            return read_quota(cloud, code, market)
        except CloudError as error:
            return error

    codes = sorted({code for name in names if (code := quota_code(name, market))})
    return dict(zip(codes, together(*(partial(read, code) for code in codes)), strict=True))


def _within_quota(
    cloud: Cloud,
    info: dict[str, Any],
    market: Market,
    quotas: Mapping[str, Quota | CloudError],
) -> tuple[bool, Finding | None]:
    name, vcpus = info["InstanceType"], info["VCpuInfo"]["DefaultVCpus"]
    code = quota_code(name, market)
    if code is None or code not in quotas:
        return True, None
    quota = quotas[code]
    if isinstance(quota, CloudError):
        said = f"{quota.message}: {quota.code}"
        message = f"the vCPU quota {code} for {name} could not be read ({said})"
        return True, Finding("quota", message, "Not needed: when it is too small, the start fails")
    if quota.free >= vcpus:
        return True, None
    message = f"{name} ({market}) needs {vcpus} vCPUs of the quota '{quota.name}' ({code}), "
    message += f"which is {quota.vcpus}" + (f", {quota.used} in use" if quota.used else "")
    hint = how_to_raise(cloud, name, market, quota.used + vcpus)
    if quota.vcpus >= vcpus:
        hint = f"End machines that you no longer need, or ask for more. {hint}"
    return False, Finding("quota", message, hint)


def _elsewhere(name: str, zones: set[str], subnets: Sequence[dict[str, Any]]) -> Finding:
    have = ", ".join(sorted({subnet["AvailabilityZone"] for subnet in subnets}))
    return Finding(
        _PLACE,
        f"{name} is offered in {', '.join(sorted(zones))}, and the subnets are in {have}",
        "Name a subnet in one of the type's zones, or another type",
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


# EC2's most values of one filter.
_MOST_VALUES = 200


def offered_zones(cloud: Cloud, names: Sequence[str]) -> defaultdict[str, set[str]]:
    """By type, also for very many; none for one that is not offered, or not known."""
    zones: defaultdict[str, set[str]] = defaultdict(set)
    for start in range(0, len(names), _MOST_VALUES):
        some = list(names[start : start + _MOST_VALUES])
        for offering in cloud.pages(
            "DescribeInstanceTypeOfferings",
            "InstanceTypeOfferings",
            LocationType="availability-zone",
            Filters=[{"Name": "instance-type", "Values": some}],
        ):
            zones[offering["InstanceType"]].add(offering["Location"])
    return zones
