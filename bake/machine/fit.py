"""Which GPU machines an image works on: its tags describe its contents, the catalog the machines.

All functions are pure. An image also works on machines that it was not baked for, if its driver
supports the GPU and its CUDA and framework contain code for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bake.catalog import Build, Catalog, Cuda, Driver, InstanceType, distance, nearest, runs_on
from bake.errors import Finding, RequestError
from bake.plan import description
from bake.recipe.gpu_checks import driver_problem


@dataclass(frozen=True)
class Contents:
    """The contents of an image that decide which machines it works on.

    None: the tags do not contain it, or the catalog does not know it; then it excludes no machine.
    """

    architecture: str
    driver: Driver | None = None
    cuda: Cuda | None = None
    build: Build | None = None
    fabric_manager: bool = True

    @property
    def known(self) -> bool:
        return bool(self.driver or self.cuda or self.build)

    def __str__(self) -> str:
        parts = [
            self.driver and f"driver {self.driver.branch} ({self.driver.modules} modules)",
            self.cuda and f"CUDA {self.cuda.version}",
            self.build and f"{self.build.name} {self.build.version}",
        ]
        return ", ".join(part for part in parts if part)


def read_contents(catalog: Catalog, tags: Mapping[str, str], architecture: str) -> Contents:
    """Read the contents from the description of the plan in an image's tags (`bake:plan:0…`)."""
    described = description.read(tags)
    if described is None:
        return Contents(architecture)
    told = {
        name: value for stage in described.stages.values() for name, value in stage.inputs.items()
    }

    def says(**values: str) -> bool:
        return all(
            name in told and description.is_same(told[name], values[name]) for name in values
        )

    return Contents(
        architecture,
        driver=next((driver for driver in catalog.drivers if says(**_inputs(driver))), None),
        cuda=next((c for c in catalog.cuda.values() if says(CUDA_VERSION=c.version)), None),
        build=next(
            (
                build
                for build in catalog.builds
                if build.name in described.stages
                and says(FRAMEWORK_VERSION=build.version)
                and any(says(CUDA_VERSION=version) for version in build.cuda)
            ),
            None,
        ),
        fabric_manager=not says(FABRIC_MANAGER_PACKAGES=""),
    )


def _inputs(driver: Driver) -> dict[str, str]:
    """Return the stage inputs that identify a driver; the open modules have their own packages."""
    return {
        "OS_ID": driver.os,
        "DRIVER_BRANCH": driver.branch,
        "DRIVER_KERNEL_PACKAGES": " ".join(driver.kernel),
    }


def find_problem(catalog: Catalog, inside: Contents, machine: InstanceType) -> str:
    """Return why the image does not work on this machine; "" if it does."""
    return next(_problems(catalog, inside, machine), "")


def _problems(catalog: Catalog, inside: Contents, machine: InstanceType) -> Iterator[str]:
    gpu, driver = catalog.gpus[machine.gpu], inside.driver
    if machine.retired:
        yield f"no longer offered: {machine.retired}"
    if machine.architecture != inside.architecture:
        yield f"its CPU is {machine.architecture}, the image {inside.architecture}"
    if machine.fractional:
        yield "a slice of a GPU, which needs AWS's GRID driver"
    if inside.cuda and not runs_on(inside.cuda.capabilities, gpu.capability):
        yield f"CUDA {inside.cuda.version} has no code for it"
    if driver:
        version = catalog.driver_version(driver.os, driver.branch) or driver.version
        if found := driver_problem(gpu, version, driver.branch, driver.modules):
            yield found[1]
    if inside.build and not runs_on(inside.build.capabilities, gpu.capability):
        yield f"{inside.build.name} {inside.build.version} has no code for it"
    if machine.fabric_manager and not inside.fabric_manager:
        yield "NVIDIA's Fabric Manager, which it needs, is not in the image"


def fitting_types(
    catalog: Catalog, inside: Contents, gpus: int | None = None
) -> list[InstanceType]:
    """Return the machines on which the image works, with `gpus` GPUs, in the catalog's order."""
    return [
        machine
        for machine in catalog.instance_types.values()
        if gpus in (None, machine.gpus) and not find_problem(catalog, inside, machine)
    ]


def check_types(catalog: Catalog, inside: Contents, asked: Sequence[str]) -> None:
    """Raise RequestError if the image does not work on a requested instance type.

    Each finding names the most similar type that works. An image whose contents are unknown is
    accepted.
    """
    if not inside.known:
        return
    findings = []
    for name in asked:
        machine = catalog.instance_types.get(name)
        if machine is None:
            hint = nearest(name, (each.name for each in fitting_types(catalog, inside)))
            findings.append(Finding(name, "unknown GPU machine", hint))
        elif why := find_problem(catalog, inside, machine):
            place = f"{name} ({machine.gpu})"
            findings.append(Finding(place, why, _nearest(catalog, inside, machine)))
    if findings:
        raise RequestError(
            f"The image does not work on {_listed(asked)}"
            if len(findings) == len(asked)
            else "The image does not work on all of these",
            findings=findings,
            hint=f"Name other types, or leave out --instance-type. The image contains: {inside}",
        )


def default_types(
    catalog: Catalog, inside: Contents, of_the_recipe: Sequence[str], gpus: int | None
) -> tuple[str, ...]:
    """Return the instance types for a launch that names none.

    These are the recipe's types on which the image works; if there is none, all types of the
    catalog on which it works that have `gpus` GPUs (default: one).
    """
    known = catalog.instance_types
    ours = [
        name
        for name in of_the_recipe
        if name in known
        and gpus in (None, known[name].gpus)
        and not find_problem(catalog, inside, known[name])
    ]
    if ours or not inside.known:
        return tuple(ours)
    return tuple(machine.name for machine in fitting_types(catalog, inside, gpus or 1))


def _nearest(catalog: Catalog, inside: Contents, wanted: InstanceType) -> str:
    """Return a hint with the most similar type that works: in GPUs, generation and size."""
    able = fitting_types(catalog, inside)

    def far(machine: InstanceType) -> tuple[object, ...]:
        generations = distance(machine.capability, wanted.capability)
        return abs(machine.gpus - wanted.gpus), generations, abs(machine.vcpus - wanted.vcpus)

    closest = min(able, key=far, default=None)
    return f"Nearest that works: {closest.name}" if closest else ""


def _listed(names: Sequence[str]) -> str:
    return " or ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} or {names[-1]}"
