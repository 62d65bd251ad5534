"""Whether the parts of a recipe can work together, and if not, the nearest that can.

Every question is asked, so that all findings come at once. None of them needs a network: what only
the cloud knows (zones, quotas, the newest image) is asked by the preflight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from operator import is_

from packaging.requirements import Requirement

from bake.catalog import (
    Build,
    Catalog,
    Cuda,
    D2l,
    Driver,
    Gpu,
    InstanceType,
    OsImage,
    distance,
    numbers,
    runs_on,
)
from bake.errors import Finding, IncompatibleError
from bake.recipe.recipe import Recipe

# Room for apt's lists, logs, pip's temporary copies and the notebooks.
HEADROOM_GB = 8


@dataclass(frozen=True)
class _Case:
    """A recipe with what the catalog knows of its parts. `driver_version` may be known for a branch
    that this OS has no packages of."""

    catalog: Catalog
    recipe: Recipe
    machines: tuple[InstanceType, ...]
    gpus: tuple[Gpu, ...]
    os_image: OsImage
    cuda: Cuda
    build: Build | None
    d2l: D2l
    driver: Driver | None
    driver_version: str | None

    @property
    def on_this_os(self) -> list[Driver]:
        return [driver for driver in self.catalog.drivers if driver.os == self.os_image.key]


def check(catalog: Catalog, recipe: Recipe, instance_types: tuple[str, ...]) -> list[Finding]:
    """Findings, in the order in which the parts stand upon each other.

    RecipeError for an operating system or a machine that the catalog does not know.
    """
    machines = tuple(catalog.instance_type(name) for name in instance_types)
    framework, driver = recipe.framework, recipe.driver
    case = _Case(
        catalog=catalog,
        recipe=recipe,
        machines=machines,
        gpus=tuple(catalog.gpus[name] for name in dict.fromkeys(m.gpu for m in machines)),
        os_image=catalog.os_image(recipe.base),
        cuda=catalog.cuda[recipe.cuda.version],
        build=catalog.build(framework.name, framework.version, recipe.cuda.version),
        d2l=catalog.d2l[recipe.d2l.version],
        driver=catalog.driver(recipe.base, driver.branch, driver.modules),
        driver_version=catalog.driver_version(recipe.base, driver.branch),
    )
    questions = (
        _machines,
        _cuda_on_os,
        _cuda_on_gpus,
        _driver_on_os,
        _driver_with_cuda,
        _driver_with_gpus,
        _fabric_manager,
        _framework_with_cuda,
        _framework_with_python,
        _framework_on_gpus,
        _d2l,
        _venv,
        _installer,
        _disk,
    )
    return list(chain.from_iterable(question(case) for question in questions))


def _machines(case: _Case) -> Iterator[Finding]:
    place = "builder.instance_types"
    for machine in case.machines:
        if machine.retired:
            message = f"{machine.name} ({machine.gpu}) is no longer offered: {machine.retired}"
            yield Finding(place, message, f"Take {machine.replaced_by} in its place")
        elif machine.architecture != case.os_image.architecture:
            ours = f"{case.os_image.key} is {case.os_image.architecture}"
            message = f"{machine.name} is {machine.architecture}, and {ours}"
            yield Finding(place, message, either(_take_machine(case, lambda _: True)))
        elif machine.fractional:
            message = f"{machine.name} has a slice of a GPU, which AWS's GRID driver alone serves"
            whole = _take_machine(case, partial(is_, case.catalog.gpus[machine.gpu]))
            yield Finding(place, message, either(whole))


def _cuda_on_os(case: _Case) -> Iterator[Finding]:
    cuda, key = case.cuda, case.os_image.key
    if key not in cuda.on:
        here = (other for other in case.catalog.cuda.values() if key in other.on)
        yield Finding(
            "cuda.version",
            f"CUDA {cuda.version} has no packages for {key}",
            either(f"the nearest that has is {closest_cuda(cuda, here)}", _take(cuda.on)),
        )


def _cuda_on_gpus(case: _Case) -> Iterator[Finding]:
    cuda = case.cuda
    for gpu in case.gpus:
        if runs_on(cuda.capabilities, gpu.capability):
            continue
        known = case.catalog.cuda.values()
        able = closest_cuda(cuda, (c for c in known if runs_on(c.capabilities, gpu.capability)))
        machine = _take_machine(case, lambda g: runs_on(cuda.capabilities, g.capability))
        yield Finding(
            "cuda.version",
            f"CUDA {cuda.version} has no code for the {gpu.name} ({gpu.capability})",
            either(f"the nearest that has is {able}" if able else "none here has", machine),
        )


def _driver_on_os(case: _Case) -> Iterator[Finding]:
    if case.driver:
        return
    key, wanted = case.os_image.key, case.recipe.driver
    same_branch = any(driver.branch == wanted.branch for driver in case.on_this_os)
    what = f"{wanted.modules} modules" if same_branch else "packages"
    message = f"{key} has no {what} of driver {wanted.branch}"
    if left_out := case.catalog.left_out.get(wanted.branch):
        message += f" ({left_out.version}): {left_out.reason}"
    has = ", ".join(f"{driver.branch} ({driver.modules})" for driver in case.on_this_os)
    place = "driver.modules" if same_branch else "driver.branch"
    yield Finding(place, message, f"It has {has}")


def _driver_with_cuda(case: _Case) -> Iterator[Finding]:
    cuda, version, least = case.cuda, case.driver_version, case.catalog.min_driver(case.cuda)
    if version is None or _reaches(version, least):
        return
    newer = [driver for driver in case.catalog.drivers if _reaches(driver.version, least)]
    here = [driver for driver in newer if driver.os == case.os_image.key]
    older = (
        other
        for other in case.catalog.cuda.values()
        if case.os_image.key in other.on and _reaches(version, case.catalog.min_driver(other))
    )
    yield Finding(
        "driver.branch",
        f"driver {version} is too old for CUDA {cuda.version}, which needs {least}",
        either(
            here and f"take {closest_driver(case.recipe.driver.branch, here)}",
            closest_cuda(cuda, older),
            not here and _take(dict.fromkeys(d.os for d in newer if d.os in cuda.on)),
        ),
    )


def _driver_with_gpus(case: _Case) -> Iterator[Finding]:
    version, wanted = case.driver_version, case.recipe.driver
    if version is None:
        return
    for gpu in case.gpus:
        problem = driver_problem(gpu, version, wanted.branch, wanted.modules)
        if not problem:
            continue
        able = (
            driver
            for driver in case.on_this_os
            if not driver_problem(gpu, driver.version, driver.branch, driver.modules)
        )
        machine = _take_machine(
            case, lambda g: not driver_problem(g, version, wanted.branch, wanted.modules)
        )
        place, message = problem
        take = closest_driver(wanted.branch, able)
        none = f"no driver of {case.os_image.key} does"
        yield Finding(place, message, either(f"take {take}" if take else none, machine))


def driver_problem(gpu: Gpu, version: str, branch: str, modules: str) -> tuple[str, str] | None:
    """Why a driver does not work on a GPU: the place in the recipe, and the message."""
    if gpu.first_driver and not _reaches(version, gpu.first_driver):
        first = f"the first that does is {gpu.first_driver}"
        return "driver.branch", f"driver {version} does not know the {gpu.name}: {first}"
    if gpu.last_branch and int(branch) > int(gpu.last_branch):
        last = f"its last branch is {gpu.last_branch}"
        return "driver.branch", f"driver {branch} has dropped the {gpu.name}: {last}"
    if modules == "proprietary" and gpu.open_only:
        return "driver.modules", f"the {gpu.name} works with the open kernel modules alone"
    if modules == "open" and not gpu.open_from:
        since = "they begin with Turing"
        return "driver.modules", f"the open kernel modules do not know the {gpu.name}: {since}"
    if modules == "open" and gpu.open_from and not _reaches(version, gpu.open_from):
        message = f"the open kernel modules of driver {version} do not know the {gpu.name}"
        return "driver.modules", f"{message}: the first that do are {gpu.open_from}"
    return None


def _fabric_manager(case: _Case) -> Iterator[Finding]:
    if case.driver is None or case.driver.fabric_manager:
        return
    for machine in case.machines:
        if machine.fabric_manager:
            message = f"{machine.name} needs NVIDIA's Fabric Manager"
            yield Finding(
                "builder.instance_types",
                f"{message}, and {case.os_image.key} has no package of it",
                "Take an Ubuntu base, or a machine of the g families",
            )


def _framework_with_cuda(case: _Case) -> Iterator[Finding]:
    if case.build:
        return
    wanted, cuda = case.recipe.framework, case.cuda.version
    builds = case.catalog.builds
    here = [f"{build.name} {build.version}" for build in builds if cuda in build.cuda]
    same = [b for b in builds if (b.name, b.version) == (wanted.name, wanted.version)]
    goes_with = ", ".join(version for build in same for version in build.cuda)
    yield Finding(
        "framework.version",
        f"{wanted.name} {wanted.version} has no wheel for CUDA {cuda}",
        either(
            here and f"for CUDA {cuda} there is {' and '.join(here)}",
            same and f"take CUDA {goes_with}, which it has one for",
        ),
    )


def _framework_with_python(case: _Case) -> Iterator[Finding]:
    build, python = case.build, case.recipe.python.version
    if build and python not in build.python:
        closest = min(build.python, key=lambda version: distance(version, python))
        yield Finding(
            "python.version",
            f"{build.name} {build.version} does not work with Python {python}",
            f"The nearest that does is Python {closest}",
        )


def _framework_on_gpus(case: _Case) -> Iterator[Finding]:
    build = case.build
    if build is None:
        return
    for gpu in case.gpus:
        if runs_on(build.capabilities, gpu.capability):
            continue
        able = [
            f"{other.name} {other.version} for CUDA {other.cuda[0]}"
            for other in case.catalog.builds
            if runs_on(other.capabilities, gpu.capability)
        ]
        what = f"{build.name} {build.version} for CUDA {case.cuda.version}"
        yield Finding(
            "framework.version",
            f"{what} has no code for the {gpu.name} ({gpu.capability})",
            either(
                able and f"there is {', '.join(able)}",
                _take_machine(case, lambda g: runs_on(build.capabilities, g.capability)),
            ),
        )


def _d2l(case: _Case) -> Iterator[Finding]:
    fitting = [d2l.version for d2l in case.catalog.d2l.values() if not _d2l_problem(case, d2l)]
    if problem := _d2l_problem(case, case.d2l):
        hint = f"d2l {' or '.join(fitting)} does" if fitting else "no other d2l here does either"
        yield Finding("d2l.version", f"d2l {case.d2l.version} {problem}", either(hint))


def _d2l_problem(case: _Case, d2l: D2l) -> str:
    python, framework = case.recipe.python.version, case.recipe.framework.name
    pin = numpy_of(case.build, python) if case.build else None
    if python not in d2l.python:
        return f"does not work with Python {python}"
    if pin and d2l.numpy and pin != d2l.numpy:
        return f"pins numpy {d2l.numpy}, and {framework} works with {pin}"
    if case.recipe.d2l.notebooks and framework not in d2l.notebooks:
        return f"has no notebooks for {framework}"
    return ""


def numpy_of(build: Build, python: str) -> str | None:
    """The numpy that a build is given for this Python; None if it may have any."""
    for requirement in map(Requirement, build.numpy):
        if requirement.marker is None or requirement.marker.evaluate({"python_version": python}):
            return str(requirement.specifier).removeprefix("==")
    return None


def _venv(case: _Case) -> Iterator[Finding]:
    python, own = case.recipe.python, case.os_image.python
    if python.manager == "venv" and python.version != own:
        others = [o.key for o in case.catalog.os_images.values() if o.python == python.version]
        yield Finding(
            "python.version",
            f"a venv has the OS's own Python, which is {own} on {case.os_image.key}",
            either(f'write "{own}"', _take(others), "choose miniforge as the manager"),
        )


def _installer(case: _Case) -> Iterator[Finding]:
    python, glibc = case.recipe.python, case.os_image.glibc
    installer = case.catalog.installer(python.manager, python.installer)
    if installer is None or _reaches(glibc, installer.glibc):
        return
    enough = [
        other.version
        for other in case.catalog.installers
        if other.manager == python.manager and _reaches(glibc, other.glibc)
    ]
    needs = f"{python.manager} {python.installer} needs glibc {installer.glibc}"
    yield Finding(
        "python.installer",
        f"{needs}, and {case.os_image.key} has {glibc}",
        either(enough and f"the newest that does not is {enough[-1]}", "take miniforge"),
    )


def _disk(case: _Case) -> Iterator[Finding]:
    toolkit = case.cuda.on.get(case.os_image.key)
    parts = {
        case.os_image.key: case.os_image.size_gb,
        f"CUDA {case.cuda.version}": toolkit.disk_gb if toolkit else 0,
        case.recipe.framework.name: case.build.size_gb if case.build else 0,
        "room to work": HEADROOM_GB,
    }
    disk_gb, least = case.recipe.builder.disk_gb, sum(parts.values())
    if disk_gb < least:
        listed = ", ".join(f"{what} {gb}" for what, gb in parts.items() if gb)
        message = f"{disk_gb} GB are too small: about {least} are needed ({listed})"
        yield Finding("builder.disk_gb", message, "Write 64, which is the default")


def _reaches(version: str, least: str) -> bool:
    return numbers(version) >= numbers(least)


def _take(names: Iterable[str]) -> str:
    listed = " or ".join(names)
    return f"take {listed}" if listed else ""


def _take_machine(case: _Case, able: Callable[[Gpu], bool]) -> str:
    machine = machine_with(case.catalog, able)
    return f"take {machine}" if machine else ""


def refuse_what_cannot_work(recipe: Recipe, catalog: Catalog) -> None:
    """IncompatibleError with every finding; nothing has to be reached or started to know it."""
    if findings := check(catalog, recipe, recipe.builder.instance_types):
        message = f"the recipe {recipe.name} cannot work"
        raise IncompatibleError(message, findings=findings)


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
