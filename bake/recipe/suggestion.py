"""Hints for a recipe that cannot work: the nearest CUDA release, driver or machine that works."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from bake.catalog import Catalog, Cuda, Driver, Gpu, distance


def alternatives(*ways: object) -> str:
    """Join alternatives into one sentence; empty ones are left out."""
    text = ", or ".join(str(way) for way in ways if way)
    return text[:1].upper() + text[1:]


def suggest(names: Iterable[str]) -> str:
    """Return "use A or B", or an empty text if `names` is empty."""
    listed = " or ".join(names)
    return f"use {listed}" if listed else ""


def suggest_cuda(cuda: Cuda, among: Iterable[Cuda]) -> str:
    """Suggest the release nearest to `cuda`; an empty text if `among` is empty."""
    best = min(among, key=lambda other: distance(other.version, cuda.version), default=None)
    return f"use CUDA {best.version}" if best else ""


def suggest_driver(branch: str, among: Iterable[Driver]) -> str:
    """Suggest the driver of the branch nearest to `branch`; an empty text if `among` is empty."""
    best = min(among, key=lambda driver: abs(int(driver.branch) - int(branch)), default=None)
    return f"use branch {best.branch} with {best.modules} modules" if best else ""


def suggest_machine(catalog: Catalog, suits: Callable[[Gpu], bool]) -> str:
    """Suggest the first instance family whose GPU suits: "use a g4dn (T4)".

    The catalog lists the cheapest family first.
    """
    for machine in catalog.instance_types.values():
        usable = not (machine.retired or machine.fractional or machine.unserved)
        gpu = catalog.gpus.get(machine.gpu)
        if usable and machine.architecture == "x86_64" and gpu and suits(gpu):
            return f"use a {machine.family} ({machine.gpu})"
    return ""
