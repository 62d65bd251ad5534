"""The checks of a launch: a wrong request is refused before anything is made.

The functions raise EC2's error. Its codes are in "Error codes for the Amazon EC2 API",
https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jmespath  # type: ignore[import-untyped]
from moto.ec2.exceptions import EC2ClientError

from bake.local.api import user_data
from bake.local.api.image import LocalImage
from bake.local.api.launch.parameters import Parameters, spot_options, tags_of
from bake.local.api.request_checks import check_tags, invalid_value
from bake.local.api.snapshot_backend import NO_DATA_DISKS
from bake.local.api.volumes import invalid_mapping

# Parameters that change what is launched on EC2, and that a local machine cannot have.
_UNSUPPORTED = (
    "AdditionalInfo",
    "CapacityReservationSpecification.CapacityReservationTarget"
    ".CapacityReservationResourceGroupArn",
    "CpuOptions",
    "ElasticGpuSpecification",
    "ElasticGpuSpecifications",
    "ElasticInferenceAccelerators",
    "EnablePrimaryIpv6",
    "EnclaveOptions.Enabled",
    "HibernationOptions.Configured",
    "InstanceRequirements",
    "Ipv6AddressCount",
    "Ipv6Addresses",
    "KernelId",
    "LicenseSpecifications",
    "NetworkPerformanceOptions",
    "Placement.HostId",
    "Placement.HostResourceGroupArn",
    "Placement.PartitionNumber",
    "Placement.Tenancy!='default' && Placement.Tenancy",
    "RamDiskId",
    "RamdiskId",
    "SecondaryInterfaces",
    "InstanceMarketOptions.MarketType!='spot' && InstanceMarketOptions.MarketType",
    "InstanceMarketOptions.SpotOptions.SpotInstanceType=='persistent'",
    "InstanceMarketOptions.SpotOptions.BlockDurationMinutes",
)

# The resources that a launch makes, and can give tags.
TAGGED = ("instance", "volume", "network-interface", "spot-instances-request")

_EPHEMERAL = re.compile(r"ephemeral([0-9]|1[0-9]|2[0-3])")


def combination(message: str) -> EC2ClientError:
    return EC2ClientError("InvalidParameterCombination", message)


def check_parameters(launch: Parameters) -> None:
    """Check the parameters of a launch that do not depend on the state of the account."""
    least, most = launch.get("MinCount"), launch.get("MaxCount")
    for name, value in (("MinCount", least), ("MaxCount", most)):
        if value is None:
            raise EC2ClientError("MissingParameter", f"The request must contain {name}")
        if int(value) < 1:
            raise invalid_value(name, value, "The minimum value is 1.")
    if int(most) < int(least):  # type: ignore[arg-type]
        raise invalid_value("MaxCount", most, f"It is less than minCount ({least}).")
    for expression in _UNSUPPORTED:
        if jmespath.search(expression, launch):
            name = re.split("[!= ]", expression)[0]
            raise EC2ClientError(
                "UnsupportedOperation",
                f"The local cloud does not support this value of the parameter {name}",
            )
    placement = launch.get("Placement", {})
    if group := placement.get("GroupName") or placement.get("GroupId"):
        # The local cloud has no placement groups.
        raise EC2ClientError(
            "InvalidPlacementGroup.Unknown", f"The placement group '{group}' is unknown."
        )
    for tags in tags_of(launch).values():
        check_tags(list(tags), list(tags.values()))
    _check_spot(launch)
    _check_interfaces(launch)
    user_data.decoded(launch.get("UserData"))


def _check_spot(launch: Parameters) -> None:
    options = spot_options(launch)
    if options is None:
        return
    interruption = options.get("InstanceInterruptionBehavior", "terminate")
    if interruption != "terminate":
        raise combination(
            f"The interruption behavior '{interruption}' requires the Spot request type "
            "'persistent'."
        )
    price = options.get("MaxPrice", "1")
    if not re.fullmatch(r"\d*\.?\d+", str(price)) or float(price) <= 0:
        raise invalid_value("spotMaxPrice", price)
    if launch.get("DisableApiTermination"):
        raise combination("Termination protection is not supported for Spot Instances.")


def _check_interfaces(launch: Parameters) -> None:
    """Check how a launch names its subnet and its security groups."""
    interfaces: Sequence[Mapping[str, Any]] = launch.get("NetworkInterfaces", ())
    if launch.get("SubnetId") and launch.get("SecurityGroups"):
        raise combination("The parameter groupName cannot be used with the parameter subnet")
    if not interfaces:
        return
    for what, names in (
        ("subnet ID", ("SubnetId",)),
        ("security groups", ("SecurityGroups", "SecurityGroupIds")),
        ("private IP address", ("PrivateIpAddress",)),
    ):
        if any(launch.get(name) for name in names):
            raise combination(
                f"Network interfaces and an instance-level {what} may not be specified on the "
                "same request"
            )
    if len(interfaces) > 1:
        raise EC2ClientError(
            "UnsupportedOperation", "The machines of the local cloud have one network interface"
        )
    [interface] = interfaces
    if interface.get("DeviceIndex") is None:
        raise EC2ClientError(
            "MissingParameter",
            "The request must contain the parameter networkInterface.deviceIndex",
        )
    if interface["DeviceIndex"] != 0:
        raise invalid_value("DeviceIndex", interface["DeviceIndex"], "The first interface is 0.")
    if interface.get("NetworkInterfaceId"):
        for name in ("SubnetId", "Groups", "AssociatePublicIpAddress"):
            if interface.get(name):
                raise combination(
                    f"A network interface may not specify both a network interface ID and {name}"
                )


def root_device(image: LocalImage, requested: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the root device's EbsBlockDevice: the image's, changed by the request's mappings."""
    names = [mapping.get("DeviceName") for mapping in requested]
    root = {"DeleteOnTermination": True, "VolumeType": "gp2", **image.root_device}
    for mapping in requested:
        name, virtual = mapping.get("DeviceName"), mapping.get("VirtualName")
        if not name:
            raise EC2ClientError(
                "MissingParameter", "The request must contain the parameter deviceName"
            )
        if names.count(name) > 1:
            raise invalid_mapping(
                f"The device '{name}' is used in more than one block-device mapping"
            )
        if virtual and not _EPHEMERAL.fullmatch(virtual):
            raise invalid_mapping(f"The virtual name '{virtual}' is invalid")
        if name == image.root_device_name:
            if "NoDevice" in mapping or virtual:
                raise invalid_mapping(f"The root device {name} cannot be left out or replaced")
            root = _changed(root, mapping.get("Ebs", {}))
        elif mapping.get("Ebs"):
            raise EC2ClientError("UnsupportedOperation", f"{name}: {NO_DATA_DISKS}.")
    return root


def _changed(root: Mapping[str, Any], ebs: Mapping[str, Any]) -> dict[str, Any]:
    if ebs.get("SnapshotId", root["SnapshotId"]) != root["SnapshotId"]:
        raise invalid_mapping("snapshotId cannot be modified on root device")
    if root.get("Encrypted") and ebs.get("Encrypted") is False:
        raise invalid_mapping(
            f"The snapshot {root['SnapshotId']} is encrypted: its volume has to be, too"
        )
    kept = dict(root)
    if ebs.get("VolumeType", root["VolumeType"]) != root["VolumeType"]:
        # They belong to the image's volume type.
        kept = {name: value for name, value in kept.items() if name not in ("Iops", "Throughput")}
    return {**kept, **ebs}
