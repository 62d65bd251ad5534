"""The nearest that can work, in words: the end of a refusal."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from bake.catalog import Catalog, Cuda, Driver, Gpu, distance


def either(*ways: object) -> str:
    """A sentence of those ways that there are; empty ones are left out."""
    text = ", or ".join(str(way) for way in ways if way)
    return text[:1].upper() + text[1:]


def closest_cuda(cuda: Cuda, among: Iterable[Cuda]) -> str:
    best = min(among, key=lambda other: distance(other.version, cuda.version), default=None)
    return f"CUDA {best.version}" if best else ""


def closest_driver(branch: str, among: Iterable[Driver]) -> str:
    best = min(among, key=lambda driver: abs(int(driver.branch) - int(branch)), default=None)
    return f"branch {best.branch} with {best.modules} modules" if best else ""


def machine_with(catalog: Catalog, able: Callable[[Gpu], bool]) -> str:
    """ "a g4dn (T4)": the first family that is able; the facts begin with the cheapest."""
    for machine in catalog.instance_types.values():
        whole = not (machine.retired or machine.fractional)
        if whole and machine.architecture == "x86_64" and able(catalog.gpus[machine.gpu]):
            return f"a {machine.family} ({machine.gpu})"
    return ""
