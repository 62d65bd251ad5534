"""What goes with what: CUDA, drivers, GPUs, machines, operating systems, frameworks, installers.

The facts are data (`facts/*.toml`), each with how sure it is (`sure`) and where it is from
(`source`). This module gives them types and answers single questions; whether a whole recipe can
work is asked of `bake.recipe.compatibility`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, Literal, TypeVar

from bake.catalog import facts
from bake.errors import RecipeError

Modules = Literal["proprietary", "open"]
Archive = Literal["os", "nvidia"]

# Bounded: more digits than Python turns into a number are no version.
VERSION = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9}){0,5}")


def numbers(version: str) -> tuple[int, ...]:
    """A version as numbers that compare: 10.10 comes after 10.9."""
    return tuple(int(part) for part in version.split("."))


def distance(one: str, other: str) -> tuple[int, ...]:
    """How far apart two versions are: the major number counts first, then the minor."""
    (a, b), (c, d) = ((*numbers(version), 0)[:2] for version in (one, other))
    # In the next major version up, the lowest minor one is the nearest; down, the highest.
    return (abs(a - c), abs(b - d) if a == c else b if a > c else -b)


def nearest(word: str, words: Iterable[str]) -> str:
    """What may have been meant by `word`, or all there is if nothing is near it."""
    known = list(words)
    if known and all(VERSION.fullmatch(version) for version in (word, *known)):
        near = sorted(known, key=lambda version: distance(version, word))[:2]
    else:
        near = difflib.get_close_matches(word, known, n=3, cutoff=0.6)
    if near:
        return f"Did you mean {' or '.join(near)}?"
    there = "There is" if len(known) == 1 else "There are"
    return f"{there} {', '.join(known)}" if known else ""


def runs_on(code: Iterable[str], capability: str) -> bool:
    """Whether code compiled for these capabilities runs on a GPU: X.y runs on every X.z, z >= y."""
    major, minor = numbers(capability)
    return any(numbers(c)[0] == major and numbers(c)[1] <= minor for c in code)


@dataclass(frozen=True)
class Fact:
    sure: str
    source: str


T = TypeVar("T")
F = TypeVar("F", bound=Fact)


@dataclass(frozen=True, kw_only=True)
class OsImage(Fact):
    """An operating system's image: AWS account of its owner, name pattern, and what is inside."""

    key: str
    owner: str
    name_pattern: str
    ssh_user: str
    codename: str
    glibc: str
    python: str
    nvidia_repository: str
    size_gb: int
    architecture: str = "x86_64"


@dataclass(frozen=True, kw_only=True)
class Gpu(Fact):
    name: str
    capability: str
    first_driver: str | None = None
    last_branch: str | None = None
    open_from: str | None = None
    open_only: bool = False


@dataclass(frozen=True, kw_only=True)
class InstanceType(Fact):
    """A size of a GPU family. `gpus` is 0 for a slice of one (`fractional`).

    `gpu_memory_mib` is EC2's figure for one GPU; nvidia-smi prints a little less.
    `quota_code` and `spot_quota_code` name the vCPU quotas of Service Quotas; the latter is empty
    where public sources disagree.
    """

    name: str
    family: str
    gpu: str
    gpus: int
    gpu_memory_mib: int
    capability: str
    vcpus: int
    memory_mib: int
    quota_code: str
    spot_quota_code: str = ""
    architecture: str = "x86_64"
    fabric_manager: bool = False
    fractional: bool = False
    retired: str = ""
    replaced_by: str = ""

    @property
    def status(self) -> Literal["offered", "retired"]:
        return "retired" if self.retired else "offered"


@dataclass(frozen=True, kw_only=True)
class Toolkit(Fact):
    """One CUDA release on one OS: the packages, from where. `pins` are `package=version`."""

    archive: Archive
    packages: tuple[str, ...]
    disk_gb: int
    pins: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Cuda(Fact):
    version: str
    toolkit: str
    min_driver: str
    capabilities: tuple[str, ...]
    on: Mapping[str, Toolkit]


@dataclass(frozen=True, kw_only=True)
class Driver(Fact):
    """One branch on one OS. `version` is the newest that we know of in that archive."""

    os: str
    branch: str
    version: str
    userland: tuple[str, ...]
    kernel: tuple[str, ...]
    fabric_manager: tuple[str, ...] = ()
    modules: Modules = "proprietary"
    archive: Archive = "os"


@dataclass(frozen=True, kw_only=True)
class LeftOut(Fact):
    """A driver branch that is known and installed on no OS, and why."""

    version: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Installer(Fact):
    manager: str
    version: str
    file: str
    sha256: str
    glibc: str


@dataclass(frozen=True, kw_only=True)
class Build(Fact):
    """A framework's wheel for one CUDA. `requirements` and `numpy` are pip lines with markers.

    `index` is the folder of PyTorch's own index; empty for PyPI.
    """

    name: str
    version: str
    cuda: tuple[str, ...]
    python: tuple[str, ...]
    capabilities: tuple[str, ...]
    requirements: tuple[str, ...]
    numpy: tuple[str, ...]
    size_gb: int
    index: str = ""


@dataclass(frozen=True, kw_only=True)
class D2l(Fact):
    """The d2l package. `numpy` is the version that it pins (none: any).

    `notebooks` gives, by framework, the repository of github.com/d2l-ai and the commit.
    """

    version: str
    python: tuple[str, ...]
    requirements: tuple[str, ...]
    archive: str
    notebooks: Mapping[str, tuple[str, str]]
    numpy: str = ""


@dataclass(frozen=True)
class Catalog:
    os_images: Mapping[str, OsImage]
    gpus: Mapping[str, Gpu]
    instance_types: Mapping[str, InstanceType]
    cuda: Mapping[str, Cuda]
    minor_version_compatibility: Mapping[int, str]
    drivers: tuple[Driver, ...]
    left_out: Mapping[str, LeftOut]
    builds: tuple[Build, ...]
    d2l: Mapping[str, D2l]
    installers: tuple[Installer, ...]

    def os_image(self, key: str) -> OsImage:
        """RecipeError, with the nearest names, for an operating system that is not known."""
        return _find("operating system", key, self.os_images)

    def instance_type(self, name: str) -> InstanceType:
        """RecipeError, with the nearest names, for a type that is no GPU machine of the catalog."""
        return _find("GPU machine", name, self.instance_types)

    def branches(self) -> tuple[str, ...]:
        return tuple(sorted({d.branch for d in self.drivers} | set(self.left_out)))

    def driver(self, os: str, branch: str, modules: str) -> Driver | None:
        wanted = (os, branch, modules)
        return next((d for d in self.drivers if (d.os, d.branch, d.modules) == wanted), None)

    def build(self, framework: str, version: str, cuda: str) -> Build | None:
        wanted = (framework, version)
        found = (b for b in self.builds if (b.name, b.version) == wanted and cuda in b.cuda)
        return next(found, None)

    def installer(self, manager: str, version: str) -> Installer | None:
        wanted = (manager, version)
        return next((i for i in self.installers if (i.manager, i.version) == wanted), None)

    def min_driver(self, cuda: Cuda) -> str:
        """The oldest driver that this toolkit runs on, minor-version compatibility included."""
        major = self.minor_version_compatibility.get(numbers(cuda.version)[0], cuda.min_driver)
        return min(major, cuda.min_driver, key=numbers)

    def driver_version(self, os: str, branch: str) -> str | None:
        """The newest version of a branch: this OS's, or else any that is known."""
        ours = [d for d in self.drivers if d.branch == branch]
        here = [d for d in ours if d.os == os] or ours
        left_out = self.left_out.get(branch)
        versions = [d.version for d in here] or ([left_out.version] if left_out else [])
        return max(versions, key=numbers, default=None)


@cache
def load() -> Catalog:
    """The catalog of the facts that come with the product: about 20 ms once, then cached."""
    cuda, drivers, frameworks = facts.read("cuda"), facts.read("drivers"), facts.read("frameworks")
    gpus = {name: _fact(Gpu, table, name=name) for name, table in drivers["gpu"].items()}
    minor = cuda["minor_version_compatibility"]
    return Catalog(
        os_images={
            key: _fact(OsImage, table, key=key) for key, table in facts.read("os_images").items()
        },
        gpus=gpus,
        instance_types={t.name: t for t in _instance_types(gpus)},
        cuda={version: _cuda(version, table) for version, table in cuda["release"].items()},
        minor_version_compatibility={int(k): minor[k] for k in minor if k.isdigit()},
        drivers=tuple(_fact(Driver, table) for table in drivers["package"]),
        left_out={k: _fact(LeftOut, table) for k, table in drivers["not_offered"].items()},
        builds=tuple(_fact(Build, table) for table in frameworks["build"]),
        d2l={version: _d2l(version, table) for version, table in frameworks["d2l"].items()},
        installers=tuple(
            _fact(Installer, table, manager=manager, version=version)
            for manager, versions in facts.read("installers").items()
            for version, table in versions.items()
        ),
    )


def _find(what: str, key: str, known: Mapping[str, T]) -> T:
    if key in known:
        return known[key]
    raise RecipeError(f"unknown {what}: {key}", hint=nearest(key, known))


def _fact(kind: type[F], table: Mapping[str, Any], **more: Any) -> F:
    """A table of the facts as a value, without the keys that are not its own."""
    names = {field.name for field in fields(kind)}
    own: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in table.items() if k in names
    }
    return kind(**own | more)


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


def _cuda(version: str, table: Mapping[str, Any]) -> Cuda:
    on = {os: _fact(Toolkit, table, archive="nvidia") for os in table["operating_systems"]}
    own = {os: _fact(Toolkit, t, archive="os") for os, t in table.get("archive", {}).items()}
    return _fact(Cuda, table, version=version, on=on | own)


def _d2l(version: str, table: Mapping[str, Any]) -> D2l:
    places = {name: (t["repository"], t["commit"]) for name, t in table["notebooks"].items()}
    return _fact(D2l, {**table, "notebooks": places}, version=version)
