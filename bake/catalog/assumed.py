"""Facts that are assumed for a driver, a CUDA release or a framework that the catalog lacks.

They are those of the nearest known one, with the other version in the names of its packages. A user
accepts them with `--unchecked`; each is marked (`sure` is ASSUMED), so that it can be reported.
Nothing is assumed about what the catalog knows: a branch that an operating system does not have
stays refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from bake.catalog.catalog import Build, Catalog, Cuda, Driver
from bake.catalog.reading import change, load, undo_changes
from bake.catalog.versions import VERSION, distance, numbers

ASSUMED = "assumed"
_accepts_unknown = False


def accept_unknown(accept: bool = True) -> None:
    """Assume facts, from now on, for what a recipe names and the catalog lacks, or no longer."""
    global _accepts_unknown
    _accepts_unknown = accept
    undo_changes()


def assume(document: object) -> None:
    """Assume facts for the recipe in this document, if `accept_unknown` was called."""
    named = read_named(document)
    if _accepts_unknown and with_assumed(load(), named) is not load():
        change(partial(with_assumed, named=named))


@dataclass(frozen=True)
class Named:
    """The names in a recipe, as they are written; None for a name that it leaves out."""

    os: str | None = None
    branch: str | None = None
    modules: str = "proprietary"
    cuda: str | None = None
    framework: str | None = None
    version: str | None = None


def read_named(document: object) -> Named:
    """Read the names of a recipe that is not validated yet. Values of a wrong type are left out."""

    def text(*keys: str) -> str | None:
        value: Any = document
        for key in keys:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value if isinstance(value, str) else None

    def version(*keys: str) -> str | None:
        value = text(*keys)
        return value if value and VERSION.fullmatch(value) else None

    return Named(
        os=text("base") or text("base", "os"),
        branch=version("driver", "branch"),
        modules=text("driver", "modules") or "proprietary",
        cuda=version("cuda", "version"),
        framework=text("framework", "name"),
        version=version("framework", "version"),
    )


def with_assumed(catalog: Catalog, named: Named) -> Catalog:
    """Return the catalog with facts for everything that `named` has and the catalog lacks. Pure.

    It is the same catalog if it lacks nothing, or if nothing is near enough.
    """
    if (cuda := _cuda(catalog, named)) is not None:
        known = {each.version for each in catalog.builds if each.name == named.framework}
        versions = known & {named.version} or known
        builds = tuple(
            _for_release(each, cuda.version, versions) if each.name == named.framework else each
            for each in catalog.builds
        )
        catalog = replace(catalog, cuda={**catalog.cuda, cuda.version: cuda}, builds=builds)
    if (driver := _driver(catalog, named)) is not None:
        catalog = replace(catalog, drivers=(*catalog.drivers, driver))
    if (build := _build(catalog, named)) is not None:
        catalog = replace(catalog, builds=(*catalog.builds, build))
    return catalog


def _driver(catalog: Catalog, named: Named) -> Driver | None:
    branch = named.branch
    if branch is None or not branch.isdecimal() or branch in catalog.branches():
        return None
    able = [d for d in catalog.drivers if (d.os, d.modules) == (named.os, named.modules)]
    near = min(able, key=lambda d: abs(int(d.branch) - int(branch)), default=None)
    if near is None:
        return None

    def renamed(packages: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(re.sub(rf"\b{near.branch}\b", branch, name) for name in packages)

    return replace(
        near,
        branch=branch,
        version=branch,
        userland=renamed(near.userland),
        kernel=renamed(near.kernel),
        fabric_manager=renamed(near.fabric_manager),
        sure=ASSUMED,
        source=f"as driver {near.branch}",
    )


def _cuda(catalog: Catalog, named: Named) -> Cuda | None:
    version = named.cuda
    if version is None or version in catalog.cuda or not re.fullmatch(r"\d+\.\d+", version):
        return None
    major = numbers(version)[0]
    able = [each for each in catalog.cuda.values() if numbers(each.version)[0] == major]
    near = min(able, key=lambda each: distance(each.version, version), default=None)
    if near is None:
        return None
    old, new = (f"-{each.replace('.', '-')}" for each in (near.version, version))
    on = {
        os: replace(
            toolkit,
            packages=tuple(name.replace(old, new) for name in toolkit.packages),
            pins=(),
            sure=ASSUMED,
        )
        for os, toolkit in near.on.items()
        if toolkit.archive == "nvidia"
    }
    source = f"as CUDA {near.version}"
    return replace(near, version=version, toolkit=version, on=on, sure=ASSUMED, source=source)


def _for_release(build: Build, cuda: str, versions: Collection[str]) -> Build:
    """Return a build of one of these versions, for this CUDA release, too, if it may work there.

    A framework's wheel works beside another release with the same first number.
    """
    same_major = any(numbers(each)[0] == numbers(cuda)[0] for each in build.cuda)
    if not same_major or build.version not in versions:
        return build
    return replace(build, cuda=(*build.cuda, cuda), sure=ASSUMED)


def _build(catalog: Catalog, named: Named) -> Build | None:
    version = named.version
    of_name = [each for each in catalog.builds if each.name == named.framework]
    if version is None or any(each.version == version for each in of_name):
        return None
    able = [build for build in of_name if build.is_for(named.cuda)]
    near = min(able, key=lambda build: distance(build.version, version), default=None)
    if near is None:
        return None
    return replace(
        near,
        version=version,
        requirements=tuple(_requirement(r, near.version, version) for r in near.requirements),
        sure=ASSUMED,
        source=f"as {near.name} {near.version}",
    )


def _requirement(line: str, old: str, new: str) -> str:
    """Return a requirement for the other version; another package's version is left to pip."""
    name, operator, rest = line.partition("==")
    if not operator:
        return line
    if re.match(rf"{re.escape(old)}(?![\w.])", rest):
        return f"{name}=={new}{rest[len(old) :]}"
    marker = rest.partition(";")[2]
    return f"{name}; {marker.strip()}" if marker else name
