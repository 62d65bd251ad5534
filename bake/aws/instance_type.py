"""Instance types as EC2 describes them, together with what the catalog knows about them.

EC2 describes every type of a region: processors, memory, boot modes, GPUs. It does not say which
quotas count a type or whether an image of bake works on it; this is in the catalog.
https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_InstanceTypeInfo.html
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from bake.aws.client.response import Response
from bake.aws.client.session import Cloud
from bake.catalog import Catalog, InstanceType

# The maximum number of values in one filter of EC2.
MOST_VALUES = 200
_NVIDIA = "NVIDIA"


@dataclass(frozen=True)
class TypeDescription:
    """An instance type that a region offers.

    `ena` is "required", "supported" or "unsupported". `gpus` is 0 without a GPU, and for a slice of
    one GPU (`fractional`). `gpu_memory_mib` is the memory of one GPU.
    """

    name: str
    vcpus: int
    memory_mib: int
    architectures: tuple[str, ...]
    boot_modes: tuple[str, ...] = ()
    usage_classes: tuple[str, ...] = ()
    ena: str = ""
    gpu: str = ""
    gpu_maker: str = ""
    gpus: int = 0
    gpu_memory_mib: int = 0
    fractional: bool = False

    @property
    def family(self) -> str:
        return self.name.partition(".")[0]


def describe_types(cloud: Cloud, names: Iterable[str]) -> dict[str, TypeDescription]:
    """Return the description of each type by its name; unknown types are left out.

    A name with the wildcard `*` stands for all types that match it.
    """
    # With a filter, because EC2 refuses a whole request that names one unknown type.
    wanted = list(dict.fromkeys(names))
    found = {}
    for start in range(0, len(wanted), MOST_VALUES):
        some = [{"Name": "instance-type", "Values": wanted[start : start + MOST_VALUES]}]
        for info in cloud.pages("DescribeInstanceTypes", "InstanceTypes", Filters=some):
            found[info["InstanceType"]] = _description(info)
    return found


def with_types(cloud: Cloud, catalog: Catalog, names: Iterable[str]) -> Catalog:
    """Return the catalog with these types; EC2 is asked only about those that it does not have.

    A type that EC2 does not know either is left out.
    """
    missing = [name for name in names if name not in catalog.instance_types]
    if not missing:
        return catalog
    return add_types(catalog, describe_types(cloud, missing).values())


def add_types(catalog: Catalog, described: Iterable[TypeDescription]) -> Catalog:
    """Return the catalog with these types added; those that it has stay as they are. Pure."""
    more = {each.name: _instance_type(catalog, each) for each in described}
    return replace(catalog, instance_types={**more, **catalog.instance_types})


def _instance_type(catalog: Catalog, described: TypeDescription) -> InstanceType:
    """Return a type that the catalog does not have. What EC2 does not say is that of its family."""
    foreign = described.gpu_maker not in ("", _NVIDIA)
    own = {
        "name": described.name,
        "gpus": 0 if foreign else described.gpus,
        "gpu_memory_mib": 0 if foreign else described.gpu_memory_mib,
        "vcpus": described.vcpus,
        "memory_mib": described.memory_mib,
        "fractional": described.fractional,
        "sure": "verified",
        "source": "DescribeInstanceTypes",
    }
    family = [t for t in catalog.instance_types.values() if t.family == described.family]
    if family:
        switches = any(each.fabric_manager for each in family) and described.gpus > 1
        return replace(family[0], **own, fabric_manager=switches)  # type: ignore[arg-type]
    gpu = "" if foreign else _gpu_name(catalog, described)
    quota = catalog.vcpu_quota(described.name)
    return InstanceType(
        **own,  # type: ignore[arg-type]
        family=described.family,
        gpu=gpu,
        capability=catalog.gpus[gpu].capability if gpu in catalog.gpus else "",
        quota_code=quota.on_demand if quota else "",
        spot_quota_code=quota.spot if quota else "",
        architecture=_architecture(described),
    )


def _architecture(described: TypeDescription) -> str:
    """Return the one that matters: a few old types support i386, too."""
    return next((a for a in described.architectures if a != "i386"), "")


def _gpu_name(catalog: Catalog, described: TypeDescription) -> str:
    """Return the catalog's name of a GPU, or EC2's if the catalog does not know the model."""
    for name, gpu in catalog.gpus.items():
        if _plain(described.gpu) in (_plain(name), _plain(gpu.ec2_name) or None):
            return name
    return described.gpu


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _description(info: Response) -> TypeDescription:
    gpus = list((info.get("GpuInfo") or {}).get("Gpus", []))
    first = gpus[0] if gpus else {}
    return TypeDescription(
        name=info["InstanceType"],
        vcpus=info["VCpuInfo"]["DefaultVCpus"],
        memory_mib=info["MemoryInfo"]["SizeInMiB"],
        architectures=tuple(info["ProcessorInfo"]["SupportedArchitectures"]),
        boot_modes=tuple(info.get("SupportedBootModes", [])),
        usage_classes=tuple(info.get("SupportedUsageClasses", [])),
        ena=info.get("NetworkInfo", {}).get("EnaSupport", ""),
        gpu=first.get("Name", ""),
        gpu_maker=first.get("Manufacturer", ""),
        gpus=sum(gpu.get("Count", 0) for gpu in gpus),
        gpu_memory_mib=first.get("MemoryInfo", {}).get("SizeInMiB", 0),
        fractional=first.get("GpuPartitionSize", 1) < 1,
    )
