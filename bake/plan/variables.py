"""The values of all inputs that a stage may declare."""

from __future__ import annotations

from bake.catalog import Catalog, Driver, Toolkit
from bake.plan.lock import UNLOCKED
from bake.recipe.gpu_checks import can_use_switches
from bake.recipe.payload import Payload, with_mirrors
from bake.recipe.recipe import Recipe, environment_prefix
from bake.recipe.resolved import Resolved

CHANNEL = "conda-forge"

# The inputs whose values a payload decides: where downloads come from, and how they are checked.
OF_PAYLOAD = frozenset(
    {
        *("OS_MIRROR", "OS_SECURITY_MIRROR", "NVIDIA_MIRROR", "NVIDIA_KEY_FINGERPRINT"),
        *("CONTAINER_TOOLKIT_MIRROR", "CONTAINER_TOOLKIT_KEY_FINGERPRINT"),
        *("EFA_MIRROR", "EFA_INSTALLER_SHA256"),
        *("CONDA_INSTALLER_SHA256", "CONDA_INSTALLER_MIRROR", "CONDA_CHANNEL"),
        *("PYPI_MIRROR", "PYTORCH_MIRROR"),
        *("NOTEBOOKS_URL", "NOTEBOOKS_SHA256", "NOTEBOOKS_COMMIT"),
    }
)

# The fields with which a recipe requests more than its compulsory ones, each with the inputs that
# carry its value. A recipe cannot leave out the compulsory fields (`cuda.version`, for example), so
# those may have no stage.
OPTIONAL_FIELDS = {
    "packages.apt": ("APT_PACKAGES",),
    "packages.conda": ("CONDA_PACKAGES",),
    "packages.pip": ("PIP_PACKAGES",),
    "python.environment": ("ENVIRONMENT", "ENVIRONMENT_PREFIX"),
    "driver.hold_kernel": ("DRIVER_HOLD_KERNEL",),
    "d2l.notebooks": ("NOTEBOOKS_URL",),
}


def requested_fields(recipe: Recipe) -> list[str]:
    """Return the optional fields that request something of a stage.

    They are the ones whose value is not the default, and the switches that the recipe sets to true.
    A switch that is off and an empty list request nothing.
    """
    requested = []
    for place in OPTIONAL_FIELDS:
        section, _, field = place.partition(".")
        table = getattr(recipe, section)
        value, default = getattr(table, field), type(table).model_fields[field].default
        is_set = field in table.model_fields_set
        if value and is_set and (value is True or value != default):
            requested.append(place)
    return requested


def variables(resolved: Resolved, payload: Payload) -> dict[str, str]:
    """Return every input that a stage may declare, with its value for a bake without a lock.

    STAGE, each stage's own name, is not among them. Packages are separated by blanks, requirements
    by newlines. ValueError for a recipe that `refuse_incompatible` refuses.
    """
    recipe, build = resolved.recipe, resolved.build
    driver, toolkit = resolved.driver, resolved.toolkit
    if driver is None or build is None or toolkit is None:
        raise ValueError(f"the parts of the recipe {recipe.name} cannot work together")
    payload = with_mirrors(payload, recipe.mirrors)
    mirrors = payload.mirrors
    distribution = recipe.base.partition("-")[0]
    return {
        "LOGIN_USER": resolved.os_image.ssh_user,
        "OS_ID": resolved.os_image.os_id,
        "OS_MIRROR": mirrors[distribution],
        "OS_SECURITY_MIRROR": mirrors.get(f"{distribution}-security", mirrors[distribution]),
        "APT_PACKAGES": " ".join(recipe.packages.apt),
        **_driver_and_toolkit(resolved, driver, toolkit, payload),
        **_installer(resolved, payload),
        "CONDA_CHANNEL": f"{mirrors['conda']}/{CHANNEL}",
        "CONDA_PACKAGES": " ".join(recipe.packages.conda),
        "PYTHON_VERSION": recipe.python.version,
        "ENVIRONMENT": recipe.python.environment,
        "ENVIRONMENT_PREFIX": environment_prefix(recipe),
        **_services(resolved.catalog, payload),
        "PYPI_MIRROR": mirrors["pypi"],
        "PYTORCH_MIRROR": f"{mirrors['pytorch']}/{build.index}" if build.index else "",
        "FRAMEWORK": build.name,
        "FRAMEWORK_VERSION": build.version,
        "FRAMEWORK_REQUIREMENTS": "\n".join(build.requirements + build.numpy),
        # The framework's numpy again: without it pip would give d2l's dependencies a newer one.
        "D2L_REQUIREMENTS": "\n".join(resolved.d2l.requirements + build.numpy),
        "D2L_NUMPY": resolved.d2l.numpy,
        "PIP_PACKAGES": "\n".join(recipe.packages.pip),
        **_notebooks(resolved, payload),
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


def _driver_and_toolkit(
    resolved: Resolved, driver: Driver, toolkit: Toolkit, payload: Payload
) -> dict[str, str]:
    # An image that was baked on a machine without NVSwitches also serves those that have them.
    fabric_manager = driver.fabric_manager if can_use_switches(resolved) else ()
    return {
        "DRIVER_BRANCH": driver.branch,
        "DRIVER_USERLAND_PACKAGES": " ".join(driver.userland),
        "DRIVER_KERNEL_PACKAGES": " ".join(driver.kernel),
        "DRIVER_HOLD_KERNEL": "yes" if resolved.recipe.driver.hold_kernel else "no",
        "FABRIC_MANAGER_PACKAGES": " ".join(fabric_manager),
        "NVIDIA_MIRROR": payload.mirrors["nvidia"],
        "NVIDIA_REPOSITORY": resolved.os_image.nvidia_repository,
        "NVIDIA_KEY_FINGERPRINT": payload.key_fingerprints.get("nvidia")
        or resolved.os_image.nvidia_key,
        "CUDA_VERSION": resolved.recipe.cuda.version,
        "CUDA_SOURCE": toolkit.archive,
        "CUDA_PACKAGES": " ".join(toolkit.packages),
        "CUDA_PINS": " ".join(toolkit.pins),
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


def _notebooks(resolved: Resolved, payload: Payload) -> dict[str, str]:
    """Return where the notebooks are: an archive if its sha256 is known, else a git commit."""
    recipe, d2l = resolved.recipe, resolved.d2l
    url = sha256 = commit = ""
    if recipe.d2l.notebooks:
        mirror = payload.mirrors["notebooks"]
        archive = d2l.archive(recipe.framework.name)
        if sha256 := payload.sha256.get(archive, ""):
            url = f"{mirror}/{archive}"
        else:
            repository, commit = d2l.notebooks[recipe.framework.name]
            url = f"{mirror}/{repository}.git"
    return {"NOTEBOOKS_URL": url, "NOTEBOOKS_SHA256": sha256, "NOTEBOOKS_COMMIT": commit}
