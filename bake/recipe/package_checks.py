"""Checks of a recipe's own packages against its other parts.

Only what is certain is refused: pip, conda and apt find the rest when they install.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bake.catalog import Driver
from bake.errors import Finding
from bake.recipe.conda_spec import CondaSpec, read_conda_spec
from bake.recipe.resolved import Resolved

# The names under which conda packages a framework.
_CONDA_NAMES = {"pytorch": "torch", "pytorch-gpu": "torch", "pytorch-cpu": "torch"}
_FRAMEWORKS = re.compile(r"torch|mxnet(-cu\d+)?|tensorflow(-cpu|-gpu)?|jax")

# NVIDIA's packages that install a driver, and Ubuntu's and Debian's packages of one driver branch.
_BUNDLED_DRIVER = re.compile(r"cuda(-\d+-\d+)?|cuda-(runtime|drivers)(-.+)?|nvidia-open(-\d+)?")
_DRIVER_BRANCH = re.compile(
    r"(?:nvidia|libnvidia|xserver-xorg-video-nvidia|linux-(?:modules|objects|signatures)-nvidia)"
    r"(?:-[a-z]\w*)*-(\d{3})(?:-.+)?"
)
_TOOLKIT = re.compile(r"cuda-(?:toolkit|libraries|compiler|nvcc|cudart)(?:-dev)?-(\d+)-(\d+)")
_KERNEL = re.compile(r"linux-image-.+|linux-(aws|generic|lowlatency|virtual|kvm|azure|gcp)(-.+)?")


def check_packages(resolved: Resolved) -> Iterator[Finding]:
    """Refuse packages that contradict the recipe's framework, Python, driver, CUDA or kernel."""
    yield from _check_pip(resolved)
    yield from _check_conda(resolved)
    yield from _check_apt(resolved)


def pinned_versions(resolved: Resolved) -> dict[str, tuple[str, str]]:
    """Map each Python package to the version that the recipe needs, and to the part that needs it.

    Only packages with one possible version are listed.
    """
    build, d2l, python = resolved.build, resolved.d2l, resolved.recipe.python
    lines: dict[str, str] = {}
    if python is None:
        return {}
    if d2l:
        lines |= dict.fromkeys(d2l.requirements + d2l.pins, f"d2l {d2l.version}")
    if build:
        own = f"{build.name} {build.version}"
        lines |= dict.fromkeys(build.requirements + build.numpy, own)
    return {
        canonicalize_name(requirement.name): (str(requirement.specifier)[2:], part)
        for line, part in lines.items()
        if applies(requirement := Requirement(line), python.version)
        and str(requirement.specifier).startswith("==")
    }


def applies(requirement: Requirement, python: str) -> bool:
    """Tell whether pip would install a requirement with this version of Python, 3.9 or 3.9.1."""
    minor = ".".join(python.split(".")[:2])
    full = python if minor != python else f"{python}.0"
    environment = {"python_version": minor, "python_full_version": full}
    environment |= {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}
    return requirement.marker is None or requirement.marker.evaluate(environment)


def _check_pip(resolved: Resolved) -> Iterator[Finding]:
    pins, python = pinned_versions(resolved), resolved.recipe.python
    for index, line in enumerate(resolved.recipe.packages.pip):
        requirement = Requirement(line)
        if python and not applies(requirement, python.version):
            continue
        place, name = f"packages.pip[{index}]", canonicalize_name(requirement.name)
        if name in pins:
            version, part = pins[name]
            if requirement.url or not requirement.specifier.contains(version, prereleases=True):
                yield _contradiction(place, line, name, version, part)
        elif other := _other_framework(name, pins):
            yield _second_framework(place, line, other)


def _check_conda(resolved: Resolved) -> Iterator[Finding]:
    python, pins = resolved.recipe.python, pinned_versions(resolved)
    if python is None:
        return  # no stage takes the packages, which the plan refuses
    for index, line in enumerate(resolved.recipe.packages.conda):
        place, spec = f"packages.conda[{index}]", read_conda_spec(line)
        name = _CONDA_NAMES.get(spec.name, canonicalize_name(spec.name))
        if python.manager == "venv":
            hint = "Name it in packages.pip or packages.apt, or use miniforge as the manager"
            yield Finding(place, f"a venv contains no conda package: {line}", hint)
        elif name == "python":
            if not _allows_python(spec, python.version):
                hint = "Leave it out: python.version is what counts"
                yield Finding(place, f"{line} contradicts Python {python.version}", hint)
        elif _FRAMEWORKS.fullmatch(name) and (name in pins or _other_framework(name, pins)):
            framework = resolved.recipe.framework
            part = f"{framework.name} {framework.version}" if framework else "the framework"
            hint = "Leave it out: the framework's own stage installs its wheel"
            yield Finding(place, f"{line} would be a second build of {part}", hint)
        elif name in pins and not spec.allows(pins[name][0]):
            yield _contradiction(place, line, name, *pins[name])


def _check_apt(resolved: Resolved) -> Iterator[Finding]:
    own = resolved.os_image.package_manager
    other = "dnf" if own == "apt" else "apt"
    if getattr(resolved.recipe.packages, other):
        message = f"{resolved.os_image.key} has no {other}, and installs its packages by {own}"
        yield Finding(f"packages.{other}", message, f"Name them in packages.{own}")
    for index, package in enumerate(resolved.recipe.packages.apt):
        name = re.split("[:=]", package)[0]
        if problem := _apt_problem(resolved, name):
            hint = "Leave it out: the stages install the driver, CUDA and their kernel"
            yield Finding(f"packages.apt[{index}]", f"{name} {problem}", hint)


def _apt_problem(resolved: Resolved, name: str) -> str:
    """Return how an apt package contradicts the recipe; empty if it does not."""
    driver, wanted = resolved.driver, resolved.recipe.driver
    cuda = resolved.cuda.version if resolved.cuda else None
    if driver and name in driver.userland + driver.kernel + driver.fabric_manager:
        return ""
    if wanted and _BUNDLED_DRIVER.fullmatch(name):
        return f"would replace driver {wanted.branch} by the one that NVIDIA bundles"
    branch = _DRIVER_BRANCH.fullmatch(name)
    if wanted and branch and branch[1] != wanted.branch:
        return f"is of driver {branch[1]}, and the recipe has {wanted.branch}"
    toolkit = _TOOLKIT.fullmatch(name)
    if cuda and toolkit and f"{toolkit[1]}.{toolkit[2]}" != cuda:
        return f"is of CUDA {toolkit[1]}.{toolkit[2]}, and the recipe has {cuda}"
    if name == "nvidia-cuda-toolkit" and resolved.toolkit and resolved.toolkit.archive != "os":
        return f"is another CUDA toolkit in addition to NVIDIA's {cuda}"
    if wanted and _KERNEL.fullmatch(name) and not _is_own_kernel(name, driver):
        return "is another kernel than that of the base image, for which the driver is built"
    return ""


def _is_own_kernel(name: str, driver: Driver | None) -> bool:
    """Tell whether a package is of the kernel whose headers the driver needs."""
    flavours = {n.removeprefix("linux-headers-") for n in driver.kernel} if driver else set()
    return any(name in (f"linux-image-{each}", f"linux-{each}") for each in flavours)


def _allows_python(spec: CondaSpec, python: str) -> bool:
    """Tell whether a spec allows any patch version of this Python."""
    return any(spec.allows(f"{python}.{patch}") for patch in range(50))


def _other_framework(name: str, pins: Iterable[str]) -> str:
    """Return the recipe's build of the framework of which `name` is another build."""
    family = name.partition("-")[0]
    if not _FRAMEWORKS.fullmatch(name) or name in pins:
        return ""
    return next((pin for pin in pins if pin.partition("-")[0] == family), "")


def _second_framework(place: str, line: str, other: str) -> Finding:
    message = f"{line} and {other} contain the same files"
    return Finding(place, message, f"Leave it out: the recipe installs {other}")


def _contradiction(place: str, line: str, name: str, version: str, part: str) -> Finding:
    message = f"{line} contradicts {part}, which needs {name} {version}"
    return Finding(place, message, f"Leave it out, or choose another version of {part.split()[0]}")
