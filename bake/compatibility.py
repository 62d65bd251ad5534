"""Whether the parts of a recipe can work together, and if not, the nearest that can.

Every question is asked, so that all findings come at once. None of them needs a network: what only
the cloud knows (zones, quotas, the newest image) is asked by the preflight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING

from packaging.markers import default_environment
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
    nearest,
    numbers,
    runs_on,
)
from bake.errors import Finding

if TYPE_CHECKING:
    from bake.recipe import Recipe

# What is left over for apt's lists, logs, pip's temporary copies and the notebooks.
HEADROOM_GB = 8


def check(catalog: Catalog, recipe: Recipe, instance_types: tuple[str, ...]) -> list[Finding]:
    """Findings, in the order in which the parts stand upon each other. RecipeError: unknown names."""
    os_image = catalog.os_image(recipe.base)
    machines = [catalog.instance_type(name) for name in instance_types]
    usable = [machine for machine in machines if not machine.retired]
    gpus = {machine.gpu: catalog.gpus[machine.gpu] for machine in machines}.values()
    cuda = catalog.cuda[recipe.cuda.version]
    d2l = catalog.d2l[recipe.d2l.version]
    build = catalog.build(recipe.framework.name, recipe.framework.version, cuda.version)
    driver = catalog.driver(os_image.key, recipe.driver.branch, recipe.driver.modules)
    return list(
        chain(
            _machines(catalog, machines, os_image),
            _cuda_on_os(catalog, cuda, os_image),
            _cuda_on_gpus(catalog, cuda, gpus),
            _driver_on_os(catalog, recipe, os_image, driver),
            _driver_with_cuda(catalog, recipe, cuda),
            _driver_with_gpus(catalog, recipe, gpus),
            _fabric_manager(driver, usable),
            _framework(catalog, recipe, build, gpus),
            _d2l(catalog, recipe, build, d2l),
            _python(catalog, recipe, os_image),
            _disk(recipe, os_image, cuda, build),
        )
    )


def _machines(
    catalog: Catalog, machines: Iterable[InstanceType], os_image: OsImage
) -> Iterator[Finding]:
    place = "builder.instance_types"
    for machine in machines:
        if machine.retired:
            instead = _machine(catalog, catalog.gpus[_gpu_of(catalog, machine.replaced_by)])
            yield Finding(
                place,
                f"{machine.name} ({machine.gpu}) is no longer offered: {machine.retired}",
                f"Take {instead} in its place",
            )
        elif machine.architecture != os_image.architecture:
            yield Finding(
                place,
                f"{machine.name} is {machine.architecture}, and {os_image.key} is "
                f"{os_image.architecture}",
                f"Take {_machine(catalog, catalog.gpus['T4'])}",
            )
        elif machine.fractional:
            yield Finding(
                place,
                f"{machine.name} has a slice of a GPU, which only AWS's GRID driver serves",
                f"Take a whole one: {_machine(catalog, catalog.gpus[machine.gpu])}",
            )


def _cuda_on_os(catalog: Catalog, cuda: Cuda, os_image: OsImage) -> Iterator[Finding]:
    if os_image.key in cuda.on:
        return
    here = [c for c in catalog.cuda.values() if os_image.key in c.on]
    yield Finding(
        "cuda.version",
        f"CUDA {cuda.version} has no packages for {os_image.key}",
        f"{_closest_cuda(cuda, here)} has, or take {' or '.join(cuda.on)}",
    )


def _cuda_on_gpus(catalog: Catalog, cuda: Cuda, gpus: Iterable[Gpu]) -> Iterator[Finding]:
    for gpu in gpus:
        if runs_on(cuda.capabilities, gpu.capability):
            continue
        able = [c for c in catalog.cuda.values() if runs_on(c.capabilities, gpu.capability)]
        machine = _nearest_machine(catalog, lambda g: runs_on(cuda.capabilities, g.capability))
        nearest_cuda = (
            f"the nearest that has is {_closest_cuda(cuda, able)}" if able else "none has"
        )
        yield Finding(
            "cuda.version",
            f"CUDA {cuda.version} has no code for the {gpu.name} ({gpu.capability})",
            f"{nearest_cuda[0].upper()}{nearest_cuda[1:]}{machine}",
        )


def _driver_on_os(
    catalog: Catalog, recipe: Recipe, os_image: OsImage, driver: Driver | None
) -> Iterator[Finding]:
    if driver:
        return
    branch, modules = recipe.driver.branch, recipe.driver.modules
    here = [d for d in catalog.drivers if d.os == os_image.key]
    offered = ", ".join(f"{d.branch} ({d.modules})" for d in here)
    same_branch = [d for d in here if d.branch == branch]
    if same_branch:
        message = f"{os_image.key} has no {modules} modules of driver {branch}"
    else:
        message = f"{os_image.key} has no packages of driver {branch}"
    if left_out := catalog.left_out.get(branch):
        message += f" ({left_out.version}): {left_out.reason}"
    yield Finding("driver.branch" if not same_branch else "driver.modules", message,
                  f"It has {offered}")  # fmt: skip


def _driver_with_cuda(catalog: Catalog, recipe: Recipe, cuda: Cuda) -> Iterator[Finding]:
    version = _version(catalog, recipe)
    least = catalog.min_driver(cuda)
    if version is None or numbers(version) >= numbers(least):
        return
    here = {
        d.branch for d in catalog.drivers if d.os == recipe.base and _at_least(d.version, least)
    }
    able = [c for c in catalog.cuda.values()
            if recipe.base in c.on and _at_least(version, catalog.min_driver(c))]  # fmt: skip
    yield Finding(
        "driver.branch",
        f"driver {version} is too old for CUDA {cuda.version}, which needs {least}",
        _either(f"take branch {min(here)}" if here else "", able and _closest_cuda(cuda, able)),
    )


def _driver_with_gpus(catalog: Catalog, recipe: Recipe, gpus: Iterable[Gpu]) -> Iterator[Finding]:
    version, branch, modules = (
        _version(catalog, recipe),
        recipe.driver.branch,
        recipe.driver.modules,
    )
    if version is None:
        return
    for gpu in gpus:
        if problem := _driver_problem(gpu, version, branch, modules):
            place, message = problem
            fitting = [
                d
                for d in catalog.drivers
                if d.os == recipe.base and not _driver_problem(gpu, d.version, d.branch, d.modules)
            ]
            closest = min(fitting, key=lambda d: abs(int(d.branch) - int(branch)), default=None)
            machine = _nearest_machine(
                catalog, lambda g: not _driver_problem(g, version, branch, modules)
            )
            take = f"Branch {closest.branch} with {closest.modules} modules does" if closest else (
                f"No driver of {recipe.base} does"
            )  # fmt: skip
            yield Finding(place, message, take + machine)


def _driver_problem(gpu: Gpu, version: str, branch: str, modules: str) -> tuple[str, str] | None:
    """Why a driver does not work on a GPU: the place and the message."""
    if gpu.first_driver and numbers(version) < numbers(gpu.first_driver):
        return "driver.branch", f"driver {version} does not know the {gpu.name}: the first that does is {gpu.first_driver}"  # fmt: skip # noqa: E501
    if gpu.last_branch and int(branch) > int(gpu.last_branch):
        return "driver.branch", f"driver {branch} has dropped the {gpu.name}: its last branch is {gpu.last_branch}"  # fmt: skip # noqa: E501
    if modules == "open" and not gpu.open_from:
        return "driver.modules", f"the open kernel modules do not know the {gpu.name}: they begin with Turing"  # fmt: skip # noqa: E501
    if modules == "open" and numbers(version) < numbers(gpu.open_from or "0"):
        return "driver.modules", f"the open kernel modules of driver {version} do not know the {gpu.name}: the first that do are {gpu.open_from}"  # fmt: skip # noqa: E501
    if modules == "proprietary" and gpu.open_only:
        return "driver.modules", f"the {gpu.name} works with the open kernel modules alone"
    return None


def _fabric_manager(driver: Driver | None, machines: Iterable[InstanceType]) -> Iterator[Finding]:
    for machine in machines:
        if driver and machine.fabric_manager and not driver.fabric_manager:
            yield Finding(
                "builder.instance_types",
                f"{machine.name} needs NVIDIA's Fabric Manager, and {driver.os} has none",
                "Take a machine of the g families, or an Ubuntu base",
            )


def _framework(
    catalog: Catalog, recipe: Recipe, build: Build | None, gpus: Iterable[Gpu]
) -> Iterator[Finding]:
    name, version, cuda = recipe.framework.name, recipe.framework.version, recipe.cuda.version
    if build is None:
        here = [f"{b.name} {b.version}" for b in catalog.builds if cuda in b.cuda]
        same = [c for b in catalog.builds if (b.name, b.version) == (name, version) for c in b.cuda]
        for_cuda = f"for CUDA {cuda} there is {' or '.join(here)}" if here else ""
        yield Finding(
            "framework.version",
            f"{name} {version} has no wheel for CUDA {cuda}",
            _either(for_cuda, same and f"{name} {version} goes with CUDA {', '.join(same)}"),
        )
        return
    if recipe.python.version not in build.python:
        closest = min(build.python, key=lambda p: _distance(p, recipe.python.version))
        yield Finding(
            "python.version",
            f"{name} {version} does not work with Python {recipe.python.version}",
            f"The nearest that does is Python {closest}",
        )
    for gpu in gpus:
        if not runs_on(build.capabilities, gpu.capability):
            able = [b for b in catalog.builds if runs_on(b.capabilities, gpu.capability)]
            others = ", ".join(f"{b.name} {b.version} for CUDA {b.cuda[0]}" for b in able)
            machine = _nearest_machine(catalog, lambda g: runs_on(build.capabilities, g.capability))
            yield Finding(
                "framework.version",
                f"{name} {version} for CUDA {cuda} has no code for the {gpu.name} ({gpu.capability})",
                (f"There is {others}" if others else "No framework here has") + machine,
            )


def _d2l(catalog: Catalog, recipe: Recipe, build: Build | None, d2l: D2l) -> Iterator[Finding]:
    python = recipe.python.version
    fitting = [d.version for d in catalog.d2l.values() if _d2l_fits(d, recipe, build)]
    hint = f"d2l {' or '.join(fitting)} does" if fitting else "No d2l here does"
    if python not in d2l.python:
        yield Finding("d2l.version", f"d2l {d2l.version} does not work with Python {python}", hint)
    pin = numpy_of(build, python) if build else None
    if pin and d2l.numpy and pin != d2l.numpy:
        message = (
            f"d2l {d2l.version} pins numpy {d2l.numpy}, and {recipe.framework.name} needs {pin}"
        )
        yield Finding("d2l.version", message, hint)
    if recipe.d2l.notebooks and recipe.framework.name not in d2l.notebooks:
        message = f"there are no notebooks of d2l {d2l.version} for {recipe.framework.name}"
        yield Finding("d2l.version", message, f"{hint}, or write notebooks = false")


def _d2l_fits(d2l: D2l, recipe: Recipe, build: Build | None) -> bool:
    pin = numpy_of(build, recipe.python.version) if build else None
    return (
        recipe.python.version in d2l.python
        and (not pin or not d2l.numpy or pin == d2l.numpy)
        and (not recipe.d2l.notebooks or recipe.framework.name in d2l.notebooks)
    )


def numpy_of(build: Build, python: str) -> str | None:
    """The numpy that a build is given for this Python; None if it may have any."""
    environment = {**default_environment(), "python_version": python}
    for line in build.numpy:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate(environment):
            return str(requirement.specifier).removeprefix("==")
    return None


def _python(catalog: Catalog, recipe: Recipe, os_image: OsImage) -> Iterator[Finding]:
    python = recipe.python
    if python.manager == "venv":
        if python.version != os_image.python:
            bases = [o.key for o in catalog.os_images.values() if o.python == python.version]
            yield Finding(
                "python.version",
                f"a venv is made of the OS's own Python, which is {os_image.python} on {os_image.key}",
                _either(f'write "{os_image.python}"', bases and f"take {' or '.join(bases)}",
                        "choose miniforge as the manager"),
            )  # fmt: skip
        return
    installer = catalog.installer(python.manager, python.installer)
    if installer is None:
        known = [i.version for i in catalog.installers if i.manager == python.manager]
        hint = nearest(python.installer, known).capitalize()
        yield Finding("python.installer", f"unknown installer: {python.installer}", hint)
    elif numbers(installer.glibc) > numbers(os_image.glibc):
        old = [
            i
            for i in catalog.installers
            if i.manager == python.manager and numbers(i.glibc) <= numbers(os_image.glibc)
        ]
        yield Finding(
            "python.installer",
            f"{python.manager} {python.installer} needs glibc {installer.glibc}, and "
            f"{os_image.key} has {os_image.glibc}",
            _either(old and f"the newest that does not is {old[-1].version}",
                    "miniforge needs 2.17 only"),
        )  # fmt: skip


def _disk(recipe: Recipe, os_image: OsImage, cuda: Cuda, build: Build | None) -> Iterator[Finding]:
    toolkit = cuda.on.get(os_image.key)
    parts = {
        os_image.key: os_image.size_gb,
        f"CUDA {cuda.version}": toolkit.disk_gb if toolkit else 0,
        recipe.framework.name: build.size_gb if build else 0,
        "room to work": HEADROOM_GB,
    }
    if recipe.builder.disk_gb < (least := sum(parts.values())):
        listed = ", ".join(f"{what} {gb}" for what, gb in parts.items() if gb)
        yield Finding(
            "builder.disk_gb",
            f"{recipe.builder.disk_gb} GB are too small: about {least} are needed ({listed})",
            "Write 64, which costs a few dollars a month as an image",
        )


def _version(catalog: Catalog, recipe: Recipe) -> str | None:
    """The driver's version as far as it is known, for this OS or at all."""
    branch = recipe.driver.branch
    ours = [d for d in catalog.drivers if d.branch == branch]
    here = [d for d in ours if d.os == recipe.base]
    if here or ours:
        return max((d.version for d in here or ours), key=numbers)
    left_out = catalog.left_out.get(branch)
    return left_out.version if left_out else None


def _gpu_of(catalog: Catalog, family: str) -> str:
    return next(t.gpu for t in catalog.instance_types.values() if t.family == family)


def _machine(catalog: Catalog, gpu: Gpu) -> str:
    types = catalog.instance_types.values()
    whole = (t for t in types if t.gpu == gpu.name and not (t.retired or t.fractional))
    machine = next((t for t in whole if t.architecture == "x86_64"), None)
    return f"a {machine.family} ({gpu.name})" if machine else ""


def _nearest_machine(catalog: Catalog, able: Callable[[Gpu], bool]) -> str:
    """ ", or take a g4dn (T4)": the first family in the facts, the cheapest, that is able."""
    machines = (_machine(catalog, gpu) for gpu in _in_order(catalog) if able(gpu))
    first = next(filter(None, machines), "")
    return f", or take {first}" if first else ""


def _in_order(catalog: Catalog) -> list[Gpu]:
    names = dict.fromkeys(t.gpu for t in catalog.instance_types.values())
    return [catalog.gpus[name] for name in names]


def _closest_cuda(cuda: Cuda, among: Iterable[Cuda]) -> str:
    order = list(among)
    if not order:
        return ""
    best = min(order, key=lambda c: _distance(c.version, cuda.version))
    return f"CUDA {best.version}"


def _distance(one: str, other: str) -> tuple[int, int]:
    """How far apart two versions X.Y are: the major number counts first."""
    (a, b), (c, d) = numbers(one)[:2], numbers(other)[:2]
    return abs(a - c), abs(b - d) if a == c else (b if a > c else -b)


def _at_least(version: str, least: str) -> bool:
    return numbers(version) >= numbers(least)


def _either(*ways: object) -> str:
    text = ", or ".join(str(way) for way in ways if way)
    return text[:1].upper() + text[1:]
