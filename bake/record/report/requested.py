"""The parts that a recipe requests, each compared with its counterpart in the image."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from packaging.utils import canonicalize_name

from bake.record import Failure, Inventory, Record

Badge = tuple[str, str]  # its kind and its text, as parts.html.j2 takes them

SAME: Badge = ("good", "same")
DIFFERS: Badge = ("bad", "differs")
MISSING: Badge = ("bad", "missing")
NOT_COMPARED: Badge = ("none", "not compared")
_STAND_IN: Badge = ("mind", "stand-in")
_NAME_ONLY: Badge = ("mind", "only its name")
_PACKAGES = "packages"  # the check of the proof, and the table of the recipe


class Part(NamedTuple):
    """One setting of the recipe, and its counterpart in the image."""

    name: str
    asked: str
    found: str
    compared: Badge


def requested_parts(run: Record | Failure) -> list[Part]:
    """Return the parts that the recipe requests; empty for an old record without them.

    A failed bake has no image, so nothing of it is compared.
    """
    inventory = run.inventory if isinstance(run, Record) else Inventory()
    parts = [*_software(run.asked, inventory), *_packages(run, inventory)]
    if run.payload == "stand-in":
        parts = [
            part._replace(compared=_STAND_IN) if part.compared in (DIFFERS, MISSING) else part
            for part in parts
        ]
    return [part._replace(found=part.found or "–") for part in parts]


def _software(asked: Mapping[str, Any], inventory: Inventory) -> Iterator[Part]:
    """Yield the operating system, and each part that one of the recipe's stages installs."""
    stages = asked.get("stages")
    pip = _canonical(inventory.pip)
    wheel, wheel_version = _wheel(str(asked.get("framework.name")), pip)
    base, _, base_version = str(asked.get("base", "")).partition("-")

    def part(
        name: str,
        settings: tuple[str, ...],
        found: str,
        by: tuple[str, ...],
        compared: Badge | None = None,
    ) -> Iterator[Part]:
        values = [str(asked[setting]) for setting in settings if asked.get(setting)]
        if values and (stages is None or not set(by).isdisjoint(stages)):
            yield Part(name, " ".join(values), found, compared or _compare(values[0], found))

    if asked.get("base"):
        system = _version_of(inventory.os) if base in inventory.os.lower() else inventory.os
        yield Part("operating system", asked["base"], inventory.os, _compare(base_version, system))
    yield from part(
        "driver",
        ("driver.branch", "driver.modules"),
        inventory.driver or "not loaded: the machine had no GPU",
        ("drivers",),
        None if inventory.driver else NOT_COMPARED,
    )
    yield from part("CUDA", ("cuda.version",), inventory.cuda, ("cuda",))
    yield from part(
        "Python", ("python.version", "python.manager"), inventory.python, ("conda", "venv")
    )
    yield from part(
        "framework",
        ("framework.name", "framework.version"),
        wheel,
        (str(asked.get("framework.name")),),
        _compare(str(asked.get("framework.version", "")), wheel_version),
    )
    yield from part("d2l", ("d2l.version",), pip.get("d2l", ""), ("d2l",))


def _packages(run: Record | Failure, inventory: Inventory) -> Iterator[Part]:
    """Yield each package that the recipe requests. Its version is compared by the proof."""
    checks = run.checks if isinstance(run, Record) else ()
    # The first one of this name: a recipe's own check, which may have the same name, comes later.
    check = next((check for check in checks if check.name == _PACKAGES), None)
    proved = check is not None and check.outcome == "passed"
    apt = {name.partition(":")[0]: version for name, version in inventory.dpkg.items()}
    conda = {name.lower(): version for name, version in inventory.conda.items()}
    for kind, packages in (
        ("apt", apt | dict(inventory.dpkg)),
        ("dnf", inventory.rpm),
        ("conda", conda),
        ("pip", _canonical(inventory.pip)),
    ):
        for wanted in map(str, run.asked.get(f"{_PACKAGES}.{kind}") or ()):
            # `channel::name=1.0`, `name[extra]>=1`, `name:i386=1.0`
            name = re.split(r"[^\w.+:-]", wanted.rpartition("::")[2])[0]
            key = canonicalize_name(name) if kind == "pip" else name.lower()
            found = packages.get(key, "")
            if proved:
                # apt installs a package that provides the name; pip skips one by its marker.
                same = _NAME_ONLY if run.payload == "stand-in" else SAME
                yield Part(f"{kind}: {name}", wanted, found or "proved without this name", same)
            else:
                compared = NOT_COMPARED if found else MISSING
                yield Part(f"{kind}: {name}", wanted, found, compared)


def _compare(wanted: str, found: str) -> Badge:
    """Compare a version with one that may have more parts: `3.7` with `3.7.16`."""
    if not wanted:
        return NOT_COMPARED
    if not found:
        return MISSING
    parts = wanted.split(".")
    return SAME if re.split(r"[.+-]", found)[: len(parts)] == parts else DIFFERS


def _version_of(system: str) -> str:
    """Return the first number of an operating system's name, such as 18.04.6."""
    number = re.search(r"\d[\d.]*", system)
    return number[0] if number else system


def _wheel(framework: str, pip: Mapping[str, str]) -> tuple[str, str]:
    """Return the framework's package with its version, and the version; empty if not found."""
    package = re.escape({"pytorch": "torch"}.get(framework, framework))
    for name, version in pip.items():
        if re.fullmatch(rf"{package}(-cu\d+)?", name):
            return f"{name} {version}", version
    return "", ""


def _canonical(packages: Mapping[str, str]) -> dict[str, str]:
    return {str(canonicalize_name(name)): version for name, version in packages.items()}
