"""Facts about CUDA, drivers, GPUs, machines, operating systems, frameworks and installers."""

from bake.catalog.assumed import ASSUMED, accept_unknown, assume
from bake.catalog.catalog import (
    Archive,
    Build,
    Catalog,
    Cuda,
    D2l,
    Driver,
    Duration,
    Fact,
    Gpu,
    Installer,
    InstanceType,
    LeftOut,
    Modules,
    OsImage,
    Toolkit,
    VcpuQuota,
)
from bake.catalog.reading import load, use
from bake.catalog.versions import VERSION, did_you_mean, distance, nearest, numbers, runs_on

__all__ = [
    "ASSUMED",
    "VERSION",
    "Archive",
    "Build",
    "Catalog",
    "Cuda",
    "D2l",
    "Driver",
    "Duration",
    "Fact",
    "Gpu",
    "Installer",
    "InstanceType",
    "LeftOut",
    "Modules",
    "OsImage",
    "Toolkit",
    "VcpuQuota",
    "accept_unknown",
    "assume",
    "did_you_mean",
    "distance",
    "load",
    "nearest",
    "numbers",
    "runs_on",
    "use",
]
