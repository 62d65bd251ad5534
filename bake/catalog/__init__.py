"""Facts about CUDA, drivers, GPUs, machines, operating systems, frameworks and installers."""

from bake.catalog.catalog import (
    Archive,
    Build,
    Catalog,
    Cuda,
    D2l,
    Driver,
    Fact,
    Gpu,
    Installer,
    InstanceType,
    LeftOut,
    Modules,
    OsImage,
    Toolkit,
    load,
)
from bake.catalog.versions import VERSION, distance, nearest, numbers, runs_on

__all__ = [
    "VERSION",
    "Archive",
    "Build",
    "Catalog",
    "Cuda",
    "D2l",
    "Driver",
    "Fact",
    "Gpu",
    "Installer",
    "InstanceType",
    "LeftOut",
    "Modules",
    "OsImage",
    "Toolkit",
    "distance",
    "load",
    "nearest",
    "numbers",
    "runs_on",
]
