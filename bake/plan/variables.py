"""The values of all inputs that a stage may declare."""

from __future__ import annotations

from collections.abc import Collection

from bake.catalog import Catalog, D2l
from bake.plan.lock import UNLOCKED
from bake.recipe.gpu_checks import can_use_switches
from bake.recipe.payload import Payload, with_mirrors
from bake.recipe.recipe import Recipe, environment_name, environment_prefix
from bake.recipe.resolved import Resolved

CHANNEL = "conda-forge"

# The inputs whose values a payload decides: where downloads come from, and how they are checked.
OF_PAYLOAD = frozenset(
    {
        *("OS_MIRROR", "OS_SECURITY_MIRROR", "NVIDIA_MIRROR", "NVIDIA_KEY_FINGERPRINT"),
        *("CONTAINER_TOOLKIT_MIRROR", "CONTAINER_TOOLKIT_KEY_FINGERPRINT"),
        *("EFA_MIRROR", "EFA_INSTALLER_SHA256"),
        *("CONDA_INSTALLER_SHA256", "CONDA_INSTALLER_MIRROR", "CONDA_CHANNEL"),
        *("PYPI_MIRROR", "PYTORCH_MIRROR", "PYTHON_VERSION"),
        *("NOTEBOOKS_URL", "NOTEBOOKS_SHA256", "NOTEBOOKS_COMMIT"),
    }
)

# The inputs that a section of the recipe gives. A recipe without the section has none of them.
OF_SECTION = {
    "driver": (
        *("DRIVER_BRANCH", "DRIVER_USERLAND_PACKAGES", "DRIVER_KERNEL_PACKAGES"),
        *("DRIVER_HOLD_KERNEL", "FABRIC_MANAGER_PACKAGES"),
    ),
    "cuda": ("CUDA_VERSION", "CUDA_SOURCE", "CUDA_PACKAGES", "CUDA_PINS"),
    "python": (
        *("CONDA_INSTALLER", "CONDA_INSTALLER_SHA256", "CONDA_INSTALLER_MIRROR", "CONDA_PACKAGES"),
        *("PYTHON_VERSION", "ENVIRONMENT", "ENVIRONMENT_PREFIX"),
    ),
    "framework": ("FRAMEWORK", "FRAMEWORK_VERSION", "FRAMEWORK_REQUIREMENTS", "PYTORCH_MIRROR"),
    "d2l": (
        *("D2L_REQUIREMENTS", "D2L_NUMPY"),
        *("NOTEBOOKS_URL", "NOTEBOOKS_SHA256", "NOTEBOOKS_COMMIT"),
    ),
}

# The fields with which a recipe requests more of its stages, each with the inputs that carry its
# value. A section as a whole is checked by `unused_sections`.
OPTIONAL_FIELDS = {
    "packages.apt": ("APT_PACKAGES",),
    "packages.dnf": ("DNF_PACKAGES",),
    "packages.conda": ("CONDA_PACKAGES",),
    "packages.pip": ("PIP_PACKAGES",),
    "python.environment": ("ENVIRONMENT", "ENVIRONMENT_PREFIX"),
    "driver.hold_kernel": ("DRIVER_HOLD_KERNEL",),
    "d2l.notebooks": ("NOTEBOOKS_URL",),
}


def section_of(name: str) -> str | None:
    """Return the section that gives this input; None if every recipe has the input."""
    return next((section for section, names in OF_SECTION.items() if name in names), None)


def unused_sections(recipe: Recipe, taken: Collection[str]) -> list[str]:
    """Return the sections that give none of the inputs in `taken`, which the stages declare.

    The CUDA release also decides which wheel of the framework is installed.
    """
    return [
        section
        for section, names in OF_SECTION.items()
        if getattr(recipe, section)
        and set(taken).isdisjoint(names)
        and not (section == "cuda" and recipe.framework)
    ]


def requested_fields(recipe: Recipe) -> list[str]:
    """Return the optional fields that request something of a stage.

    They are the ones whose value is not the default, and the switches that the recipe sets to true.
    A switch that is off and an empty list request nothing.
    """
    requested = []
    for place in OPTIONAL_FIELDS:
        section, _, field = place.partition(".")
        table = getattr(recipe, section)
        if table is None:
            continue
        value, default = getattr(table, field), type(table).model_fields[field].default
        is_set = field in table.model_fields_set
        if value and is_set and (value is True or value != default):
            requested.append(place)
    return requested


def variables(resolved: Resolved, payload: Payload) -> dict[str, str]:
    """Return every input that a stage may declare, with its value for a bake without a lock.

    STAGE, each stage's own name, and the recipe's own inputs are not among them. Packages are
    separated by blanks, requirements by newlines. A part that the recipe does not have, or that the
    catalog does not know, gives no inputs.
    """
    recipe = resolved.recipe
    payload = with_mirrors(payload, recipe.mirrors)
    mirrors = payload.mirrors
    distribution = resolved.os_image.os_id.partition("-")[0]
    return {
        "LOGIN_USER": resolved.os_image.ssh_user,
        "OS_ID": resolved.os_image.os_id,
        "OS_MIRROR": mirrors[distribution],
        "OS_SECURITY_MIRROR": mirrors.get(f"{distribution}-security", mirrors[distribution]),
        "APT_PACKAGES": " ".join(recipe.packages.apt),
        "DNF_PACKAGES": " ".join(recipe.packages.dnf),
        "NVIDIA_MIRROR": mirrors["nvidia"],
        "NVIDIA_REPOSITORY": resolved.os_image.nvidia_repository,
        "NVIDIA_KEY_FINGERPRINT": payload.key_fingerprints.get("nvidia")
        or resolved.os_image.nvidia_key,
        "CONDA_CHANNEL": f"{mirrors['conda']}/{CHANNEL}",
        **_services(resolved.catalog, payload),
        "PYPI_MIRROR": mirrors["pypi"],
        "PIP_PACKAGES": "\n".join(recipe.packages.pip),
        **_driver(resolved),
        **_toolkit(resolved),
        **_python(resolved, payload),
        **_framework(resolved, payload),
        **_d2l(resolved, payload),
        **UNLOCKED,
    }


def _services(catalog: Catalog, payload: Payload) -> dict[str, str]:
    """Return the sources of software that no section describes: its newest known version."""
    efa = catalog.newest_installer("efa")
    return {
        "CONTAINER_TOOLKIT_MIRROR": payload.mirrors["nvidia-container-toolkit"],
        "CONTAINER_TOOLKIT_KEY_FINGERPRINT": payload.key_fingerprints["nvidia-container-toolkit"],
        "EFA_MIRROR": payload.mirrors["efa"],
        "EFA_INSTALLER": efa.file,
        "EFA_INSTALLER_SHA256": payload.sha256.get(efa.file, efa.sha256),
    }


def _driver(resolved: Resolved) -> dict[str, str]:
    driver, section = resolved.driver, resolved.recipe.driver
    if driver is None or section is None:
        return {}
    # An image that was baked on a machine without NVSwitches also serves those that have them.
    fabric_manager = driver.fabric_manager if can_use_switches(resolved) else ()
    return {
        "DRIVER_BRANCH": driver.branch,
        "DRIVER_USERLAND_PACKAGES": " ".join(driver.userland),
        "DRIVER_KERNEL_PACKAGES": " ".join(driver.kernel),
        "DRIVER_HOLD_KERNEL": "yes" if section.hold_kernel else "no",
        "FABRIC_MANAGER_PACKAGES": " ".join(fabric_manager),
    }


def _toolkit(resolved: Resolved) -> dict[str, str]:
    cuda, toolkit = resolved.cuda, resolved.toolkit
    if cuda is None or toolkit is None:
        return {}
    return {
        "CUDA_VERSION": cuda.version,
        "CUDA_SOURCE": toolkit.archive,
        "CUDA_PACKAGES": " ".join(toolkit.packages),
        "CUDA_PINS": " ".join(toolkit.pins),
    }


def _python(resolved: Resolved, payload: Payload) -> dict[str, str]:
    recipe = resolved.recipe
    if recipe.python is None:
        return {}
    is_venv = recipe.python.manager == "venv"
    return {
        **_installer(resolved, payload),
        "CONDA_PACKAGES": " ".join(recipe.packages.conda),
        "PYTHON_VERSION": (is_venv and payload.venv_python) or recipe.python.version,
        "ENVIRONMENT": environment_name(recipe),
        "ENVIRONMENT_PREFIX": environment_prefix(recipe),
    }


def _framework(resolved: Resolved, payload: Payload) -> dict[str, str]:
    build = resolved.build
    if build is None:
        return {}
    return {
        "PYTORCH_MIRROR": f"{payload.mirrors['pytorch']}/{build.index}" if build.index else "",
        "FRAMEWORK": build.name,
        "FRAMEWORK_VERSION": build.version,
        "FRAMEWORK_REQUIREMENTS": "\n".join(build.requirements + build.numpy),
    }


def _d2l(resolved: Resolved, payload: Payload) -> dict[str, str]:
    d2l, build = resolved.d2l, resolved.build
    if d2l is None or build is None:
        return {}
    return {
        # The framework's numpy again: without it pip would give d2l's dependencies a newer one.
        "D2L_REQUIREMENTS": "\n".join(d2l.requirements + build.numpy),
        "D2L_NUMPY": d2l.numpy,
        **_notebooks(resolved, d2l, build.name, payload),
    }


def _installer(resolved: Resolved, payload: Payload) -> dict[str, str]:
    installer = resolved.installer
    if installer is None:  # a venv
        return dict.fromkeys(
            ("CONDA_INSTALLER", "CONDA_INSTALLER_SHA256", "CONDA_INSTALLER_MIRROR"), ""
        )
    mirror = payload.mirrors[installer.manager]
    if installer.manager == "miniforge":  # each release has a folder of its own
        mirror += f"/{installer.version}"
    return {
        "CONDA_INSTALLER": installer.file,
        "CONDA_INSTALLER_SHA256": payload.sha256.get(installer.file, installer.sha256),
        "CONDA_INSTALLER_MIRROR": mirror,
    }


def _notebooks(resolved: Resolved, d2l: D2l, framework: str, payload: Payload) -> dict[str, str]:
    """Return where the notebooks are: an archive if its sha256 is known, else a git commit."""
    section = resolved.recipe.d2l
    url = sha256 = commit = ""
    if section and section.notebooks:
        mirror = payload.mirrors["notebooks"]
        archive = d2l.archive(framework)
        if sha256 := payload.sha256.get(archive, ""):
            url = f"{mirror}/{archive}"
        else:
            repository, commit = d2l.notebooks[framework]
            url = f"{mirror}/{repository}.git"
    return {"NOTEBOOKS_URL": url, "NOTEBOOKS_SHA256": sha256, "NOTEBOOKS_COMMIT": commit}
