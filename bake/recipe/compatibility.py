"""Check whether the parts of a recipe can work together. Each finding suggests a part that works.

All checks run, so that all findings are reported together. No check needs a network: the preflight
checks everything that only the cloud knows (zones, quotas, the newest image).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain

from packaging.requirements import Requirement

from bake.catalog import ASSUMED, Build, D2l, distance, numbers
from bake.errors import Finding, IncompatibleError
from bake.recipe.gpu_checks import (
    check_cuda_on_gpus,
    check_driver_with_gpus,
    check_fabric_manager,
    check_framework_on_gpus,
    check_machines,
)
from bake.recipe.package_checks import check_packages
from bake.recipe.payload import UPSTREAM
from bake.recipe.resolved import Resolved
from bake.recipe.suggestion import alternatives, suggest, suggest_cuda, suggest_driver

# Room for apt's lists, logs, pip's temporary copies and the notebooks.
HEADROOM_GB = 8
# The stage that installs the toolkit. Wheels that contain their own CUDA need none.
CUDA_STAGE = "cuda"


def check(resolved: Resolved) -> list[Finding]:
    """Return every finding, beginning with the parts that the others depend on."""
    checks = (
        check_machines,
        _check_archive,
        _check_cuda_on_os,
        check_cuda_on_gpus,
        _check_driver_on_os,
        _check_driver_with_cuda,
        check_driver_with_gpus,
        check_fabric_manager,
        _check_framework_with_cuda,
        _check_framework_with_python,
        check_framework_on_gpus,
        _check_d2l,
        _check_venv,
        _check_installer,
        _check_disk,
        check_packages,
    )
    return list(chain.from_iterable(each(resolved) for each in checks))


def refuse_incompatible(resolved: Resolved) -> None:
    """Raise IncompatibleError with every finding, if there is one.

    With `--unchecked`, what the catalog does not know is accepted: see `accepted_unknowns`.
    """
    findings = [each for each in check(resolved) if not (each.unknown and resolved.unchecked)]
    if findings:
        message = f"The parts of the recipe {resolved.recipe.name} cannot work together"
        raise IncompatibleError(message, findings=findings)


def accepted_unknowns(resolved: Resolved) -> list[Finding]:
    """Return what the catalog does not know and `--unchecked` accepts, as warnings."""
    parts = {
        "driver.branch": (resolved.driver, resolved.driver and f"driver {resolved.driver.branch}"),
        "cuda.version": (resolved.cuda, resolved.cuda and f"CUDA {resolved.cuda.version}"),
        "framework.version": (
            resolved.build,
            resolved.build and f"{resolved.build.name} {resolved.build.version}",
        ),
    }
    assumed = [
        Finding(place, f"bake does not know {name}: it is treated {fact.source}", unknown=True)
        for place, (fact, name) in parts.items()
        if fact and fact.sure == ASSUMED
    ]
    return assumed + [replace(each, hint="") for each in check(resolved) if each.unknown]


def _check_archive(resolved: Resolved) -> Iterator[Finding]:
    """An operating system of a project's facts has the packages of one that bake knows."""
    system = resolved.os_image.os_id
    if system.partition("-")[0] not in UPSTREAM.mirrors:
        hint = 'Name the one whose packages it has in its facts: like = "ubuntu-24.04"'
        yield Finding("base", f"bake knows no package archive of {system}", hint)


def _check_cuda_on_os(resolved: Resolved) -> Iterator[Finding]:
    cuda, key = resolved.cuda, resolved.os_image.key
    if cuda and resolved.toolkit is None and CUDA_STAGE in resolved.all_stages:
        others = (other for other in resolved.catalog.cuda.values() if key in other.on)
        yield Finding(
            "cuda.version",
            f"CUDA {cuda.version} has no packages for {key}",
            alternatives(suggest_cuda(cuda, others), suggest(cuda.on)),
        )


def _check_driver_on_os(resolved: Resolved) -> Iterator[Finding]:
    key, wanted = resolved.os_image.key, resolved.recipe.driver
    if wanted is None or resolved.driver:
        return
    same_branch = any(driver.branch == wanted.branch for driver in resolved.drivers_of_os)
    what = f"{wanted.modules} modules" if same_branch else "packages"
    message = f"{key} has no {what} of driver {wanted.branch}"
    if left_out := resolved.catalog.left_out.get(wanted.branch):
        message += f" ({left_out.version}): {left_out.reason}"
    available = ", ".join(f"{each.branch} ({each.modules})" for each in resolved.drivers_of_os)
    place = "driver.modules" if same_branch else "driver.branch"
    yield Finding(place, message, f"Use one of {available}")


def _check_driver_with_cuda(resolved: Resolved) -> Iterator[Finding]:
    catalog, cuda, key = resolved.catalog, resolved.cuda, resolved.os_image.key
    wanted, version, least = resolved.recipe.driver, resolved.driver_version, resolved.min_driver
    if not (cuda and wanted and version and least) or _reaches(version, least):
        return
    newer = [driver for driver in catalog.drivers if _reaches(driver.version, least)]
    of_this_os = [driver for driver in newer if driver.os == key]
    older = (
        other
        for other in catalog.cuda.values()
        if key in other.on and _reaches(version, catalog.min_driver(other))
    )
    yield Finding(
        "driver.branch",
        f"driver {version} is too old for CUDA {cuda.version}, which needs {least} or newer",
        alternatives(
            suggest_driver(wanted.branch, of_this_os),
            suggest_cuda(cuda, older),
            not of_this_os and suggest(dict.fromkeys(d.os for d in newer if d.os in cuda.on)),
        ),
    )


def _check_framework_with_cuda(resolved: Resolved) -> Iterator[Finding]:
    wanted, cuda = resolved.recipe.framework, resolved.cuda.version if resolved.cuda else None
    if wanted is None or resolved.build:
        return
    builds = resolved.catalog.builds
    fitting = [f"{build.name} {build.version}" for build in builds if build.is_for(cuda)]
    same = [b for b in builds if (b.name, b.version) == (wanted.name, wanted.version)]
    works_with = [f"CUDA {version}" for build in same for version in build.cuda]
    if cuda:
        without = [] if all(build.cuda for build in same) else ["leave out [cuda]"]
        yield Finding(
            "framework.version",
            f"{wanted.name} {wanted.version} has no wheel for CUDA {cuda}",
            alternatives(suggest(fitting), suggest(works_with), *without),
        )
    else:
        yield Finding(
            "framework.version",
            f"{wanted.name} {wanted.version} has no wheel without CUDA",
            alternatives(f"add [cuda] with one of {', '.join(works_with)}", suggest(fitting)),
        )


def _check_framework_with_python(resolved: Resolved) -> Iterator[Finding]:
    build, section = resolved.build, resolved.recipe.python
    if build and section and (python := section.version) not in build.python:
        closest = min(build.python, key=lambda version: distance(version, python))
        yield Finding(
            "python.version",
            f"{build.name} {build.version} does not work with Python {python}",
            f"The nearest version that it works with is Python {closest}",
        )


def _check_d2l(resolved: Resolved) -> Iterator[Finding]:
    if resolved.d2l and (problem := _d2l_problem(resolved, resolved.d2l)):
        known = resolved.catalog.d2l.values()
        fitting = [f"d2l {d2l.version}" for d2l in known if not _d2l_problem(resolved, d2l)]
        hint = alternatives(suggest(fitting) or "no known version of d2l fits this recipe")
        yield Finding("d2l.version", f"d2l {resolved.d2l.version} {problem}", hint)


def _d2l_problem(resolved: Resolved, d2l: D2l) -> str:
    """Return why a version of d2l does not fit the recipe; empty if it fits."""
    recipe = resolved.recipe
    if not (recipe.python and recipe.framework and recipe.d2l):
        return ""  # an error of the recipe itself
    python, framework = recipe.python.version, recipe.framework.name
    pin = pinned_numpy(resolved.build, python) if resolved.build else None
    if python not in d2l.python:
        return f"does not work with Python {python}"
    if pin and d2l.numpy and pin != d2l.numpy:
        return f"needs numpy {d2l.numpy}, and {framework} needs {pin}"
    if recipe.d2l.notebooks and framework not in d2l.notebooks:
        return f"has no notebooks for {framework}"
    return ""


def pinned_numpy(build: Build, python: str) -> str | None:
    """Return the version of numpy that a build needs with this Python; None if any works."""
    for requirement in map(Requirement, build.numpy):
        if requirement.marker is None or requirement.marker.evaluate({"python_version": python}):
            return str(requirement.specifier).removeprefix("==")
    return None


def _check_venv(resolved: Resolved) -> Iterator[Finding]:
    python, own = resolved.recipe.python, resolved.os_image.python
    if python and python.manager == "venv" and python.version != own:
        known = resolved.catalog.os_images.values()
        others = [other.key for other in known if other.python == python.version]
        yield Finding(
            "python.version",
            "a venv has the operating system's own Python, "
            f"which is {own} on {resolved.os_image.key}",
            alternatives(f'write "{own}"', suggest(others), "use miniforge as the manager"),
        )


def _check_installer(resolved: Resolved) -> Iterator[Finding]:
    installer, glibc = resolved.installer, resolved.os_image.glibc
    if installer is None or _reaches(glibc, installer.glibc):
        return
    working = [
        other.version
        for other in resolved.catalog.installers
        if other.manager == installer.manager and _reaches(glibc, other.glibc)
    ]
    needs = f"{installer.manager} {installer.version} needs glibc {installer.glibc}"
    yield Finding(
        "python.installer",
        f"{needs}, and {resolved.os_image.key} has {glibc}",
        alternatives(suggest(working[-1:]), "use miniforge"),
    )


def _check_disk(resolved: Resolved) -> Iterator[Finding]:
    cuda, toolkit, build, os_image = (
        resolved.cuda,
        resolved.toolkit,
        resolved.build,
        resolved.os_image,
    )
    parts = {os_image.key: os_image.size_gb, "working space": HEADROOM_GB}
    if cuda and toolkit and CUDA_STAGE in resolved.all_stages:
        parts[f"CUDA {cuda.version}"] = toolkit.disk_gb
    if build:
        parts[build.name] = build.size_gb
    disk_gb, least_gb = resolved.recipe.builder.disk_gb, sum(parts.values())
    if disk_gb < least_gb:
        listed = ", ".join(f"{what} {gb}" for what, gb in parts.items() if gb)
        message = f"a disk of {disk_gb} GB is too small: about {least_gb} GB are needed ({listed})"
        yield Finding("builder.disk_gb", message, "Write 64, which is the default")


def _reaches(version: str, least: str) -> bool:
    return numbers(version) >= numbers(least)
