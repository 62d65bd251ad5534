"""The plan of a bake: its stages with their inputs, order and digests.

Pure: it uses no network, and the same recipe, facts, scripts and base image give the same plan
everywhere. A stage's digest is computed from the digests of the stages that it needs (or the base
image's id), its name, the bytes of its script and of lib.sh, its inputs and its files. If one of
these changes, only the digests of this stage and of the stages that need it change.
"""

from __future__ import annotations

import hashlib
import re
from collections import ChainMap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bake.catalog import did_you_mean, nearest
from bake.errors import Finding, RecipeError
from bake.files import json_digest
from bake.plan.checks import PlannedCheck, read_checks
from bake.plan.lock import Lock, refuse_mismatch
from bake.plan.script import (
    ALWAYS_GIVEN,
    EVERY_OTHER,
    FILES_FOLDER,
    Script,
    check_replacement,
    hint_for_unknown,
    read_script,
)
from bake.plan.stage_files import StageFile, files_digest, folder_of, read_files
from bake.plan.variables import (
    OF_SECTION,
    OPTIONAL_FIELDS,
    requested_fields,
    section_of,
    unused_sections,
    variables,
)
from bake.recipe.compatibility import refuse_incompatible
from bake.recipe.payload import Payload
from bake.recipe.project import Project
from bake.recipe.recipe import Recipe
from bake.recipe.resolved import Resolved
from bake.recipe.variable import LONGEST_B


@dataclass(frozen=True)
class Stage:
    script: Script
    inputs: Mapping[str, str]
    needs: tuple[str, ...]
    digest: str
    files: tuple[StageFile, ...] = ()

    @property
    def name(self) -> str:
        return self.script.name

    @property
    def may_reboot(self) -> bool:
        """True if the machine reboots after the stage, always or when required: it runs alone."""
        return self.script.reboots != "no"


@dataclass(frozen=True)
class Plan:
    """The stages of a bake in an order in which they can run, and the checks of its proof.

    `lib` is the content of lib.sh. Without a `lock`, the stages install the newest packages.
    """

    resolved: Resolved
    payload: Payload
    base_image_id: str
    stages: tuple[Stage, ...]
    lib: bytes
    digest: str
    lock: Lock | None = None
    checks: tuple[PlannedCheck, ...] = ()

    @property
    def recipe(self) -> Recipe:
        return self.resolved.recipe


def make_plan(
    resolved: Resolved,
    *,
    payload: Payload,
    base_image_id: str,
    project: Project,
    lock: Lock | None = None,
) -> Plan:
    """Make the plan of a recipe.

    IncompatibleError if its parts cannot work together. RecipeError if its stages do not fit
    together, or if the lock does not match the recipe and the payload.
    """
    refuse_incompatible(resolved)
    recipe = resolved.recipe
    if lock:
        refuse_mismatch(lock, recipe, payload)
    own = variables(resolved, payload) | {"STAGE": ""}
    chosen = _read_scripts(recipe, project)
    needs = _resolve_needs(recipe, chosen, resolved.base_stages)
    given = {**_inputs_of_base(resolved), **recipe.inputs, **own}
    of_base = [name for each in resolved.lineage[1:] for name in each.recipe.checks]
    checks, wrong = read_checks([*resolved.all_stages, *of_base], recipe.checks, project)
    files, missing = _read_files(chosen)
    lib = project.lib.read_bytes()
    findings = [
        *wrong,
        *missing,
        *(each for script in chosen for each in _check_lib(script, lib)),
        *_check_own_inputs(recipe, [*chosen, *checks], own),
        *(each for script in chosen for each in _check_inputs("", script, given)),
        *(each for script in checks for each in _check_inputs("checks/", script, given)),
        *_check_secrets(recipe, chosen, given),
        *_check_fields(resolved, chosen, project),
    ]
    if findings:
        message = "the stages do not match the recipe"
        raise RecipeError(message, findings=findings)
    ordered = _sort_by_needs(chosen, needs)
    if ordered[-1].reboots != "no":
        message = f"the stage {ordered[-1].name} is the last one, and cannot reboot"
        raise RecipeError(
            message,
            hint="Remove Reboots from its header: after it, the machine has no SSH keys any more",
        )
    earlier = resolved.base_stages if lock else ()
    stages = _with_digests(ordered, needs, given, files, lock, lib, base_image_id, earlier)
    planned = tuple(PlannedCheck(script, _inputs(script, given)) for script in checks)
    whole = json_digest(
        {
            # No stage depends on the recipe's name and disk, but the image does.
            "recipe": recipe.name,
            "disk_gb": recipe.builder.disk_gb,
            "stages": {stage.name: stage.digest for stage in stages},
            **({"checks": [check.digest for check in planned]} if planned else {}),
        }
    )
    return Plan(resolved, payload, base_image_id, stages, lib, whole, lock, planned)


def _inputs_of_base(resolved: Resolved) -> dict[str, str]:
    """Return the [inputs] of the recipe of the base image, whose checks run again."""
    base = resolved.base
    return {**_inputs_of_base(base), **base.recipe.inputs} if base else {}


def all_inputs(resolved: Resolved, payload: Payload, project: Project) -> dict[str, str]:
    """Return every input of the recipe's stages with its value, their own defaults included."""
    recipe = resolved.recipe
    defaults = [script.defaults for script in _read_scripts(recipe, project)]
    return {**ChainMap(*map(dict, defaults)), **recipe.inputs, **variables(resolved, payload)}


def _with_digests(
    ordered: list[Script],
    needs: Mapping[str, tuple[str, ...]],
    given: Mapping[str, str],
    files: Mapping[str, tuple[StageFile, ...]],
    lock: Lock | None,
    lib: bytes,
    base: str,
    earlier: Sequence[str],
) -> tuple[Stage, ...]:
    """Return the stages with inputs and digests. A digest covers those of the needed stages.

    `earlier` are the stages whose packages are in the base image already, and locked, too.
    """
    stages: dict[str, Stage] = {}
    for script in ordered:
        values = {**script.defaults, **given, "STAGE": script.name}
        if lock:
            not_after = [s.name for s in ordered if script.name not in _all_needs(s.name, needs)]
            values |= lock.inputs(script.name, [*earlier, *not_after], given)
        inputs = _inputs(script, values)
        below = [stages[need].digest for need in needs[script.name]]
        own = files[script.name]
        digest = stage_digest(script, lib=lib, inputs=inputs, needs=below, base=base, files=own)
        stages[script.name] = Stage(script, inputs, needs[script.name], digest, own)
    return tuple(stages.values())


def _inputs(script: Script, given: Mapping[str, str]) -> dict[str, str]:
    """Return the values of a script's inputs."""
    values = {**script.defaults, **given}
    return {name: values[name] for name in script.inputs}


def stage_digest(
    script: Script,
    *,
    lib: bytes,
    inputs: Mapping[str, str],
    needs: Iterable[str],
    base: str,
    files: Sequence[StageFile] = (),
) -> str:
    """Return the sha256 of a stage. `base`, the base image's id, stands in if it has no `needs`."""
    below = sorted(needs)
    return json_digest(
        {
            "below": below or [base],
            "name": script.name,
            "script": hashlib.sha256(script.body).hexdigest(),
            "lib": hashlib.sha256(lib).hexdigest(),
            "inputs": dict(inputs),
            **({"files": files_digest(files)} if files else {}),
        }
    )


def _read_files(scripts: list[Script]) -> tuple[dict[str, tuple[StageFile, ...]], list[Finding]]:
    """Return each stage's files, and what is wrong with them."""
    files: dict[str, tuple[StageFile, ...]] = {}
    findings: list[Finding] = []
    for script in scripts:
        files[script.name], wrong = read_files(folder_of(script.path), script.files)
        findings += wrong
        if FILES_FOLDER in script.used() and not script.files:
            hint = "Name its files in the header: Files: greeter/config.toml"
            message = f"reads {FILES_FOLDER} and declares no files"
            findings.append(Finding(f"{script.name}.sh", message, hint))
    return files, findings


def _read_scripts(recipe: Recipe, project: Project) -> list[Script]:
    """Read the recipe's scripts, in its order; RecipeError with every finding."""
    paths = project.stages()
    chosen: list[Script] = []
    findings: list[Finding] = []
    for index, name in enumerate(recipe.stages):
        if name not in paths:
            hint = hint_for_unknown("stages", name, paths)
            findings.append(Finding(f"stages[{index}]", f"unknown stage: {name}", hint))
            continue
        try:
            chosen.append(read_script(paths[name]))
            findings += check_replacement(chosen[-1], project)
        except RecipeError as error:
            findings += error.findings or [Finding(paths[name].name, error.message, error.hint)]
    if findings:
        raise RecipeError(f"some stages of {recipe.name} cannot be used", findings=findings)
    return chosen


def _resolve_needs(
    recipe: Recipe, scripts: list[Script], base_stages: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """Map each stage to the stages of the recipe that it needs; `a|b` and `*` are resolved.

    A stage whose result is in the base image (`base_stages`) is needed no more.
    """
    names = [script.name for script in scripts]
    findings: list[Finding] = []
    needs: dict[str, tuple[str, ...]] = {}
    for script in scripts:
        wanted: list[str] = []
        for need in script.needs:
            found = names if need == EVERY_OTHER else [n for n in need.split("|") if n in names]
            if not found and set(base_stages).isdisjoint(need.split("|")):
                message = f"the stage {script.name} needs {' or '.join(need.split('|'))}"
                hint = f"Add it to stages, which are {', '.join(names)}, or correct Needs:"
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


def _check_inputs(folder: str, script: Script, given: Mapping[str, str]) -> Iterable[Finding]:
    place = f"{folder}{script.name}.sh"
    missing: dict[str, list[str]] = {}
    for name in script.inputs:
        if name not in given and name not in script.defaults:
            if section := section_of(name):
                missing.setdefault(section, []).append(name)
                continue
            own = f'Write {name} = "…" under [inputs] of the recipe, or a default: {name}=…'
            hint = f"{did_you_mean(name, given)} {own}".strip()
            yield Finding(place, f"no value for the input {name}", hint)
            continue
        value = given.get(name, script.defaults.get(name, ""))
        if (size := len(f"{name}={value}".encode()) + 1) > LONGEST_B:
            message = f"its input {name} is {size} bytes long, and Linux allows {LONGEST_B}"
            yield Finding(place, message, "Name fewer packages, or shorter ones")
    for section, names in missing.items():
        message = f"needs [{section}], which the recipe does not have, for {', '.join(names)}"
        yield Finding(place, message, f"Add [{section}], or leave out the stage {script.name}")
    known = given.keys() | {name for names in OF_SECTION.values() for name in names}
    for name in sorted(script.used() & known - set(script.inputs)):
        yield Finding(place, f"reads {name} and does not declare it", "Add it to Inputs:")


def _check_lib(script: Script, lib: bytes) -> Iterable[Finding]:
    """Report a function of lib.sh that a script calls, but neither sources nor defines."""
    body = script.body.decode()
    if ALWAYS_GIVEN in body:
        return
    for name in re.findall(r"^(\w+)\(\) ", lib.decode(), re.MULTILINE):
        if f"{name}()" not in body and re.search(rf"^\s*{name}\s", body, re.MULTILINE):
            message = f"calls {name}, a function of lib.sh, and does not source lib.sh"
            hint = f'Add the line: source "${{{ALWAYS_GIVEN}:?}}"'
            yield Finding(f"{script.name}.sh", message, hint)
            return


def _check_own_inputs(
    recipe: Recipe, scripts: list[Script], own: Mapping[str, str]
) -> Iterable[Finding]:
    """Check the names in [inputs]: bake gives its own inputs, and a stage takes each other one."""
    declared = {name for script in scripts for name in script.inputs}
    for name in recipe.inputs:
        section = section_of(name)
        if name in own or section:
            hint = f"Use [{section}]" if section else "Use another name"
            yield Finding(f"inputs.{name}", "bake gives stages this input itself", hint)
        elif name not in declared:
            near = nearest(name, declared - own.keys())
            hint = near or f"Add it to a script's header, Inputs: {name}, or leave it out"
            yield Finding(f"inputs.{name}", "no stage declares it", hint)


def _check_secrets(
    recipe: Recipe, scripts: list[Script], given: Mapping[str, str]
) -> Iterable[Finding]:
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


def _check_fields(resolved: Resolved, chosen: list[Script], project: Project) -> Iterable[Finding]:
    """Refuse a field of the recipe that none of its stages takes: the image would not have it.

    What it has taken over from the recipe of its base image is in that image.
    """
    recipe = resolved.recipe.model_copy(update=dict.fromkeys(resolved.inherited))
    taken = {name for script in chosen for name in script.inputs}
    for place in requested_fields(recipe):
        inputs = OPTIONAL_FIELDS[place]
        if taken.isdisjoint(inputs):
            stages = " or ".join(_stages_that_take(inputs, project))
            hint = f"Add {stages} to stages, or leave it out"
            if not stages:
                hint = f"Leave it out, or add {inputs[0]} to Inputs: of a stage"
            yield Finding(place, "no stage of the recipe uses it", hint)
    for section in unused_sections(recipe, taken):
        stages = " or ".join(_stages_that_take(OF_SECTION[section], project))
        hint = f"Add {stages} to stages, or leave out [{section}]"
        yield Finding(section, "no stage of the recipe uses this section", hint)


def _stages_that_take(inputs: Iterable[str], project: Project) -> Iterable[str]:
    for path in project.stages().values():
        try:
            script = read_script(path)
        except RecipeError:
            continue  # only the scripts of the recipe must be valid
        if not set(script.inputs).isdisjoint(inputs):
            yield script.name


def _sort_by_needs(scripts: list[Script], needs: Mapping[str, tuple[str, ...]]) -> list[Script]:
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
