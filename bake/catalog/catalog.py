"""Facts about CUDA, drivers, GPUs, machines, operating systems, frameworks and installers.

The facts are data (`facts/*.toml`), each with its certainty (`sure`) and its `source`. This module
gives them types and answers single questions. `bake.recipe.compatibility` checks a whole recipe.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Literal, TypeVar

from bake.catalog.versions import nearest, numbers
from bake.errors import RecipeError

Modules = Literal["proprietary", "open"]
Archive = Literal["os", "nvidia"]


@dataclass(frozen=True)
class Fact:
    """A fact's certainty, and the public source it is from."""

    sure: str
    source: str


T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class OsImage(Fact):
    """An operating system's image: its owner's AWS account, its name pattern and its contents.

    `like` is the key of the operating system whose packages it has; empty if it has its own.
    `nvidia_key` is the fingerprint of the key that signs NVIDIA's repository for it.
    `security_until` is the last day with security updates for everyone, `pro_until` the last one
    with Ubuntu Pro.
    """

    key: str
    owner: str
    name_pattern: str
    ssh_user: str
    codename: str
    glibc: str
    python: str
    nvidia_repository: str
    size_gb: int
    security_until: date
    pro_until: date | None = None
    like: str = ""
    nvidia_key: str = ""
    package_manager: Literal["apt", "dnf"] = "apt"
    architecture: str = "x86_64"
    owner_us_gov: str = ""
    owner_cn: str = ""

    @property
    def os_id(self) -> str:
        """The key of the operating system itself: ubuntu-18.04 also for its Pro image."""
        return self.like or self.key

    def owner_in(self, partition: str) -> str:
        """Return the owner's account in one of AWS's partitions, such as aws-cn; "" if unknown."""
        owners = {"aws": self.owner, "aws-us-gov": self.owner_us_gov, "aws-cn": self.owner_cn}
        return owners.get(partition, "")


@dataclass(frozen=True, kw_only=True)
class Gpu(Fact):
    """A GPU model: its compute capability, and the drivers that support it.

    `ec2_name` is the name in DescribeInstanceTypes if it differs, apart from capitals.
    `first_driver` is a version and `last_branch` a branch, None without a limit. `open_from` is the
    first version whose open kernel modules support it, None if none do.
    """

    name: str
    capability: str
    ec2_name: str = ""
    first_driver: str | None = None
    last_branch: str | None = None
    open_from: str | None = None
    open_only: bool = False


@dataclass(frozen=True, kw_only=True)
class InstanceType(Fact):
    """An instance type. `gpus` is 0 for a slice of one GPU (`fractional`).

    `gpu` is empty for a type without NVIDIA's GPUs; such types are not in the catalog's facts, and
    neither are GPU types that are newer than the catalog. EC2 describes them
    (`bake.aws.instance_type`), and then `gpu` may be a model that the catalog does not know.
    `gpu_memory_mib` is EC2's figure for one GPU; nvidia-smi prints a little less.
    `unserved` is the reason why no image of bake works on it, empty if some do.
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
    quota_code: str = ""
    spot_quota_code: str = ""
    architecture: str = "x86_64"
    fabric_manager: bool = False
    fractional: bool = False
    unserved: str = ""
    retired: str = ""
    replaced_by: str = ""

    @property
    def status(self) -> Literal["offered", "retired"]:
        return "retired" if self.retired else "offered"


@dataclass(frozen=True, kw_only=True)
class VcpuQuota(Fact):
    """The vCPU quotas of the families whose names begin with one of these groups of letters.

    A code is empty if there is no such quota, or if it is not known.
    """

    letters: tuple[str, ...]
    on_demand: str
    spot: str = ""


@dataclass(frozen=True, kw_only=True)
class Toolkit(Fact):
    """The packages of a CUDA release for one operating system. `pins` are `package=version`."""

    archive: Archive
    packages: tuple[str, ...]
    disk_gb: int
    pins: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Cuda(Fact):
    """A CUDA release. `on` maps each operating system that it is packaged for to the packages."""

    version: str
    toolkit: str
    min_driver: str
    capabilities: tuple[str, ...]
    on: Mapping[str, Toolkit]


@dataclass(frozen=True, kw_only=True)
class Driver(Fact):
    """A driver branch in an operating system's archive. `version` is the newest known one."""

    os: str
    branch: str
    version: str
    userland: tuple[str, ...]
    kernel: tuple[str, ...]
    fabric_manager: tuple[str, ...] = ()
    modules: Modules = "proprietary"


@dataclass(frozen=True, kw_only=True)
class LeftOut(Fact):
    """A driver branch that is known but not offered on any operating system, with the reason."""

    version: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Installer(Fact):
    """An installer of Miniconda, Miniforge or EFA. `glibc` is the oldest one that it works with."""

    manager: str
    version: str
    file: str
    sha256: str
    glibc: str


@dataclass(frozen=True, kw_only=True)
class Build(Fact):
    """A framework's wheel for some CUDA releases, or for the CPU if it has none of them.

    `requirements` and `numpy` are pip requirements.
    `index` is the folder of PyTorch's own index; empty for PyPI.
    """

    name: str
    version: str
    cuda: tuple[str, ...]
    python: tuple[str, ...]
    capabilities: tuple[str, ...]
    requirements: tuple[str, ...]
    size_gb: int
    numpy: tuple[str, ...] = ()
    index: str = ""

    def is_for(self, cuda: str | None) -> bool:
        """Tell whether it works with a CUDA release; None is a machine without a GPU."""
        return cuda in self.cuda if cuda else not self.cuda


@dataclass(frozen=True, kw_only=True)
class D2l(Fact):
    """The d2l package. `pins` are the requirements of it that allow one version only.

    `notebooks` maps each framework to a repository of github.com/d2l-ai and a commit.
    """

    version: str
    python: tuple[str, ...]
    requirements: tuple[str, ...]
    notebooks: Mapping[str, tuple[str, str]]
    pins: tuple[str, ...] = ()

    def archive(self, framework: str) -> str:
        """Return the name for a copy of the notebooks of one framework in a file."""
        repository, commit = self.notebooks[framework]
        return f"{repository}-{commit[:7]}.zip"

    @property
    def numpy(self) -> str:
        """The version of numpy that it needs; empty for any."""
        found = (pin.removeprefix("numpy==") for pin in self.pins if pin.startswith("numpy=="))
        return next(found, "")


@dataclass(frozen=True, kw_only=True)
class Duration(Fact):
    """The typical duration of a stage or another step of a bake, in seconds."""

    low_s: float
    likely_s: float
    high_s: float


@dataclass(frozen=True)
class Catalog:
    """All facts. Mappings are by key, name or version, as in the TOML files.

    `durations` are by payload ("upstream" or "stand-in") and step.
    """

    os_images: Mapping[str, OsImage]
    gpus: Mapping[str, Gpu]
    instance_types: Mapping[str, InstanceType]
    quotas: tuple[VcpuQuota, ...]
    cuda: Mapping[str, Cuda]
    minor_version_compatibility: Mapping[int, str]
    drivers: tuple[Driver, ...]
    left_out: Mapping[str, LeftOut]
    builds: tuple[Build, ...]
    d2l: Mapping[str, D2l]
    installers: tuple[Installer, ...]
    durations: Mapping[str, Mapping[str, Duration]]

    def os_image(self, key: str) -> OsImage:
        """Return an operating system's image; RecipeError with the nearest names if unknown."""
        return _find("operating system", key, self.os_images)

    def instance_type(self, name: str) -> InstanceType:
        """Return a GPU instance type; RecipeError with the nearest names if it is unknown."""
        return _find("GPU machine", name, self.instance_types)

    def vcpu_quota(self, instance_type: str) -> VcpuQuota | None:
        """Return the quotas of an instance type by the letters of its family's name."""
        letters = re.match("[a-z]*", instance_type)
        return next((q for q in self.quotas if letters and letters.group() in q.letters), None)

    def branches(self) -> tuple[str, ...]:
        return tuple(sorted({d.branch for d in self.drivers} | set(self.left_out)))

    def driver(self, os: str, branch: str, modules: str) -> Driver | None:
        wanted = (os, branch, modules)
        return next((d for d in self.drivers if (d.os, d.branch, d.modules) == wanted), None)

    @property
    def frameworks(self) -> tuple[str, ...]:
        """The names of the frameworks."""
        return tuple(dict.fromkeys(build.name for build in self.builds))

    def build(self, framework: str, version: str, cuda: str | None) -> Build | None:
        """Return the build for this CUDA release; for CPUs if it is None."""
        wanted = (framework, version)
        found = (b for b in self.builds if (b.name, b.version) == wanted and b.is_for(cuda))
        return next(found, None)

    def installer(self, manager: str, version: str) -> Installer | None:
        wanted = (manager, version)
        return next((i for i in self.installers if (i.manager, i.version) == wanted), None)

    def newest_installer(self, manager: str) -> Installer:
        """Return the newest known installer of its kind."""
        found = [each for each in self.installers if each.manager == manager]
        return max(found, key=lambda each: numbers(each.version))

    def min_driver(self, cuda: Cuda) -> str:
        """Return the oldest driver that a toolkit runs on, by minor-version compatibility."""
        major = self.minor_version_compatibility.get(numbers(cuda.version)[0], cuda.min_driver)
        return min(major, cuda.min_driver, key=numbers)

    def driver_version(self, os: str, branch: str) -> str | None:
        """Return the newest version of a branch on this operating system, or else on any."""
        of_branch = [d for d in self.drivers if d.branch == branch]
        found = [d for d in of_branch if d.os == os] or of_branch
        left_out = self.left_out.get(branch)
        versions = [d.version for d in found] or ([left_out.version] if left_out else [])
        return max(versions, key=numbers, default=None)


def _find(what: str, key: str, known: Mapping[str, T]) -> T:
    if key in known:
        return known[key]
    raise RecipeError(f"unknown {what}: {key}", hint=nearest(key, known))
