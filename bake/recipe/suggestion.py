"""Hints for a recipe that cannot work: the nearest CUDA release, driver or machine that can."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from bake.catalog import Catalog, Cuda, Driver, Gpu, distance


def either(*ways: object) -> str:
    """Join alternatives to one sentence; an empty one is left out."""
    text = ", or ".join(str(way) for way in ways if way)
    return text[:1].upper() + text[1:]


def use(names: Iterable[str]) -> str:
    """Return "use A or B"; empty without names."""
    listed = " or ".join(names)
    return f"use {listed}" if listed else ""


def use_cuda(cuda: Cuda, among: Iterable[Cuda]) -> str:
    """Suggest the release nearest to `cuda`; empty without releases."""
    best = min(among, key=lambda other: distance(other.version, cuda.version), default=None)
    return f"use CUDA {best.version}" if best else ""


def use_driver(branch: str, among: Iterable[Driver]) -> str:
    """Suggest the driver whose branch is nearest to `branch`; empty without drivers."""
    best = min(among, key=lambda driver: abs(int(driver.branch) - int(branch)), default=None)
    return f"use branch {best.branch} with {best.modules} modules" if best else ""


def use_machine(catalog: Catalog, suits: Callable[[Gpu], bool]) -> str:
    """Suggest the first instance family whose GPU suits: "use a g4dn (T4)".

    The catalog lists the cheapest family first.
    """
    for machine in catalog.instance_types.values():
        whole = not (machine.retired or machine.fractional)
        if whole and machine.architecture == "x86_64" and suits(catalog.gpus[machine.gpu]):
            return f"use a {machine.family} ({machine.gpu})"
    return ""
