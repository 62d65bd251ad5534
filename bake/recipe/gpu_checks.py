"""Checks of a recipe against the GPUs of its builder: do machine, driver and code support them?"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from operator import is_

from bake.catalog import Gpu, InstanceType, numbers, runs_on
from bake.errors import Finding
from bake.recipe.recipe import promises_no_gpu
from bake.recipe.resolved import Resolved
from bake.recipe.suggestion import alternatives, suggest_cuda, suggest_driver, suggest_machine

_UNCHECKED = "To try it nevertheless, add --unchecked"
_PLACE = "builder.instance_types"


def check_machines(resolved: Resolved) -> Iterator[Finding]:
    """Refuse retired types, another architecture, parts of a GPU, and what no stage installs.

    A type that the catalog does not know is described by EC2 before a bake, and checked then.
    """
    for machine in resolved.machines:
        if found := _machine_problem(resolved, machine):
            yield Finding(_PLACE, *found)
        elif machine.gpu and machine.gpu not in resolved.catalog.gpus and _uses_gpu(resolved):
            message = f"bake does not know the GPU of {machine.name}, the {machine.gpu}"
            yield Finding(_PLACE, message, _UNCHECKED, unknown=True)


def _uses_gpu(resolved: Resolved) -> bool:
    return not promises_no_gpu(resolved.recipe)


def _machine_problem(resolved: Resolved, machine: InstanceType) -> tuple[str, str] | None:
    """Return the message and the hint; None for a machine that the image can boot on."""
    catalog, os_image, gpu = resolved.catalog, resolved.os_image, machine.gpu
    shown = f"{machine.name} ({gpu})" if gpu else machine.name
    if machine.retired:
        message = f"{shown} is no longer offered: {machine.retired}"
        return message, f"Use {machine.replaced_by} instead"
    if machine.architecture != os_image.architecture:
        image = f"{os_image.key} is {os_image.architecture}"
        hint = alternatives(suggest_machine(catalog, lambda _: True))
        return f"{machine.name} is {machine.architecture}, and {image}", hint
    if not _uses_gpu(resolved):
        return None
    if not gpu and resolved.recipe.gpu == "required":
        hint = alternatives(suggest_machine(catalog, lambda _: True), 'write gpu = "if-present"')
        return f"{machine.name} has no NVIDIA GPU, and the recipe requires one", hint
    if machine.fractional:
        same = partial(is_, catalog.gpus.get(gpu))
        hint = alternatives(suggest_machine(catalog, same))
        return f"{machine.name} has a slice of a GPU, which only AWS's GRID driver supports", hint
    if machine.unserved:
        hint = alternatives(suggest_machine(catalog, lambda g: g.capability == "9.0"))
        return f"no image works on {shown}: {machine.unserved}", hint
    return None


def check_cuda_on_gpus(resolved: Resolved) -> Iterator[Finding]:
    catalog, cuda = resolved.catalog, resolved.cuda
    if cuda is None:
        return
    for gpu in resolved.gpus:
        if runs_on(cuda.capabilities, gpu.capability):
            continue
        able = (c for c in catalog.cuda.values() if runs_on(c.capabilities, gpu.capability))
        machine = suggest_machine(catalog, lambda g: runs_on(cuda.capabilities, g.capability))
        yield Finding(
            "cuda.version",
            f"CUDA {cuda.version} does not support the {gpu.name} ({gpu.capability})",
            alternatives(
                suggest_cuda(cuda, able) or "no known CUDA release has code for it", machine
            ),
        )


def check_driver_with_gpus(resolved: Resolved) -> Iterator[Finding]:
    version, wanted = resolved.driver_version, resolved.recipe.driver
    if wanted is None or version is None:
        return
    for gpu in resolved.gpus:
        problem = driver_problem(gpu, version, wanted.branch, wanted.modules)
        if not problem:
            continue
        able = (
            driver
            for driver in resolved.drivers_of_os
            if not driver_problem(gpu, driver.version, driver.branch, driver.modules)
        )
        machine = suggest_machine(
            resolved.catalog,
            lambda g: not driver_problem(g, version, wanted.branch, wanted.modules),
        )
        none = f"no driver of {resolved.os_image.key} supports it"
        yield Finding(*problem, alternatives(suggest_driver(wanted.branch, able) or none, machine))


def driver_problem(gpu: Gpu, version: str, branch: str, modules: str) -> tuple[str, str] | None:
    """Return why a driver does not support a GPU: the place in the recipe, and the message."""

    def older_than(least: str) -> bool:
        return numbers(version) < numbers(least)

    if gpu.first_driver and older_than(gpu.first_driver):
        first = f"the first version that does is {gpu.first_driver}"
        return "driver.branch", f"driver {version} does not support the {gpu.name}: {first}"
    if gpu.last_branch and int(branch) > int(gpu.last_branch):
        last = f"the last branch that does is {gpu.last_branch}"
        return "driver.branch", f"driver {branch} no longer supports the {gpu.name}: {last}"
    if modules == "proprietary" and gpu.open_only:
        return "driver.modules", f"the {gpu.name} works only with the open kernel modules"
    if modules == "open" and not gpu.open_from:
        since = "they support Turing and later"
        return "driver.modules", f"the open kernel modules do not support the {gpu.name}: {since}"
    if modules == "open" and gpu.open_from and older_than(gpu.open_from):
        message = f"the open kernel modules of driver {version} do not support the {gpu.name}"
        return "driver.modules", f"{message}: the first version that does is {gpu.open_from}"
    return None


def check_fabric_manager(resolved: Resolved) -> Iterator[Finding]:
    if resolved.driver is None or resolved.driver.fabric_manager:
        return
    for machine in resolved.machines:
        if machine.fabric_manager:
            message = f"{machine.name} needs NVIDIA's Fabric Manager"
            yield Finding(
                "builder.instance_types",
                f"{message}, and {resolved.os_image.key} has no package for it",
                "Use an Ubuntu base, or an instance type of the g families",
            )


def can_use_switches(resolved: Resolved) -> bool:
    """Return True if the recipe's parts work on a GPU of a machine with NVSwitches."""
    gpus = {m.gpu for m in resolved.catalog.instance_types.values() if m.fabric_manager}
    return any(_works_on(resolved, resolved.catalog.gpus[name]) for name in gpus)


def _works_on(resolved: Resolved, gpu: Gpu) -> bool:
    version, wanted, build = resolved.driver_version, resolved.recipe.driver, resolved.build
    return (
        (resolved.cuda is None or runs_on(resolved.cuda.capabilities, gpu.capability))
        and (build is None or runs_on(build.capabilities, gpu.capability))
        and wanted is not None
        and version is not None
        and not driver_problem(gpu, version, wanted.branch, wanted.modules)
    )


def check_framework_on_gpus(resolved: Resolved) -> Iterator[Finding]:
    build, cuda = resolved.build, resolved.cuda
    if build is None or cuda is None:
        return
    for gpu in resolved.gpus:
        if runs_on(build.capabilities, gpu.capability):
            continue
        able = [
            f"{other.name} {other.version} for CUDA {other.cuda[0]}"
            for other in resolved.catalog.builds
            if other.cuda and runs_on(other.capabilities, gpu.capability)
        ]
        what = f"{build.name} {build.version} for CUDA {cuda.version}"
        yield Finding(
            "framework.version",
            f"{what} does not support the {gpu.name} ({gpu.capability})",
            alternatives(
                able and f"use one of {', '.join(able)}",
                suggest_machine(
                    resolved.catalog, lambda g: runs_on(build.capabilities, g.capability)
                ),
            ),
        )
