"""The check that the packages which the recipe requests are installed, in the right versions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bake.errors import ConnectError, RemoteError
from bake.recipe.conda_spec import read_conda_spec
from bake.recipe.package_checks import applies
from bake.record import Inventory
from bake.verify.check import Failed, NotPromised, Shell, run_command
from bake.verify.expectation import Expectation
from bake.verify.inventory import read_inventory
from bake.verify.known import Diagnosis

# Each installed package with the other names that it also provides. apt installs a package of
# another name if that one provides the requested name.
PROVIDES = "dpkg-query --show --showformat '${db:Status-Abbrev}\\t${Provides}\\n'"


def check_packages(shell: Shell, expectation: Expectation) -> str:
    """Check that each requested package is installed, and has a version that the recipe allows.

    The versions of stand-ins are not those of the real packages, so only their names are checked.
    A build of a conda package and the URL of a pip package are not checked.
    """
    requested = expectation.packages
    if not requested:
        raise NotPromised
    try:
        inventory = read_inventory(shell, expectation.environment_prefix)
    except ConnectError:
        raise
    except RemoteError as error:
        raise Failed(Diagnosis(error.message, "; ".join(error.details), error.hint)) from error
    faults = [
        *_apt_faults(shell, expectation, inventory),
        *_dnf_faults(expectation, inventory),
        *_conda_faults(expectation, inventory),
        *_pip_faults(expectation, inventory),
    ]
    if faults:
        raise Failed(*faults)
    count = "1 package" if len(requested) == 1 else f"{len(requested)} packages"
    return f"{count}, by name only: stand-ins" if expectation.stand_in else count


def _apt_faults(
    shell: Shell, expectation: Expectation, inventory: Inventory
) -> Iterator[Diagnosis]:
    found = dict(inventory.dpkg)
    # dpkg adds the architecture to the name of a package that can be installed for several.
    for name, version in inventory.dpkg.items():
        found.setdefault(name.partition(":")[0], version)
    missing = {name for name, _ in map(_read_apt, expectation.apt) if name not in found}
    provided = _provided(shell) if missing else set()
    for package in expectation.apt:
        name, wanted = _read_apt(package)
        if name not in found and name in provided and not wanted:
            continue
        right = expectation.stand_in or not wanted or found.get(name) == wanted
        yield from _fault("apt", package, found.get(name), right)


def _dnf_faults(expectation: Expectation, inventory: Inventory) -> Iterator[Diagnosis]:
    """Yield what is missing. A rehearsal installs the packages by apt."""
    found = {**inventory.dpkg, **inventory.rpm} if expectation.stand_in else inventory.rpm
    for package in expectation.dnf:
        name, _, wanted = package.partition("=")
        right = expectation.stand_in or not wanted or found.get(name) == wanted
        yield from _fault("dnf", package, found.get(name), right)


def _read_apt(package: str) -> tuple[str, str]:
    """Return the name, with its architecture if it is another one, and the version or ""."""
    name, _, version = package.partition("=")
    return name.removesuffix(":amd64").removesuffix(":all").removesuffix(":any"), version


def _provided(shell: Shell) -> set[str]:
    output = run_command(shell, PROVIDES, timeout_s=60)
    installed = [line for line in output.stdout.splitlines() if line[:2] in ("ii", "hi")]
    return {
        re.split(r"[ :(]", name.strip())[0]
        for line in installed
        for name in line.partition("\t")[2].split(",")
    }


def _conda_faults(expectation: Expectation, inventory: Inventory) -> Iterator[Diagnosis]:
    found = {name.lower(): version for name, version in inventory.conda.items()}
    for package in expectation.conda_packages:
        spec = read_conda_spec(package)
        version = found.get(spec.name.lower())
        right = version is not None and (expectation.stand_in or spec.allows(version))
        yield from _fault("conda", package, version, right)


def _pip_faults(expectation: Expectation, inventory: Inventory) -> Iterator[Diagnosis]:
    found: Mapping[str, str] = {
        canonicalize_name(name): version for name, version in inventory.pip.items()
    }
    for package in expectation.pip:
        requirement = Requirement(package)
        if inventory.python and not applies(requirement, inventory.python):
            continue  # pip has ignored it, because of its marker
        version = found.get(canonicalize_name(requirement.name))
        right = version is not None and (
            expectation.stand_in or requirement.specifier.contains(version, prereleases=True)
        )
        yield from _fault("pip", package, version, right)


def _fault(kind: str, package: str, version: str | None, right: bool) -> Iterator[Diagnosis]:
    hint = f"Read the log of the stage that installs packages.{kind}."
    if version is None:
        yield Diagnosis(f"packages.{kind}: {package} is not installed", "", hint)
    elif not right:
        yield Diagnosis(
            f"packages.{kind}: {package} is requested, and {version} is installed", "", hint
        )
