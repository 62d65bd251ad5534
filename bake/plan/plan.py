"""The plan of a bake: its stages with their inputs, order and digests.

Pure: it uses no network, and the same recipe, facts, scripts and base image give the same plan
everywhere. A stage's digest is computed from the digests of the stages that it needs (or the base
image's id), its name, the bytes of its script and of lib.sh, and its inputs. If one of these
changes, this stage and those that need it have another digest, and no other stage has.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bake.catalog import nearest
from bake.errors import Finding, RecipeError
from bake.plan.lock import UNLOCKED, Lock, refuse_another
from bake.plan.script import EVERY_OTHER, Script, read_script
from bake.recipe.compatibility import refuse_incompatible
from bake.recipe.payload import Payload, with_mirrors
from bake.recipe.recipe import Recipe, environment_prefix
from bake.recipe.resolved import Resolved
from bake.recipe.variable import LONGEST_B

CHANNEL = "conda-forge"


@dataclass(frozen=True)
class Stage:
    script: Script
    inputs: Mapping[str, str]
    needs: tuple[str, ...]
    digest: str

    @property
    def name(self) -> str:
        return self.script.name

    @property
    def reboots(self) -> bool:
        return self.script.reboots


@dataclass(frozen=True)
class Plan:
    """The stages of a bake in an order in which they can run.

    `lib` is the content of lib.sh. Without a `lock`, the stages install the newest packages.
    """

    resolved: Resolved
    payload: Payload
    base_image_id: str
    stages: tuple[Stage, ...]
    lib: bytes
    digest: str
    lock: Lock | None = None

    @property
    def recipe(self) -> Recipe:
        return self.resolved.recipe


def make_plan(
    resolved: Resolved,
    *,
    payload: Payload,
    base_image_id: str,
    scripts: Path,
    lock: Lock | None = None,
) -> Plan:
    """Make the plan of a recipe.

    IncompatibleError if its parts cannot work together. RecipeError if its stages do not fit
    together, or if the lock belongs to something else.
    """
    refuse_incompatible(resolved)
    recipe = resolved.recipe
    if lock:
        refuse_another(lock, recipe, payload)
    given = variables(resolved, payload) | {"STAGE": ""}
    chosen = _read(recipe, scripts)
    needs = _needs(recipe, chosen)
    findings = [finding for script in chosen for finding in _inputs(script, given)]
    findings += _secrets(recipe, chosen, given)
    if findings:
        message = "the inputs or secrets of the stages do not match the recipe"
        raise RecipeError(message, findings=findings)
    ordered = _in_order(chosen, needs)
    if ordered[-1].reboots:
        message = f"the stage {ordered[-1].name} is the last one, and cannot reboot"
        raise RecipeError(
            message,
            hint="Remove Reboots: yes: after the last stage, the machine has no SSH keys any more",
        )
    lib = (scripts / "lib.sh").read_bytes()
    stages: dict[str, Stage] = {}
    for script in ordered:
        values = given | {"STAGE": script.name}
        if lock:
            not_after = [s.name for s in ordered if script.name not in _all_needs(s.name, needs)]
            values |= lock.inputs(script.name, not_after, given)
        inputs = {name: values[name] for name in script.inputs}
        below = [stages[need].digest for need in needs[script.name]]
        digest = stage_digest(script, lib=lib, inputs=inputs, needs=below, base=base_image_id)
        stages[script.name] = Stage(script, inputs, needs[script.name], digest)
    whole = _digest(
        # No stage depends on the recipe's name and disk, but the image does.
        recipe=recipe.name,
        disk_gb=recipe.builder.disk_gb,
        stages={name: stage.digest for name, stage in stages.items()},
    )
    return Plan(resolved, payload, base_image_id, tuple(stages.values()), lib, whole, lock)


def variables(resolved: Resolved, payload: Payload) -> dict[str, str]:
    """Return every input that a stage may declare, as it is without a lock.

    STAGE, each stage's own name, is not among them. Lists of packages are separated by blanks,
    lists of requirements by newlines. ValueError for a recipe that `refuse_incompatible` refuses.
    """
    recipe, driver, build, toolkit = (
        resolved.recipe,
        resolved.driver,
        resolved.build,
        resolved.toolkit,
    )
    if driver is None or build is None or toolkit is None:
        raise ValueError(f"the parts of the recipe {recipe.name} cannot work together")
    payload = with_mirrors(payload, recipe.mirrors)
    mirrors = payload.mirrors
    distribution = recipe.base.partition("-")[0]
    with_switch = any(machine.fabric_manager for machine in resolved.machines)
    return {
        "LOGIN_USER": resolved.os_image.ssh_user,
        "OS_ID": recipe.base,
        "OS_MIRROR": mirrors[distribution],
        "OS_SECURITY_MIRROR": mirrors.get(f"{distribution}-security", mirrors[distribution]),
        "APT_PACKAGES": " ".join(recipe.packages.apt),
        "DRIVER_BRANCH": driver.branch,
        "DRIVER_SOURCE": driver.archive,
        "DRIVER_USERLAND_PACKAGES": " ".join(driver.userland),
        "DRIVER_KERNEL_PACKAGES": " ".join(driver.kernel),
        "FABRIC_MANAGER_PACKAGES": " ".join(driver.fabric_manager if with_switch else ()),
        "NVIDIA_MIRROR": mirrors["nvidia"],
        "NVIDIA_REPOSITORY": resolved.os_image.nvidia_repository,
        "NVIDIA_KEY_FINGERPRINT": payload.nvidia_key_fingerprint,
        "CUDA_VERSION": recipe.cuda.version,
        "CUDA_SOURCE": toolkit.archive,
        "CUDA_PACKAGES": " ".join(toolkit.packages),
        "CUDA_PINS": " ".join(toolkit.pins),
        **_installer(resolved, payload),
        "CONDA_CHANNEL": f"{mirrors['conda']}/{CHANNEL}",
        "CONDA_PACKAGES": " ".join(recipe.packages.conda),
        "PYTHON_VERSION": recipe.python.version,
        "ENVIRONMENT": recipe.python.environment,
        "ENVIRONMENT_PREFIX": environment_prefix(recipe),
        "PYPI_MIRROR": mirrors["pypi"],
        "PYTORCH_MIRROR": f"{mirrors['pytorch']}/{build.index}".rstrip("/"),
        "FRAMEWORK": build.name,
        "FRAMEWORK_VERSION": build.version,
        "FRAMEWORK_REQUIREMENTS": "\n".join(build.requirements + build.numpy),
        # The framework's numpy again: without it pip would give d2l's dependencies a newer one.
        "D2L_REQUIREMENTS": "\n".join(resolved.d2l.requirements + build.numpy),
        "PIP_PACKAGES": "\n".join(recipe.packages.pip),
        **_notebooks(resolved, payload),
        **UNLOCKED,
    }


def stage_digest(
    script: Script, *, lib: bytes, inputs: Mapping[str, str], needs: Iterable[str], base: str
) -> str:
    """Return the sha256 of a stage, from the digests of its `needs`, or from `base` without any."""
    below = sorted(needs)
    return _digest(
        below=below or [base],
        name=script.name,
        script=hashlib.sha256(script.body).hexdigest(),
        lib=hashlib.sha256(lib).hexdigest(),
        inputs=dict(inputs),
    )


def _digest(**parts: object) -> str:
    """Return the sha256 of the canonical JSON: keys sorted, no blanks, ASCII."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


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
        if sha256 := payload.sha256.get(d2l.archive, ""):
            url = f"{mirror}/{d2l.archive}"
        else:
            repository, commit = d2l.notebooks[recipe.framework.name]
            url = f"{mirror}/{repository}.git"
    return {"NOTEBOOKS_URL": url, "NOTEBOOKS_SHA256": sha256, "NOTEBOOKS_COMMIT": commit}


def _read(recipe: Recipe, scripts: Path) -> list[Script]:
    """Read the recipe's scripts, in its order; RecipeError with every finding."""
    paths = {path.stem: path for path in sorted((scripts / "stages").glob("*.sh"))}
    chosen: list[Script] = []
    findings: list[Finding] = []
    for index, name in enumerate(recipe.stages):
        if name not in paths:
            hint = nearest(name, paths)
            findings.append(Finding(f"stages[{index}]", f"unknown stage: {name}", hint))
            continue
        try:
            chosen.append(read_script(paths[name]))
        except RecipeError as error:
            findings += error.findings or [Finding(paths[name].name, error.message, error.hint)]
    if findings:
        raise RecipeError(f"some stages of {recipe.name} cannot be used", findings=findings)
    return chosen


def _needs(recipe: Recipe, scripts: list[Script]) -> dict[str, tuple[str, ...]]:
    """Map each stage to the stages of the recipe that it needs, for alternatives and `*`, too."""
    names = [script.name for script in scripts]
    findings: list[Finding] = []
    needs: dict[str, tuple[str, ...]] = {}
    for script in scripts:
        wanted: list[str] = []
        for need in script.needs:
            found = names if need == EVERY_OTHER else [n for n in need.split("|") if n in names]
            if not found:
                message = f"the stage {script.name} needs {' or '.join(need.split('|'))}"
                hint = f"Add it to stages, which are {', '.join(names)}"
                findings.append(Finding("stages", f"{message}, which is not in the recipe", hint))
            wanted += [name for name in found if need != EVERY_OTHER or name != script.name]
        needs[script.name] = tuple(sorted(set(wanted)))
    if findings:
        raise RecipeError(
            f"some stages of {recipe.name} need stages that the recipe does not have",
            findings=findings,
        )
    return needs


def _all_needs(name: str, needs: Mapping[str, tuple[str, ...]]) -> set[str]:
    """Return the stages that a stage needs, directly or through others."""
    return {*needs[name]}.union(*(_all_needs(need, needs) for need in needs[name]))


def _inputs(script: Script, given: Mapping[str, str]) -> Iterable[Finding]:
    place = f"{script.name}.sh"
    for name in script.inputs:
        if name not in given:
            hint = nearest(name, given)
            yield Finding(place, f"unknown input: {name}", hint)
        elif (size := len(f"{name}={given[name]}".encode()) + 1) > LONGEST_B:
            message = f"its input {name} is {size} bytes long, and Linux allows {LONGEST_B}"
            yield Finding(place, message, "Name fewer packages, or shorter ones")
    for name in sorted(script.used() & set(given) - set(script.inputs)):
        yield Finding(place, f"reads {name} and does not declare it", "Add it to Inputs:")


def _secrets(recipe: Recipe, scripts: list[Script], given: Mapping[str, str]) -> Iterable[Finding]:
    """Check the names of secrets. Digests contain the names, in the scripts, but no values."""
    for script in scripts:
        place = f"{script.name}.sh"
        for name in script.secrets:
            if name not in recipe.secrets:
                hint = f'Give the place of its value: {name} = {{ env = "{name}" }} under [secrets]'
                yield Finding(place, f"the recipe has no secret {name}", hint)
        for name in sorted(script.used() & set(recipe.secrets) - set(script.secrets)):
            yield Finding(place, f"reads {name} and does not declare it", "Add it to Secrets:")
    taken = {name for script in scripts for name in script.secrets}
    for name in recipe.secrets:
        if name in given:
            yield Finding(
                f"secrets.{name}", "an input of the stages has this name", "Use another name"
            )
        elif name not in taken:
            hint = f"Add it to a script's header, Secrets: {name}, or leave it out"
            yield Finding(f"secrets.{name}", "no stage uses it", hint)


def _in_order(scripts: list[Script], needs: Mapping[str, tuple[str, ...]]) -> list[Script]:
    """Keep the recipe's order as far as the needs allow; RecipeError for a circle."""
    waiting, done = list(scripts), list[Script]()
    while waiting:
        names = {script.name for script in done}
        ready = next((script for script in waiting if names.issuperset(needs[script.name])), None)
        if ready is None:
            circle = ", ".join(script.name for script in waiting)
            raise RecipeError(
                f"stages need each other in a circle: {circle}",
                hint="Remove one of the needs from a script's header",
            )
        waiting.remove(ready)
        done.append(ready)
    return done
