"""The catalog, read from the built-in facts and those of the user's project."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from bake.catalog import facts
from bake.catalog.catalog import (
    Build,
    Catalog,
    Cuda,
    D2l,
    Driver,
    Duration,
    Fact,
    Gpu,
    Installer,
    InstanceType,
    LeftOut,
    OsImage,
    Toolkit,
    VcpuQuota,
)
from bake.catalog.versions import VERSION
from bake.errors import RecipeError

F = TypeVar("F", bound=Fact)


def use(folder: Path | None) -> None:
    """Add the facts in this folder to the built-in ones from now on. None: only the latter."""
    facts.use(folder)
    load.cache_clear()


_changes: list[Callable[[Catalog], Catalog]] = []


def change(*changes: Callable[[Catalog], Catalog]) -> None:
    """Make these changes, after earlier ones, to every catalog that is loaded from now on."""
    _changes.extend(changes)
    load.cache_clear()


def undo_changes() -> None:
    """Load the catalog without changes from now on."""
    if _changes:
        _changes.clear()
        load.cache_clear()


@cache
def load() -> Catalog:
    """Return the catalog of all facts. Reading takes about 20 ms, once.

    RecipeError if the project's own facts cannot be used.
    """
    if facts.own_folder() is None:
        return _changed(_read())
    facts.check_names()
    try:
        return _changed(_read())
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RecipeError(
            f"The facts in {facts.own_folder()} cannot be used: {_reason(error)}",
            hint=f"They have the format of the built-in ones: {resources.files(facts)}/*.toml",
        ) from error


def _changed(catalog: Catalog) -> Catalog:
    for each in _changes:
        catalog = each(catalog)
    return catalog


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{error} is a key that is missing, or a name without facts"
    return str(error)


def _read() -> Catalog:
    cuda, drivers, frameworks = facts.read("cuda"), facts.read("drivers"), facts.read("frameworks")
    gpus = {name: _fact(Gpu, table, name=name) for name, table in drivers["gpu"].items()}
    os_images = _os_images(facts.read("os_images"))
    return Catalog(
        os_images=os_images,
        gpus=gpus,
        instance_types={t.name: t for t in _instance_types(gpus)},
        quotas=tuple(_fact(VcpuQuota, table) for table in facts.read("quotas").values()),
        cuda={
            version: _cuda(version, table, os_images) for version, table in cuda["release"].items()
        },
        minor_version_compatibility=_minor_compatibility(cuda["minor_version_compatibility"]),
        drivers=tuple(
            _fact(Driver, table, os=key)
            for table in drivers["package"]
            for key, image in os_images.items()
            if image.os_id == table["os"]
        ),
        left_out={k: _fact(LeftOut, table) for k, table in drivers["not_offered"].items()},
        builds=tuple(_fact(Build, table) for table in frameworks["build"]),
        d2l={version: _d2l(version, table) for version, table in frameworks["d2l"].items()},
        installers=tuple(
            _fact(Installer, table, manager=manager, version=version)
            for manager, versions in facts.read("installers").items()
            for version, table in versions.items()
        ),
        durations={
            payload: {step: _fact(Duration, table) for step, table in steps.items()}
            for payload, steps in facts.read("durations").items()
        },
    )


def _fact(kind: type[F], table: Mapping[str, Any], **more: Any) -> F:
    """Make a value of a TOML table; keys that are not fields are left out."""
    names = {field.name for field in fields(kind)}
    own: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in table.items() if k in names
    }
    made = own | more
    return _checked(kind, made) if facts.own_folder() else kind(**made)


def _checked(kind: type[F], values: Mapping[str, Any]) -> F:
    """Return the value with the types of its fields; ValueError for what is missing or wrong."""
    import pydantic

    name = next((str(values[key]) for key in ("key", "name", "version") if key in values), "")
    label = f"{kind.__name__} {name}".rstrip()
    try:
        fact = pydantic.TypeAdapter(kind).validate_python(values)
    except pydantic.ValidationError as error:
        faults = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ValueError(f"{label}: {', '.join(faults)}") from error
    for field, pattern in _VERSIONS.get(kind, {}).items():
        value = getattr(fact, field)
        if field == "python" and not value:
            raise ValueError(f"{label}: {field}: it works with at least one version")
        for each in value if isinstance(value, tuple) else (value,):
            if each is not None and not pattern.fullmatch(each):
                raise ValueError(f"{label}: {field}: {each!r} is not a version")
    return fact


_CAPABILITY = re.compile(r"[0-9]{1,9}\.[0-9]{1,9}")
# The fields that are compared as versions.
_VERSIONS: Mapping[type[Fact], Mapping[str, re.Pattern[str]]] = {
    OsImage: {"glibc": VERSION, "python": VERSION},
    Gpu: {
        **{"capability": _CAPABILITY, "first_driver": VERSION},
        **{"last_branch": VERSION, "open_from": VERSION},
    },
    Cuda: {"version": VERSION, "min_driver": VERSION, "capabilities": _CAPABILITY},
    Driver: {"branch": VERSION, "version": VERSION},
    LeftOut: {"version": VERSION},
    Installer: {"glibc": VERSION},
    Build: {
        **{"version": VERSION, "cuda": VERSION},
        **{"python": VERSION, "capabilities": _CAPABILITY},
    },
    D2l: {"version": VERSION, "python": VERSION},
}


def _minor_compatibility(table: Mapping[str, Any]) -> dict[int, str]:
    """Return the oldest driver for each major version of CUDA; ValueError for a wrong one."""
    drivers = {int(major): driver for major, driver in table.items() if major.isdecimal()}
    for major, driver in drivers.items():
        if not isinstance(driver, str) or not VERSION.fullmatch(driver):
            raise ValueError(f"minor_version_compatibility.{major}: {driver!r} is not a version")
    return drivers


def _os_images(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, OsImage]:
    """Make the images. A table with `like` says only what differs from the named one."""
    whole = {}
    for key, table in tables.items():
        other = table.get("like")
        inherited = {**tables[other], "pro_until": None} if other else {}
        whole[key] = _fact(OsImage, {**inherited, **table}, key=key)
    return whole


def _instance_types(gpus: Mapping[str, Gpu]) -> Iterable[InstanceType]:
    for family, table in facts.read("instances")["family"].items():
        for size, figures in table["sizes"].items():
            yield _fact(
                InstanceType,
                table | figures,
                name=f"{family}.{size}",
                family=family,
                capability=gpus[table["gpu"]].capability,
                quota_code=table["quota"],
                spot_quota_code=table.get("spot_quota", ""),
                fabric_manager=table.get("fabric_manager", False) and figures["gpus"] > 1,
            )


def _cuda(version: str, table: Mapping[str, Any], os_images: Mapping[str, OsImage]) -> Cuda:
    try:
        on = {os: _fact(Toolkit, table, archive="nvidia") for os in table["operating_systems"]}
        on |= {os: _fact(Toolkit, t, archive="os") for os, t in table.get("archive", {}).items()}
    except (KeyError, ValueError) as error:
        raise ValueError(f"CUDA {version}: {_reason(error)}") from error
    found = {key: on[image.os_id] for key, image in os_images.items() if image.os_id in on}
    return _fact(Cuda, table, version=version, on=found)


def _d2l(version: str, table: Mapping[str, Any]) -> D2l:
    places = {name: (t["repository"], t["commit"]) for name, t in table["notebooks"].items()}
    return _fact(D2l, {**table, "notebooks": places}, version=version)
