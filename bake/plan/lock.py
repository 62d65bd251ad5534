"""A lock: the packages that one bake has installed. Every bake with the lock installs the same.

`manifests/NAME.lock` is a TOML file beside the recipe, made from a bake's record. Its contents are
inputs of the stages, so they are in the digests.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, ValidationError

from bake.errors import Finding, RecipeError, RequestError
from bake.files import read_source, write_file
from bake.recipe.payload import Payload
from bake.recipe.recipe import Recipe, environment_name
from bake.record import Installed, Record, Wheel
from bake.record import read as read_record
from bake.record.inventory import UNKNOWN, Word

# The sections of a recipe that decide which packages are installed.
PACKAGE_SECTIONS = ("base", "stages", "driver", "cuda", "python", "framework", "d2l", "packages")

# The inputs of stages that carry a lock. With a lock, none of them is empty.
UNLOCKED = {"LOCKED_APT": "", "LOCKED_CONDA": "", "LOCKED_PIP": ""}
_FIRST_LINE = "# locked"


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LockedImage(_Table):
    """A base image. Its name is the same in every region; its id is not."""

    name: str
    ids: Mapping[str, Word]


class Lock(_Table):
    format: Literal[1] = 1
    recipe: str
    payload: Literal["upstream", "stand-in"]
    run: str
    base_image: LockedImage
    asked: Mapping[str, Any]
    stages: Mapping[str, Installed]

    def base_image_in(self, region: str) -> str:
        """Return the id in this region, or the name if the region's id is unknown."""
        return self.base_image.ids.get(region) or self.base_image.name

    def inputs(self, stage: str, stages: Iterable[str], given: Mapping[str, str]) -> dict[str, str]:
        """Return the inputs that make a stage install the locked versions.

        `stages` are this stage and all that may have run before it ends: an apt package that
        several of them need is installed by the first of them.
        """
        own = self.stages.get(stage, Installed())
        apt = [
            f"{name} {package} {version}"
            for name in stages
            for package, version in sorted(self.stages.get(name, Installed()).apt.items())
        ]
        conda = [f"{path} {sha256}" for path, sha256 in sorted(own.conda.items())]
        pip = [_requirement(name, wheel) for name, wheel in sorted(own.pip.items())]
        lines = {"LOCKED_APT": apt, "LOCKED_CONDA": conda, "LOCKED_PIP": pip}
        return {
            **{name: "\n".join([_FIRST_LINE, *each]) for name, each in lines.items()},
            **_downloads(own.files, given),
        }


def package_settings(recipe: Recipe) -> dict[str, Any]:
    """Map `table.key` to its value, for the parts of a recipe that decide what is installed."""
    document = recipe.model_dump(mode="json", include=set(PACKAGE_SECTIONS))
    if recipe.python:
        document["python"]["environment"] = environment_name(recipe)
    found: dict[str, Any] = {}
    for name in PACKAGE_SECTIONS:
        value = document[name]
        if value is None:
            continue
        table = value.items() if isinstance(value, dict) else ()
        found |= {f"{name}.{key}": each for key, each in table} or {name: value}
    return found


def refuse_mismatch(lock: Lock, recipe: Recipe, payload: Payload) -> None:
    """Raise RecipeError with every difference between the lock and this recipe and payload."""
    findings = []
    if lock.payload != payload.name:
        message = f"the lock is for {lock.payload} downloads, and this bake uses {payload.name}"
        findings.append(Finding("payload", message))
    now = package_settings(recipe)
    for place in sorted({*now, *lock.asked}):
        locked, wanted = lock.asked.get(place), now.get(place)
        if locked != wanted:
            message = f"{_shown(locked)} is locked, and the recipe says {_shown(wanted)}"
            findings.append(Finding(place, message))
    if findings:
        raise RecipeError(
            f"The lock of {lock.recipe} does not match this bake",
            findings=findings,
            hint=f"Bake without it (--no-lock), then lock the result: invoke lock {lock.recipe}",
        )


# From a record -------------------------------------------------------------------------------


def newest_record(builds: Path, recipe: str, payload: str) -> Path:
    """Return the newest record of a recipe; RequestError if none is found."""
    found: list[tuple[object, Path]] = []
    for path in builds.glob("*/record.json"):
        try:
            record = read_record(path)
        except (OSError, ValueError):
            continue  # written by another version of bake
        if (record.recipe, record.payload) == (recipe, payload):
            found.append((record.started_at, path))
    if not found:
        servers = "with stand-ins" if payload == "stand-in" else "from the original servers"
        raise RequestError(
            f"No record of a bake of {recipe} {servers} found in {builds}",
            hint=f"Bake it first: {_bake_command(recipe, payload)}",
        )
    return max(found)[1]


def from_record(path: Path, recipe: str, earlier: Lock | None = None) -> Lock:
    """Make a lock from a bake's record. `earlier` may know the base image's ids in other regions.

    RequestError with every reason, if something cannot be locked.
    """
    try:
        record = read_record(path)
    except (OSError, RecursionError, ValueError) as error:
        raise RequestError(f"{path} is not a record of a bake: {error}") from error
    findings = list(_unlockable(record, recipe))
    if findings:
        raise RequestError(
            f"No lock can be made from {path}",
            findings=findings,
            hint=f"Make a record that can be locked: {_bake_command(recipe, record.payload)}",
        )
    ids = {record.region: record.base_image_id}
    if earlier and earlier.base_image.name == record.base_image_name:
        ids = {**earlier.base_image.ids, **ids}
    return Lock(
        recipe=record.recipe,
        payload=record.payload,
        run=record.run,
        base_image=LockedImage(name=record.base_image_name, ids=ids),
        asked=record.asked,
        stages=record.inventory.stages,
    )


def _bake_command(recipe: str, payload: str) -> str:
    where = " --local --stand-in" if payload == "stand-in" else ""
    return f"invoke bake {recipe} --no-lock --fresh{where}"


def _unlockable(record: Record, recipe: str) -> Iterator[Finding]:
    if record.recipe != recipe:
        yield Finding("recipe", f"the record belongs to recipe {record.recipe}, not {recipe}")
    if not (record.asked and record.base_image_name and record.region):
        yield Finding("", "the record lacks data that a lock needs: an older version wrote it")
    if record.inventory.rpm:
        message = "Amazon Linux keeps its packages for one release of the system only"
        yield Finding("base", message, "Name the base image by its id, and not by a pattern")
    for name, stage in record.inventory.stages.items():
        for path, sha256 in stage.conda.items():
            if sha256 == UNKNOWN or "://" in path:
                message = f"{path} is not from the recipe's channel, or has no sha256"
                yield Finding(f"{name}: conda", message)
        for wheel, found in stage.pip.items():
            place = f"{name}: pip"
            if found.sha256 == UNKNOWN:
                message = f"{wheel} {found.version} has no sha256: {found.file} is not an archive"
                yield Finding(place, message, "Let the recipe name a release, or an archive's URL")
            elif not found.file.partition("?")[0].endswith(".whl"):
                message = f"{wheel} {found.version} was built on the machine from {found.file}"
                yield Finding(place, message, "Let the recipe name a version that has a wheel")


# As a file -----------------------------------------------------------------------------------


def read_if_exists(path: Path, recipe: str) -> Lock | None:
    """Return the recipe's lock; None if the file does not exist."""
    return read(path, recipe) if path.exists() else None


def read_if_valid(path: Path) -> Lock | None:
    """Return the lock that a new one replaces; None if it cannot be read."""
    try:
        return read(path, path.stem)
    except RecipeError:
        return None


def read(path: Path, recipe: str) -> Lock:
    """Read a lock; RecipeError if it is not a lock of this recipe."""
    findings: list[Finding] = []
    try:
        lock = Lock.model_validate(tomllib.loads(read_source(path).decode("utf-8-sig")))
        if lock.recipe == recipe:
            return lock
        findings = [Finding("recipe", f"the lock belongs to recipe {lock.recipe}, not {recipe}")]
    except ValidationError as error:
        findings = [Finding(".".join(map(str, e["loc"])), e["msg"]) for e in error.errors()]
    except (OSError, ValueError, RecursionError) as error:
        findings = [Finding("", str(error))]
    raise RecipeError(
        f"The lock {path} cannot be used",
        findings=findings,
        hint=f"Bake with --no-lock, and lock the result: invoke lock {recipe}",
    )


def write(lock: Lock, path: Path) -> None:
    """Write a lock file, completely or not at all."""
    write_file(path, text(lock), mode=0o666)


def text(lock: Lock) -> str:
    """Return a lock as TOML in a stable order, so that a diff shows only what has changed."""
    lines = [
        f"# The packages of one bake of {lock.recipe}. A bake with this lock installs the same.",
        f"# Written by `invoke lock {lock.recipe}`, not by hand. See docs/recipes.md.",
    ]
    stages = {
        name: {kind: _sorted(packages) for kind, packages in installed.items() if packages}
        for name, installed in lock.model_dump()["stages"].items()
    }
    document = {
        **lock.model_dump(include={"format", "recipe", "payload", "run"}),
        "base_image": {"name": lock.base_image.name, "ids": _sorted(lock.base_image.ids)},
        "asked": _sorted(lock.asked),
        "stages": {name: installed for name, installed in stages.items() if installed},
    }
    return "\n".join([*lines, tomli_w.dumps(document)])


def _sorted(table: Mapping[str, Any]) -> dict[str, Any]:
    return dict(sorted(table.items()))


# For the stages ------------------------------------------------------------------------------


def _requirement(name: str, wheel: Wheel) -> str:
    """Return a line for pip's `--require-hashes`; the stage records the file in its comment."""
    if "://" in wheel.file:
        return f"{name} @ {wheel.file} --hash=sha256:{wheel.sha256}"
    return f"{name}=={wheel.version} --hash=sha256:{wheel.sha256} # {wheel.file}"


def _downloads(files: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """Return the inputs with the hashes of downloads."""
    notebooks = given.get("NOTEBOOKS_URL", "").rpartition("/")[2]
    by_git = "NOTEBOOKS_COMMIT" if notebooks.endswith(".git") else "NOTEBOOKS_SHA256"
    names = {"CONDA_INSTALLER_SHA256": given.get("CONDA_INSTALLER", ""), by_git: notebooks}
    return {key: files[name] for key, name in names.items() if name in files}


def _shown(value: object) -> str:
    return "nothing" if value is None or value == [] else json.dumps(value)
