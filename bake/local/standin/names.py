"""The packages that the real archives have. A rehearsal refuses a recipe that requests others.

The names that recipes often request are facts (`packages.toml`). Each other name is looked up in
the archive's own index, from the server that the recipe's real bake would use.
"""

from __future__ import annotations

import gzip
import http.client
import json
import lzma
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from bake import catalog
from bake.catalog import facts, nearest
from bake.errors import Finding, RecipeError
from bake.files import json_digest, write_file
from bake.local.machines import os_images
from bake.recipe.conda_spec import read_conda_spec

_DAY_S = 24 * 60 * 60
_TIMEOUT_S = 30
# The components that the stage `base` enables.
_COMPONENTS = {"ubuntu": ("main", "restricted", "universe", "multiverse"), "debian": ("main",)}

# name → versions; a name that other packages provide may have no version of its own.
Index = Mapping[str, list[str]]
Read = Callable[[IO[bytes], dict[str, list[str]]], None]


@dataclass(frozen=True)
class Archive:
    """An archive, the parts of its index, and the function that reads a part."""

    name: str
    urls: tuple[str, ...]
    read: Read

    def index(self, folder: Path, wanted: set[str]) -> Index:
        """Return the index. A copy in `folder` is used for a day, or if it has all that is wanted.

        Raises OSError if the archive cannot be reached, or if its answer is not an index.
        """
        copy = folder / f"{json_digest({'urls': self.urls})[:16]}.json"
        if copy.exists():
            known: Index = json.loads(copy.read_text())
            if wanted <= known.keys() or time.time() - copy.stat().st_mtime < _DAY_S:
                return known
        found: dict[str, list[str]] = {}
        for url in self.urls:
            _download(url, self.read, found)
        folder.mkdir(parents=True, exist_ok=True)
        write_file(copy, json.dumps(found))
        return found


def refuse_unknown(inputs: Mapping[str, str], folder: Path) -> None:
    """Raise RecipeError if these inputs of stages request packages that the archives do not have.

    It is also raised if that cannot be found out, because an archive cannot be reached. `folder` is
    for copies of the archives' indices.
    """
    findings = [*_check_apt(inputs, folder), *_check_dnf(inputs), *_check_conda(inputs, folder)]
    if findings:
        raise RecipeError("These packages cannot be rehearsed", findings=findings)


def known_names(kind: str, archive: str) -> list[str]:
    """Return the names that are facts, of the `kind` "apt" or "conda"."""
    return list(facts.read("packages")[kind].get(archive, {}).get("names", ()))


def apt_archive(inputs: Mapping[str, str]) -> Archive:
    image = catalog.load().os_images[inputs["OS_ID"]]
    mirror, security = inputs["OS_MIRROR"], inputs["OS_SECURITY_MIRROR"]
    suites = [(mirror, image.codename), (mirror, f"{image.codename}-updates")]
    suites.append((security, f"{image.codename}-security"))
    urls = [
        f"{server}/dists/{suite}/{component}/binary-amd64/Packages.xz"
        for server, suite in suites
        for component in _COMPONENTS[image.key.split("-")[0]]
    ]
    return Archive(f"the archive of {image.key}", tuple(urls), _read_apt)


def conda_archive(inputs: Mapping[str, str]) -> Archive:
    """Return the channel. Its small index has only the newest version of each package."""
    channel = inputs["CONDA_CHANNEL"]
    urls = [f"{channel}/{folder}/current_repodata.json" for folder in ("linux-64", "noarch")]
    return Archive(channel.rpartition("/")[2], tuple(urls), _read_conda)


def _check_dnf(inputs: Mapping[str, str]) -> Iterator[Finding]:
    """Check the names that are facts. Amazon's index needs dnf to be found and read."""
    known = known_names("dnf", inputs["OS_ID"])
    for package in inputs.get("DNF_PACKAGES", "").split():
        name = package.partition("=")[0]
        if name not in known:
            message = f"it is not known whether the archive of {inputs['OS_ID']} has {name}"
            yield Finding("packages.dnf", message, _near(name, known))


def _check_apt(inputs: Mapping[str, str], folder: Path) -> Iterator[Finding]:
    requested = {}
    for package in inputs.get("APT_PACKAGES", "").split():
        name, _, version = package.partition("=")
        name = name.partition(":")[0]
        if version and name in os_images.PACKAGES:
            message = f"{name} is a real package of the stand-in machines, and has their version"
            yield Finding("packages.apt", message, "Rehearse without a version")
        else:
            requested[package] = (name, version)
    if requested:
        known = known_names("apt", inputs["OS_ID"])
        yield from _check("packages.apt", requested, known, apt_archive(inputs), folder)


def _check_conda(inputs: Mapping[str, str], folder: Path) -> Iterator[Finding]:
    requested = {
        package: (read_conda_spec(package).name.lower(), "")
        for package in inputs.get("CONDA_PACKAGES", "").split()
    }
    if requested:
        archive = conda_archive(inputs)
        known = known_names("conda", archive.name)
        yield from _check("packages.conda", requested, known, archive, folder)


def _check(
    place: str,
    requested: Mapping[str, tuple[str, str]],
    known: list[str],
    archive: Archive,
    folder: Path,
) -> Iterator[Finding]:
    """Check packages with their names and versions; "" is any version."""
    open_questions = {
        package: wanted
        for package, wanted in requested.items()
        if wanted[1] or wanted[0] not in known
    }
    if not open_questions:
        return
    try:
        index = archive.index(folder, {name for name, _ in open_questions.values()})
    except OSError as error:
        reason = f"{archive.urls[0]} cannot be read ({getattr(error, 'reason', error)})"
        for package, (name, _) in open_questions.items():
            near = _near(name, known)
            yield Finding(
                place,
                f"it is not known whether {archive.name} has {package}: {reason}",
                f"{near} Else rehearse once with a connection to this server".strip(),
            )
        return
    for name, version in open_questions.values():
        if name not in index:
            yield Finding(place, f"{archive.name} has no package {name}", _near(name, index))
        elif version and version not in index[name]:
            versions = ", ".join(index[name]) or "only packages that provide it"
            yield Finding(place, f"{archive.name} has no {name} {version}", f"It has {versions}")


def _near(name: str, names: Iterable[str]) -> str:
    """Return a hint with names that are nearly the same, and have the same first letter."""
    hint = nearest(name, [known for known in names if known[:1] == name[:1]])
    return hint if hint.startswith("Did") else ""


def _download(url: str, read: Read, found: dict[str, list[str]]) -> None:
    request = urllib.request.Request(url, headers={"Accept-Encoding": "gzip"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:  # noqa: S310
            stream: IO[bytes] = response
            if response.headers.get("Content-Encoding") == "gzip":
                stream = cast("IO[bytes]", gzip.GzipFile(fileobj=response))
            read(stream, found)
    except (ValueError, EOFError, lzma.LZMAError, http.client.HTTPException) as error:
        raise OSError(f"not an index: {error}") from error


def _read_apt(stream: IO[bytes], found: dict[str, list[str]]) -> None:
    """Read an index of Debian's format, packed by xz. Versions follow their package's name."""
    name = ""
    with lzma.open(stream) as lines:
        for line in lines:
            field, _, value = line.decode(errors="replace").strip().partition(": ")
            if field == "Package":
                name = value
                found.setdefault(name, [])
            elif field == "Version" and value not in found[name]:
                found[name].append(value)
            elif field == "Provides":
                for provided in value.split(","):
                    found.setdefault(provided.split()[0].partition(":")[0], [])


def _read_conda(stream: IO[bytes], found: dict[str, list[str]]) -> None:
    document = json.load(stream)
    for kind in ("packages", "packages.conda"):
        for record in document.get(kind, {}).values():
            found.setdefault(record["name"], []).append(record["version"])
