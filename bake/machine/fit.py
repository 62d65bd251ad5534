"""Find the machines on which an image works, by its tags and the catalog.

All functions are pure: `bake.aws.instance_type` adds types to the catalog that only EC2 describes.
An image also works on machines that it was not baked for, if its driver supports the GPU and its
CUDA and framework contain code for it. On a machine without a GPU, it works without one.
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

    A part is None if the tags do not contain it or the catalog does not know it. It then excludes
    no machine.
    """

    architecture: str
    driver: Driver | None = None
    cuda: Cuda | None = None
    build: Build | None = None
    fabric_manager: bool = True

    @property
    def known(self) -> bool:
        return bool(self.driver or self.cuda or self.build)

    @property
    def uses_gpu(self) -> bool:
        """False for an image for the CPU, and if this is not known."""
        return bool(self.driver or self.cuda)

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
    inputs = {
        name: value
        for stage in described.installed.values()
        for name, value in stage.inputs.items()
    }

    def has_inputs(**values: str) -> bool:
        return all(
            name in inputs and description.is_same(inputs[name], values[name]) for name in values
        )

    return Contents(
        architecture,
        driver=next(
            (driver for driver in catalog.drivers if has_inputs(**_driver_inputs(driver))), None
        ),
        cuda=next((c for c in catalog.cuda.values() if has_inputs(CUDA_VERSION=c.version)), None),
        build=next(
            (
                build
                for build in catalog.builds
                if build.name in described.installed
                and has_inputs(FRAMEWORK_VERSION=build.version)
                and (
                    has_inputs(FRAMEWORK_REQUIREMENTS="\n".join(build.requirements + build.numpy))
                    or any(has_inputs(CUDA_VERSION=version) for version in build.cuda)
                )
            ),
            None,
        ),
        fabric_manager=not has_inputs(FABRIC_MANAGER_PACKAGES=""),
    )


def _driver_inputs(driver: Driver) -> dict[str, str]:
    """Return the stage inputs that identify a driver; the open modules have their own packages."""
    return {
        "OS_ID": driver.os,
        "DRIVER_BRANCH": driver.branch,
        "DRIVER_KERNEL_PACKAGES": " ".join(driver.kernel),
    }


def find_problem(catalog: Catalog, contents: Contents, machine: InstanceType) -> str:
    """Return why the image does not work on this machine; "" if it does.

    `check_types` is about a GPU that the catalog does not know; here it does not count.
    """
    return next(_problems(catalog, contents, machine), "")


def _problems(catalog: Catalog, contents: Contents, machine: InstanceType) -> Iterator[str]:
    if machine.retired:
        yield f"no longer offered: {machine.retired}"
    if machine.architecture != contents.architecture:
        yield f"its CPU is {machine.architecture}, but the image is {contents.architecture}"
    if machine.gpu and (contents.uses_gpu or not contents.known):
        yield from _gpu_problems(catalog, contents, machine)


def _gpu_problems(catalog: Catalog, contents: Contents, machine: InstanceType) -> Iterator[str]:
    if machine.fractional:
        yield "it has a slice of a GPU, which needs AWS's GRID driver"
    if machine.unserved:
        yield machine.unserved
    gpu, driver = catalog.gpus.get(machine.gpu), contents.driver
    if gpu is None:
        return
    if contents.cuda and not runs_on(contents.cuda.capabilities, gpu.capability):
        yield f"CUDA {contents.cuda.version} does not support it"
    if driver:
        version = catalog.driver_version(driver.os, driver.branch) or driver.version
        if found := driver_problem(gpu, version, driver.branch, driver.modules):
            yield found[1]
    if contents.build and not runs_on(contents.build.capabilities, gpu.capability):
        yield f"{contents.build.name} {contents.build.version} does not support it"
    if machine.fabric_manager and not contents.fabric_manager:
        yield "it needs NVIDIA's Fabric Manager, which is not in the image"


def fitting_types(
    catalog: Catalog, contents: Contents, gpus: int | None = None
) -> list[InstanceType]:
    """Return the machines of the catalog on which the image works, in its order.

    They have `gpus` GPUs or, for None, any number of them.
    """
    return [
        machine
        for machine in catalog.instance_types.values()
        if machine.gpu in catalog.gpus
        and gpus in (None, machine.gpus)
        and not find_problem(catalog, contents, machine)
    ]


def check_types(
    catalog: Catalog, contents: Contents, requested: Sequence[str], *, unchecked: bool = False
) -> list[Finding]:
    """Return what a user should know about the requested instance types, if the image is known.

    RequestError if it does not work on one of them; each finding then names the most similar type
    that works. `unchecked` accepts a GPU that the catalog does not know.
    """
    if not contents.known:
        return []
    findings, warnings = [], []
    for name in requested:
        machine = catalog.instance_types.get(name)
        if machine is None:
            hint = nearest(name, (each.name for each in fitting_types(catalog, contents)))
            findings.append(Finding(name, "EC2 does not offer this instance type here", hint))
        elif why := find_problem(catalog, contents, machine):
            place = f"{name} ({machine.gpu})" if machine.gpu else name
            findings.append(Finding(place, why, _nearest(catalog, contents, machine)))
        elif contents.uses_gpu and not machine.gpu:
            warnings.append(Finding(name, "it has no NVIDIA GPU, so the image works without one"))
        elif contents.uses_gpu and machine.gpu not in catalog.gpus:
            message = f"bake does not know its GPU, the {machine.gpu}"
            hint = "To try it nevertheless, add --unchecked"
            (warnings if unchecked else findings).append(Finding(name, message, hint))
    if findings:
        raise RequestError(
            f"The image does not work on {_listed(requested)}"
            if len(findings) == len(requested)
            else "The image does not work on some of the requested types",
            findings=findings,
            hint=f"Name other types, or leave out --instance-type. The image contains: {contents}",
        )
    return warnings


def default_types(
    catalog: Catalog, contents: Contents, recipe_types: Sequence[str], gpus: int | None
) -> tuple[str, ...]:
    """Return the instance types for a launch that names none.

    The image works on all of them. They are types of the recipe or, if it has no such type and the
    image uses a GPU, all types of the catalog with `gpus` GPUs (default: one).
    """
    known = catalog.instance_types
    of_recipe = [
        name
        for name in recipe_types
        if name in known
        and gpus in (None, known[name].gpus)
        and not find_problem(catalog, contents, known[name])
    ]
    if of_recipe or not contents.uses_gpu:
        return tuple(of_recipe)
    return tuple(machine.name for machine in fitting_types(catalog, contents, gpus or 1))


def _nearest(catalog: Catalog, contents: Contents, wanted: InstanceType) -> str:
    """Return a hint with the working type that is most similar in GPUs, generation and size."""
    working = fitting_types(catalog, contents)

    def difference(machine: InstanceType) -> tuple[object, ...]:
        generations = distance(machine.capability, wanted.capability)
        return abs(machine.gpus - wanted.gpus), generations, abs(machine.vcpus - wanted.vcpus)

    closest = min(working, key=difference, default=None)
    return f"The most similar type that works is {closest.name}" if closest else ""


def _listed(names: Sequence[str]) -> str:
    return " or ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} or {names[-1]}"
