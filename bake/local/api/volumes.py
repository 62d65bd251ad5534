"""The volume types of EBS: their sizes, IOPS and throughput, and what EC2 refuses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moto.ec2.exceptions import EC2ClientError


@dataclass(frozen=True)
class VolumeType:
    """The allowed sizes in GiB, and IOPS (none if the type has no parameter for them)."""

    least_gb: int
    most_gb: int
    iops: range = range(0)
    iops_per_gb: int = 0
    needs_iops: bool = False


# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_EbsBlockDevice.html
# https://docs.aws.amazon.com/ebs/latest/userguide/ebs-volume-types.html (IOPS for each GiB)
VOLUME_TYPES = {
    "gp2": VolumeType(1, 16384),
    "gp3": VolumeType(1, 65536, range(3000, 80001), 500),
    "io1": VolumeType(4, 16384, range(100, 64001), 50, needs_iops=True),
    "io2": VolumeType(4, 65536, range(100, 256001), 1000, needs_iops=True),
    "st1": VolumeType(125, 16384),
    "sc1": VolumeType(125, 16384),
    "standard": VolumeType(1, 1024),
}
THROUGHPUT = range(125, 2001)  # of gp3, in MiB/s
GP3_INCLUDED_IOPS = 3000


def check_volume(ebs: Mapping[str, Any]) -> None:
    """Raise EC2's error for a volume with parameters that its type does not have or allow.

    `ebs` is an EbsBlockDevice of EC2's API, with its type and size.
    """
    name, size = ebs["VolumeType"], int(ebs["VolumeSize"])
    kind = VOLUME_TYPES[name]
    if size < kind.least_gb:
        raise _value(
            f"Volume of {size}GiB is too small for volume type {name}; minimum is "
            f"{kind.least_gb}GiB."
        )
    if size > kind.most_gb:
        raise _value(
            f"Volume of {size}GiB is too large for volume type {name}; maximum is "
            f"{kind.most_gb}GiB."
        )
    _check_iops(name, kind, size, ebs.get("Iops"))
    throughput = ebs.get("Throughput")
    if throughput is not None and name != "gp3":
        raise _combination("throughput can only be specified for volumeType gp3.")
    if throughput is not None and int(throughput) not in THROUGHPUT:
        raise _value(
            f"Throughput of {throughput} MiB/s is invalid; it must be between "
            f"{THROUGHPUT[0]} and {THROUGHPUT[-1]}."
        )
    if ebs.get("KmsKeyId") and not ebs.get("Encrypted"):
        raise EC2ClientError(
            "InvalidParameterDependency",
            "The parameter KmsKeyId requires the parameter Encrypted to be set.",
        )


def _check_iops(name: str, kind: VolumeType, size: int, iops: int | None) -> None:
    if iops is None:
        if kind.needs_iops:
            raise _combination(f"The parameter iops must be specified for {name} volumes.")
        return
    if not kind.iops:
        raise _combination(f"The parameter iops is not supported for {name} volumes.")
    if int(iops) not in kind.iops:
        raise _value(
            f"Volume iops of {iops} is invalid for volume type {name}; it must be "
            f"between {kind.iops[0]} and {kind.iops[-1]}."
        )
    if int(iops) > max(kind.iops_per_gb * size, GP3_INCLUDED_IOPS if name == "gp3" else 0):
        raise _value(
            f"Iops to volume size ratio of {int(iops) / size:.6f} is too high; maximum is "
            f"{kind.iops_per_gb}."
        )


def _value(message: str) -> EC2ClientError:
    return EC2ClientError("InvalidParameterValue", message)


def _combination(message: str) -> EC2ClientError:
    return EC2ClientError("InvalidParameterCombination", message)


def check_root(root: Mapping[str, Any], snapshot_gb: int) -> None:
    """Check a root volume whose parameters are complete."""
    if root["VolumeType"] in ("st1", "sc1"):
        raise invalid_mapping(
            f"The volume type {root['VolumeType']} cannot be used for a root device"
        )
    if int(root["VolumeSize"]) < snapshot_gb:
        raise invalid_mapping(
            f"Volume of size {root['VolumeSize']}GB is smaller than snapshot "
            f"'{root['SnapshotId']}', expect size >= {snapshot_gb}GB"
        )
    check_volume(root)


def invalid_mapping(message: str) -> EC2ClientError:
    return EC2ClientError("InvalidBlockDeviceMapping", message)
