"""A stage script and its header.

The header declares what the stage needs and is given:

    #!/usr/bin/env bash
    # What the stage does, in a sentence or more.
    # Needs:  conda|venv
    # Inputs: LOGIN_USER ENVIRONMENT_PREFIX
    #         PYPI_MIRROR
    # Secrets: WANDB_API_KEY
    # Reboots: no

`Needs` are names of other stages. `a|b` means every stage of this list that the recipe has; it must
have at least one. `*` means every other stage. `Inputs` are the environment variables that the
stage gets, and `Secrets` are the variables with secret values. Two blanks at the beginning of a
line continue the field of the line before. After the script of a stage with `Reboots: yes` has
succeeded, the machine is rebooted, and the stage is done when the machine answers again. With
`Reboots: when-required`, the machine is rebooted only if the file /run/reboot-required exists; the
distribution's packages create it, and so may the stage. Both kinds of stage run alone. Every stage
gets `BAKE_LIB`, the path of lib.sh, without declaring it.
"""

from __future__ import annotations

import codecs
import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

from bake.errors import Finding, RecipeError
from bake.recipe.variable import is_free

FIELDS = ("Needs", "Inputs", "Secrets", "Reboots")
EVERY_OTHER = "*"
ALWAYS_GIVEN = "BAKE_LIB"
Reboots = Literal["no", "when-required", "yes"]

_FIELD = re.compile(r"# ([A-Z][a-z]+):(.*)")
_NAME = re.compile(r"[a-z][a-z0-9-]*")
_NEED = re.compile(r"\*|[a-z][a-z0-9-]*(\|[a-z][a-z0-9-]*)*")
_INPUT = re.compile(r"[A-Z][A-Z0-9_]*")
_USE = re.compile(r"\$\{?#?([A-Z][A-Z0-9_]*)")


@dataclass(frozen=True)
class Script:
    name: str
    description: str
    needs: tuple[str, ...]
    inputs: tuple[str, ...]
    body: bytes
    reboots: Reboots = "no"
    secrets: tuple[str, ...] = ()

    def used(self) -> frozenset[str]:
        """Return the upper-case variables that the body reads, outside comments."""
        lines = self.body.decode().splitlines()
        code = (line for line in lines if not line.lstrip().startswith("#"))
        return frozenset(name for line in code for name in _USE.findall(line))


def read_script(path: Path) -> Script:
    """Read a script; RecipeError with every error of its header."""
    try:
        body = path.read_bytes()
        lines = body.decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"the stage script {path} cannot be read: {error}") from error
    description, values, findings = _header(path.name, lines)
    if body.startswith(codecs.BOM_UTF8) or b"\r\n" in body:
        message = "has a byte-order mark or Windows line endings, which bash takes as commands"
        hint = "Save it as UTF-8 without a byte-order mark, with Unix line endings"
        raise RecipeError(f"the stage script {path} {message}", hint=hint)
    needs, inputs, secrets = (tuple(values.get(field, "").split()) for field in FIELDS[:3])
    reboots = values.get("Reboots", "no").strip()
    place = f"{path.name}: header"
    if not _NAME.fullmatch(path.stem):
        findings.append(Finding(path.name, "a stage's name has small letters, digits and hyphens"))
    if not description:
        findings.append(Finding(place, "no description", "Describe the stage in its first lines"))
    findings += [
        Finding(place, f"Needs: {need} is not a stage", "Write stage, one|other, or *")
        for need in needs
        if not _NEED.fullmatch(need)
    ]
    findings += [
        Finding(place, f"Inputs: {name} is not a variable", "Write names like CUDA_VERSION")
        for name in inputs
        if not _INPUT.fullmatch(name)
    ]
    findings += [
        Finding(place, f"Secrets: {name} is not allowed", "Write names like WANDB_API_KEY")
        for name in secrets
        if not is_free(name)
    ]
    findings += [
        Finding(place, f"{name} is both an input and a secret", "Declare it once")
        for name in sorted({*inputs} & {*secrets})
    ]
    if ALWAYS_GIVEN in inputs:
        findings.append(Finding(place, f"{ALWAYS_GIVEN} is given to every stage", "Leave it out"))
    if reboots not in get_args(Reboots):
        message = f"invalid Reboots: {reboots or 'nothing'}"
        hint = f"Write one of {', '.join(get_args(Reboots))}"
        findings.append(Finding(place, message, hint))
    if findings:
        raise RecipeError(f"the stage script {path} has a bad header", findings=findings)
    return Script(path.stem, description, needs, inputs, body, cast("Reboots", reboots), secrets)


def _header(name: str, lines: list[str]) -> tuple[str, dict[str, str], list[Finding]]:
    description: list[str] = []
    values: dict[str, str] = {}
    findings: list[Finding] = []
    current = ""
    for number, line in enumerate(lines, start=1):
        if line.startswith("#!") and number == 1:
            continue
        if not line.startswith("#"):
            break
        place = f"{name}:{number}"
        if match := _FIELD.fullmatch(line):
            word, value = match.groups()
            if word in values:
                findings.append(Finding(place, f"{word} is declared twice"))
            elif word in FIELDS:
                current, values[word] = word, value
                continue
            elif near := difflib.get_close_matches(word, FIELDS, n=1, cutoff=0.6):
                findings.append(Finding(place, f"unknown field {word}", f"Did you mean {near[0]}?"))
                continue
        if current and line.startswith("#  "):
            values[current] += " " + line[1:]
            continue
        current = ""
        if not values:
            description.append(line[1:].strip())
    return " ".join(description).strip(), values, findings
