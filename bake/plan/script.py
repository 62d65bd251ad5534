"""A stage script or a check script, and its header.

The header declares what the script needs and is given:

    #!/usr/bin/env bash
    # What the stage does, in a sentence or more.
    # Needs:  conda|venv
    # Inputs: LOGIN_USER ENVIRONMENT_PREFIX
    #         PYPI_MIRROR GREETING=hello
    # Files:  greeter/config.toml greeter/themes
    # Secrets: WANDB_API_KEY
    # Reboots: no
    # Replaces: built-in

`Needs` are names of other stages. `a|b` means every stage of this list that the recipe has; it must
have at least one. `*` means every other stage. `Inputs` are the environment variables that the
stage gets; `NAME=default` gives one a value for recipes that do not set it. `Files` are files and
folders below the project's folder `files/`; the stage finds them in the folder $BAKE_FILES, with
the same relative paths. `Secrets` are the variables with secret values. Two blanks at the beginning
of a line continue the field of the line before.

After the script of a stage with `Reboots: yes` has succeeded, the machine is rebooted, and the
stage is done when the machine answers again. With `Reboots: when-required`, the machine is rebooted
only if the file /run/reboot-required exists; the distribution's packages create it, and so may the
stage. Both kinds of stage run alone. A project's script that has the name of a built-in one must
declare `Replaces: built-in`. Every stage gets `BAKE_LIB`, the path of lib.sh, and every check gets
`BAKE_GPUS`, without declaring them. A check has no other fields than `Inputs` and `Replaces`.
"""

from __future__ import annotations

import codecs
import difflib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal, cast, get_args

from bake.catalog import nearest
from bake.errors import Finding, RecipeError
from bake.files import read_source
from bake.recipe.project import Project
from bake.recipe.variable import is_free

FIELDS = ("Needs", "Inputs", "Files", "Secrets", "Reboots", "Replaces")
CHECK_FIELDS = ("Inputs", "Replaces")
EVERY_OTHER = "*"
ALWAYS_GIVEN = "BAKE_LIB"
FILES_FOLDER = "BAKE_FILES"
GPU_COUNT = "BAKE_GPUS"
GIVEN_TO = {
    ALWAYS_GIVEN: "every stage",
    FILES_FOLDER: "every stage that declares Files",
    GPU_COUNT: "every check",
}
BUILT_IN = "built-in"
_REPLACES = f"Replaces: {BUILT_IN}"
Kind = Literal["stage", "check"]
Reboots = Literal["no", "when-required", "yes"]

_SHELL = re.compile(r"\b(ba)?sh\b")  # in the first line, #!/bin/sh
_FIELD = re.compile(r"# ([A-Z][a-z]+):(.*)")
_NAME = re.compile(r"[a-z][a-z0-9-]*")
_NEED = re.compile(r"\*|[a-z][a-z0-9-]*(\|[a-z][a-z0-9-]*)*")
_INPUT = re.compile(r"[A-Z][A-Z0-9_]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_USE = re.compile(r"\$\{?#?([A-Z][A-Z0-9_]*)")


@dataclass(frozen=True)
class Script:
    """A script with what its header declares.

    `inputs` are the names of all inputs, and `defaults` has the values of those that a recipe need
    not set. `files` are paths below the folder `files/`. `replaces_built_in`: the script takes the
    place of a built-in one of the same name. `path` is where it was read.
    """

    name: str
    description: str
    needs: tuple[str, ...]
    inputs: tuple[str, ...]
    body: bytes
    reboots: Reboots = "no"
    secrets: tuple[str, ...] = ()
    defaults: Mapping[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    replaces_built_in: bool = False
    path: Path = field(default=Path(), compare=False)

    def used(self) -> frozenset[str]:
        """Return the upper-case variables that the body reads, outside comments."""
        lines = self.body.decode().splitlines()
        code = (line for line in lines if not line.lstrip().startswith("#"))
        return frozenset(name for line in code for name in _USE.findall(line))


def read_script(path: Path, kind: Kind = "stage") -> Script:
    """Read a script; RecipeError with every error of its header."""
    what = "stage script" if kind == "stage" else "check"
    try:
        body = read_source(path)
        lines = body.decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"the {what} {path} cannot be read: {error}") from error
    if body.startswith(codecs.BOM_UTF8) or b"\r\n" in body:
        message = "has a byte-order mark or Windows line endings, which bash takes as commands"
        hint = "Save it as UTF-8 without a byte-order mark, with Unix line endings"
        raise RecipeError(f"the {what} {path} {message}", hint=hint)
    file = _place(path, kind)
    description, values, findings = _header(file, lines, kind)
    script = _declared(path, description, values, body)
    findings += _check_header(file, script, values, kind)
    if findings:
        raise RecipeError(f"the {what} {path} has a bad header", findings=findings)
    return script


def check_replacement(script: Script, project: Project, kind: Kind = "stage") -> Iterator[Finding]:
    """Check that a script takes the place of a built-in one only if, and as, its header says so."""
    replaced = project.replaced_script(script.path)
    place = _place(script.path, kind)
    if replaced and not script.replaces_built_in:
        message = f"the project's {kind} has the name of a built-in one"
        hint = f"Give it another name, or write in its header that it is meant so: {_REPLACES}"
        yield Finding(place, message, hint)
    if script.replaces_built_in and not replaced:
        message = f"{_REPLACES}, and no built-in {kind} is called {script.name}"
        yield Finding(f"{place}: header", message, "Leave the line out")


def hint_for_unknown(folder: str, name: str, known: Iterable[str]) -> str:
    """Return a hint for a script that does not exist: known names, and where to write it."""
    near = nearest(name, known)
    return f"{near}{'' if near.endswith('?') else '.'} Or write scripts/{folder}/{name}.sh"


def _place(path: Path, kind: Kind) -> str:
    """Return the name of a script in findings: a stage and a check may have the same name."""
    return path.name if kind == "stage" else f"checks/{path.name}"


def _declared(path: Path, description: str, values: Mapping[str, str], body: bytes) -> Script:
    """Return what the fields declare, valid or not."""
    needs, inputs, files, secrets, reboots, replaces = (
        tuple(values.get(each, "").split()) for each in FIELDS
    )
    return Script(
        path.stem,
        description,
        needs,
        tuple(word.partition("=")[0] for word in inputs),
        body,
        cast("Reboots", " ".join(reboots)) if "Reboots" in values else "no",
        secrets,
        {key: value for key, found, value in (w.partition("=") for w in inputs) if found},
        tuple(str(PurePosixPath(path)) for path in files),
        replaces == (BUILT_IN,),
        path,
    )


def _check_header(
    file: str, script: Script, values: Mapping[str, str], kind: Kind
) -> Iterator[Finding]:
    """Check what a header declares."""
    place = f"{file}: header"
    if not _NAME.fullmatch(script.name):
        yield Finding(file, f"a {kind}'s name has small letters, digits and hyphens")
    if not script.description:
        yield Finding(place, "no description", f"Describe the {kind} in its first lines")
    for need in script.needs:
        if not _NEED.fullmatch(need):
            yield Finding(
                place,
                f"Needs: {need} is not a stage",
                "Write one, one|other or *, separated by blanks",
            )
    yield from _check_inputs(place, script)
    for path in script.files:
        if not _is_relative(path):
            hint = "Write the path of a file or a folder below files/, such as greeter/config.toml"
            yield Finding(place, f"Files: {path} is not a path below files/", hint)
    for name in script.secrets:
        if not is_free(name):
            hint = "Write names like WANDB_API_KEY"
            yield Finding(place, f"Secrets: {name} is not allowed", hint)
    if script.reboots not in get_args(Reboots):
        message = f"invalid Reboots: {script.reboots or 'nothing'}"
        yield Finding(place, message, f"Write one of {', '.join(get_args(Reboots))}")
    if "Replaces" in values and not script.replaces_built_in:
        message = f"invalid Replaces: {values['Replaces'].strip() or 'nothing'}"
        yield Finding(place, message, f"Write Replaces: {BUILT_IN}, or leave it out")


def _check_inputs(place: str, script: Script) -> Iterator[Finding]:
    for name in script.inputs:
        if name in GIVEN_TO:
            yield Finding(place, f"{name} is given to {GIVEN_TO[name]}", "Leave it out")
        elif not _INPUT.fullmatch(name):
            hint = "Write names like CUDA_VERSION; a default has no blanks"
            yield Finding(place, f"Inputs: {name} is not a variable", hint)
        elif not is_free(name):
            yield Finding(place, f"Inputs: the shell uses {name}", "Use another name")
    for name in (each for each, times in Counter(script.inputs).items() if times > 1):
        yield Finding(place, f"Inputs: {name} is declared twice", "Declare it once")
    for name, value in script.defaults.items():
        if _CONTROL.search(value):
            message = f"Inputs: the default of {name} has a control character"
            yield Finding(place, message, "Leave it out")
        if value[:1] in ("'", '"'):
            message = f"Inputs: the quotes would be a part of the default of {name}"
            yield Finding(place, message, "Leave them out; a default has no blanks")
    for name in sorted({*script.inputs} & {*script.secrets}):
        yield Finding(place, f"{name} is both an input and a secret", "Declare it once")


def _is_relative(path: str) -> bool:
    """Tell whether a path names something below a folder, whatever links the folder has."""
    parts = PurePosixPath(path).parts
    return bool(parts) and parts[0] != "/" and ".." not in parts and "\0" not in path


def _header(name: str, lines: list[str], kind: Kind) -> tuple[str, dict[str, str], list[Finding]]:
    fields = FIELDS if kind == "stage" else CHECK_FIELDS
    description: list[str] = []
    values: dict[str, str] = {}
    findings: list[Finding] = []
    current = ""
    for number, line in enumerate(lines, start=1):
        if line.startswith("#!") and number == 1:
            if not _SHELL.search(line):
                hint = "Write it in bash: #!/usr/bin/env bash"
                findings.append(Finding(f"{name}:1", f"bash cannot run a script for {line}", hint))
            continue
        if not line.startswith("#"):
            break
        place = f"{name}:{number}"
        if match := _FIELD.fullmatch(line):
            word, value = match.groups()
            if word in values:
                findings.append(Finding(place, f"{word} is declared twice"))
            elif word in fields:
                current, values[word] = word, value
                continue
            elif word in FIELDS:
                findings.append(Finding(place, f"a check has no {word}", "Leave it out"))
                continue
            elif near := difflib.get_close_matches(word, fields, n=1, cutoff=0.6):
                findings.append(Finding(place, f"unknown field {word}", f"Did you mean {near[0]}?"))
                continue
        if current and line.startswith("#  "):
            values[current] += " " + line[1:]
            continue
        current = ""
        if not values:
            description.append(line[1:].strip())
    return " ".join(description).strip(), values, findings
