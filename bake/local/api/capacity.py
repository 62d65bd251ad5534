"""Check instance types, their zones and vCPU quotas, by moto's tables."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.instance_types import INSTANCE_TYPE_OFFERINGS, INSTANCE_TYPES

GENEROUS = 4096.0

# EC2's service quotas: code → (name, market, instance families or their first letters).
# https://docs.aws.amazon.com/ec2/latest/instancetypes/ec2-instance-quotas.html
VCPU_QUOTAS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "L-DB2E81BA": ("Running On-Demand G and VT instances", "on-demand", ("g", "gr", "vt")),
    "L-417A185B": ("Running On-Demand P instances", "on-demand", ("p",)),
    "L-1216C47A": (
        "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances",
        "on-demand",
        ("a", "c", "d", "h", "i", "im", "is", "m", "r", "t", "z"),
    ),
    "L-74FC7D96": ("Running On-Demand F instances", "on-demand", ("f",)),
    "L-7295265B": ("Running On-Demand X instances", "on-demand", ("x",)),
    "L-1945791B": ("Running On-Demand Inf instances", "on-demand", ("inf",)),
    "L-2C3B7624": ("Running On-Demand Trn instances", "on-demand", ("trn",)),
    "L-6E869C2A": ("Running On-Demand DL instances", "on-demand", ("dl",)),
    "L-F7808C92": ("Running On-Demand HPC instances", "on-demand", ("hpc",)),
    "L-43DA4232": ("Running On-Demand High Memory instances", "on-demand", ("u",)),
    "L-3819A6DF": ("All G and VT Spot Instance Requests", "spot", ("g", "gr", "vt")),
    "L-C4BD4855": ("All P5 Spot Instance Requests", "spot", ("p5", "p5e", "p5en")),
    "L-7212CCBC": ("All P4, P3 and P2 Spot Instance Requests", "spot", ("p",)),
    "L-34B43A08": (
        "All Standard (A, C, D, H, I, M, R, T, Z) Spot Instance Requests",
        "spot",
        ("a", "c", "d", "h", "i", "im", "is", "m", "r", "t", "z"),
    ),
    "L-88CF9481": ("All F Spot Instance Requests", "spot", ("f",)),
    "L-E3A00192": ("All X Spot Instance Requests", "spot", ("x",)),
    "L-B5D1601B": ("All Inf Spot Instance Requests", "spot", ("inf",)),
    "L-6B0D517C": ("All Trn Spot Instance Requests", "spot", ("trn",)),
    "L-85EED4F7": ("All DL Spot Instance Requests", "spot", ("dl",)),
}

quota_values: dict[str, float] = dict.fromkeys(VCPU_QUOTAS, GENEROUS)


def check_instance_type(
    instance_type: str, *, region: str, zone: str | None, architecture: str
) -> None:
    """Raise EC2's error for a type that is unknown, not offered there, or of another CPU."""
    known = INSTANCE_TYPES.get(instance_type)
    if known is None:
        raise EC2ClientError(
            "InvalidParameterValue", f"Invalid value '{instance_type}' for InstanceType."
        )
    scope, place = ("availability-zone", zone) if zone else ("region", region)
    offered = INSTANCE_TYPE_OFFERINGS[scope].get(region, [])
    if not any(
        offer["InstanceType"] == instance_type and offer["Location"] == place for offer in offered
    ):
        kind = "Availability Zone" if zone else "region"
        raise EC2ClientError(
            "Unsupported",
            f"Your requested instance type ({instance_type}) is not supported in your requested "
            f"{kind} ({place}).",
        )
    supported = known["ProcessorInfo"]["SupportedArchitectures"]
    if architecture not in supported:
        raise EC2ClientError(
            "InvalidParameterValue",
            f"The architecture '{','.join(supported)}' of the specified instance type does not "
            f"match the architecture '{architecture}' of the specified AMI.",
        )


def check_vcpus(instance_type: str, count: int, *, spot: bool, running: Iterable[Any]) -> None:
    """Raise VcpuLimitExceeded (spot: MaxSpotInstanceCountExceeded) above the family's quota."""
    quota = _quota_of(instance_type, spot)
    if quota is None:
        return
    used = sum(
        _vcpus(instance.instance_type)
        for instance in running
        if _quota_of(instance.instance_type, instance.lifecycle == "spot") == quota
    )
    limit = quota_values[quota]
    if used + count * _vcpus(instance_type) <= limit:
        return
    if spot:
        raise EC2ClientError("MaxSpotInstanceCountExceeded", "Max spot instance count exceeded")
    raise EC2ClientError(
        "VcpuLimitExceeded",
        f"You have requested more vCPU capacity than your current vCPU limit of {limit:g} allows "
        "for the instance bucket that the specified instance type belongs to. Please visit "
        "http://aws.amazon.com/contact-us/ec2-request to request an adjustment to this limit.",
    )


def _vcpus(instance_type: str) -> int:
    return int(INSTANCE_TYPES[instance_type]["VCpuInfo"]["DefaultVCpus"])


def _quota_of(instance_type: str, spot: bool) -> str | None:
    begins = re.match("[a-z]+", instance_type)
    names = {instance_type.partition(".")[0], begins.group() if begins else ""}
    for code, (_, market, families) in VCPU_QUOTAS.items():
        if market == ("spot" if spot else "on-demand") and not names.isdisjoint(families):
            return code
    return None
