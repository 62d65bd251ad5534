"""A recipe: which operating system, driver, CUDA, Python and framework an image has.

A recipe is a TOML file. It is read whole before anything is refused: every fault is a `Finding`
with its place in the file and what would be right. Its values never meet a shell here.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pydantic
from packaging.requirements import InvalidRequirement, Requirement
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from bake import catalog
from bake.catalog import nearest, numbers
from bake.errors import Finding, RecipeError
from bake.payload import SIGNED, UPSTREAM

SEAL = "seal"
MANAGER_STAGES = {"miniconda": "conda", "miniforge": "conda", "venv": "venv"}

# EC2 allows 50 tags on a resource; ours are one for each stage and about ten more.
MAX_TAGS = 25


def _refuse(message: str, hint: str = "") -> PydanticCustomError:
    return PydanticCustomError("bake", "{message}", {"message": message, "hint": hint})


def _version(value: object) -> object:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise _refuse(
            f"a version must not be a number: 10.10 as a number is {10.10}",
            f'Write it in quotes: "{value}"',
        )
    return value


def _known(what: str, names: Callable[[], Iterable[str]]) -> AfterValidator:
    def check(value: str) -> str:
        known = list(names())
        if value not in known:
            raise _refuse(f"unknown {what}: {value}", nearest(value, known).capitalize())
        return value

    return AfterValidator(check)


def _distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    if twice := [value for value, count in Counter(values).items() if count > 1]:
        raise _refuse(f"more than once: {', '.join(twice)}", "Name each once")
    return values


def _matching(pattern: str, what: str, example: str) -> AfterValidator:
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise _refuse(f"{value!r} is no {what}", f"Write something like {example}")
        return value

    return AfterValidator(check)


def _requirement(value: str) -> str:
    try:
        Requirement(value)
    except InvalidRequirement as error:
        reason = str(error).splitlines()[0]
        raise _refuse(
            f"{value!r} is no pip requirement: {reason}", 'Like "scipy==1.10.1"'
        ) from None
    if any(ord(character) < 32 for character in value):
        raise _refuse(f"{value!r} has a control character", "One requirement an entry, on one line")
    return value


Version = Annotated[
    str,
    BeforeValidator(_version),
    _matching(r"\d+(\.\d+)*", "version", '"10.1"'),
]
Name = Annotated[
    str,
    _matching(r"[a-z0-9][a-z0-9-]{0,62}", "name", "mxnet-cu101: small letters, digits, hyphens"),
]
AptPackage = Annotated[
    str,
    _matching(
        r"[a-z0-9][a-z0-9.+-]+(:[a-z0-9]+)?(=[\w.+:~-]+)?", "apt package", "htop or htop=3.0.5-7"
    ),
]
CondaPackage = Annotated[
    str,
    _matching(r"[A-Za-z0-9_][\w.:/-]*([=<>!~][\w.*=<>!~,|-]*)?", "conda package", "scipy=1.10"),
]
PipPackage = Annotated[str, AfterValidator(_requirement)]
Region = Annotated[str, _matching(r"[a-z]{2,}(-[a-z]+)+-\d+", "region", "us-west-2")]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class Builder(_Table):
    instance_types: Annotated[
        tuple[Annotated[str, _known("GPU machine", lambda: catalog.load().instance_types)], ...],
        AfterValidator(_distinct),
    ] = Field(min_length=1, description="machines in the order in which they are tried")
    disk_gb: int = Field(
        64, strict=True, ge=8, le=16384, description="a whole number of GB, 8 to 16384"
    )
    market: Literal["on-demand", "spot"] = "on-demand"
    timeout_hours: float = Field(6, gt=0, le=48, description="hours, up to 48")


class Driver(_Table):
    branch: Annotated[Version, _known("driver branch", lambda: catalog.load().branches())]
    modules: Literal["proprietary", "open"] = "proprietary"


class Cuda(_Table):
    version: Annotated[Version, _known("CUDA release", lambda: catalog.load().cuda)]


class Python(_Table):
    manager: Literal["miniconda", "miniforge", "venv"]
    version: Annotated[Version, _matching(r"3\.\d+", "Python version", '"3.9"')]
    environment: Annotated[str, _matching(r"[a-z][a-z0-9_-]{0,31}", "environment name", "d2l")] = (
        "d2l"
    )
    installer: str = Field("", description='the version of the installer, like "py310_24.9.2-0"')

    @model_validator(mode="after")
    def _installer_is_known(self) -> Self:
        known = [i.version for i in catalog.load().installers if i.manager == self.manager]
        if self.installer and self.installer not in known:
            hint = nearest(self.installer, known) if known else "a venv needs none"
            raise _refuse(f"{self.manager} has no installer {self.installer}", hint.capitalize())
        if known and not self.installer:
            raise _refuse("no installer is named", f'Write installer = "{known[-1]}"')
        return self


class Framework(_Table):
    name: Literal["mxnet", "pytorch"]
    version: Version

    @model_validator(mode="after")
    def _version_is_known(self) -> Self:
        known = sorted(
            {b.version for b in catalog.load().builds if b.name == self.name}, key=numbers
        )
        if self.version not in known:
            hint = nearest(self.version, known).capitalize()
            raise _refuse(f"unknown version of {self.name}: {self.version}", hint)
        return self


class D2l(_Table):
    version: Annotated[Version, _known("version of d2l", lambda: catalog.load().d2l)]
    notebooks: bool = Field(True, strict=True, description="true or false")


class Packages(_Table):
    apt: Annotated[tuple[AptPackage, ...], AfterValidator(_distinct)] = ()
    conda: Annotated[tuple[CondaPackage, ...], AfterValidator(_distinct)] = ()
    pip: Annotated[tuple[PipPackage, ...], AfterValidator(_distinct)] = ()


def _mirrors(mirrors: Mapping[str, str]) -> Mapping[str, str]:
    for name, url in mirrors.items():
        if name not in UPSTREAM.mirrors:
            hint = nearest(name, UPSTREAM.mirrors).capitalize()
            raise _refuse(f"unknown mirror: {name}", hint)
        plain = "http://" if name in SIGNED else ""
        if not re.fullmatch(rf"({plain or 'https://'}|https://)[^\s/?#]+(/[^\s?#]*)?", url):
            raise _refuse(
                f"{name}: {url!r} is no base URL", "Write https://host/path, without a query"
            )
    return mirrors


def _tags(tags: Mapping[str, str]) -> Mapping[str, str]:
    if len(tags) > MAX_TAGS:
        raise _refuse(f"{len(tags)} tags are too many", f"At most {MAX_TAGS}: the rest are ours")
    for key, value in tags.items():
        if not 1 <= len(key) <= 128 or len(value) > 256:
            raise _refuse(
                f"{key[:128]!r} is too long", "A key has 1 to 128 characters, a value up to 256"
            )
        if key.lower().startswith("aws:"):
            raise _refuse(f"{key!r} begins with aws:", "AWS keeps that prefix for itself")
        if key.lower().startswith("bake:"):
            raise _refuse(f"{key!r} begins with bake:", "Our own tags begin so")
        if any(ord(character) < 32 for character in key + value):
            raise _refuse(f"{key!r} has a control character", "Leave it out")
    return tags


class Recipe(_Table):
    """What an image is made of. Frozen; `override` gives a changed copy, validated again."""

    name: Name
    description: str = Field("", max_length=255, description="up to 255 characters, EC2's limit")
    default: bool = Field(False, strict=True, description="true: what --cuda alone chooses")
    base: Annotated[str, _known("operating system", lambda: catalog.load().os_images)]
    region: Region | None = None
    gpu: Literal["required", "if-present"] | None = None
    stages: Annotated[tuple[Name, ...], AfterValidator(_distinct)] = Field(min_length=1)
    builder: Builder
    driver: Driver
    cuda: Cuda
    python: Python
    framework: Framework
    d2l: D2l
    packages: Packages = Packages()
    mirrors: Annotated[Mapping[str, str], AfterValidator(_mirrors)] = Field(default_factory=dict)
    tags: Annotated[Mapping[str, str], AfterValidator(_tags)] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _stages_agree(self) -> Self:
        if self.stages[-1] != SEAL:
            raise _refuse(
                f"stages: {SEAL} is not the last stage", "An image is sealed before it is taken"
            )
        manager = MANAGER_STAGES[self.python.manager]
        for wrong in {*MANAGER_STAGES.values(), "mxnet", "pytorch"} & set(self.stages):
            right = manager if wrong in MANAGER_STAGES.values() else self.framework.name
            if wrong != right:
                raise _refuse(
                    f"stages: {wrong} does not go with this recipe", f"Write {right} in its place"
                )
        return self


def load(path: Path) -> Recipe:
    """RecipeError with every finding of the file."""
    return _validated(_document(path), f"the recipe {path} is not valid")


def find(name: str, folder: Path) -> Recipe:
    """The recipe of this name; a fault in another one's file does not matter."""
    paths: dict[str, list[Path]] = {}
    for path in _files(folder):
        try:
            paths.setdefault(str(_document(path).get("name")), []).append(path)
        except RecipeError:
            if path.stem == name:
                raise
    if name not in paths:
        raise RecipeError(
            f"there is no recipe {name} in {folder}", hint=nearest(name, paths).capitalize()
        )
    if len(paths[name]) > 1:
        raise _two_with_one_name(name, paths[name])
    return load(paths[name][0])


def all_recipes(folder: Path) -> list[Recipe]:
    """RecipeError with every finding of every file; also if two have one name."""
    recipes: list[Recipe] = []
    findings: list[Finding] = []
    places: dict[str, list[Path]] = {}
    for path in _files(folder):
        try:
            recipes.append(load(path))
            places.setdefault(recipes[-1].name, []).append(path)
        except RecipeError as error:
            found = error.findings or (Finding("", error.message, error.hint),)
            findings += [Finding(f"{path.name}: {f.place}", f.message, f.hint) for f in found]
    if findings:
        raise RecipeError(f"recipes in {folder} are not valid", findings=findings)
    for name, paths in places.items():
        if len(paths) > 1:
            raise _two_with_one_name(name, paths)
    return recipes


def choose(
    folder: Path, *, name: str | None = None, cuda: str | None = None, framework: str | None = None
) -> Recipe:
    """The recipe of this name, or else the default one for this CUDA and framework.

    With a name, `cuda` and `framework` choose nothing: they change the recipe (`override`).
    """
    if name is not None:
        return find(name, folder)
    recipes = all_recipes(folder)
    names = ", ".join(recipe.name for recipe in recipes) or "none"
    if cuda is None and framework is None:
        raise RecipeError("no recipe is named", hint=f"Name one, or give --cuda: there is {names}")
    frameworks = {framework} if framework else {recipe.framework.name for recipe in recipes}
    fitting = [
        recipe
        for recipe in recipes
        if cuda in (None, recipe.cuda.version) and recipe.framework.name in frameworks
    ]
    if not fitting:
        asked = " and ".join(filter(None, (cuda and f"CUDA {cuda}", framework)))
        there = ", ".join(f"{r.cuda.version} ({r.framework.name}: {r.name})" for r in recipes)
        raise RecipeError(f"there is no recipe for {asked}", hint=f"There is CUDA {there}")
    defaults = [recipe for recipe in fitting if recipe.default] or fitting
    if len(defaults) > 1:
        several = ", ".join(recipe.name for recipe in defaults)
        raise RecipeError(f"several recipes fit: {several}", hint="Name one of them")
    return defaults[0]


def override(
    recipe: Recipe,
    *,
    cuda: str | None = None,
    framework: str | None = None,
    region: str | None = None,
    instance_type: str | None = None,
    spot: bool | None = None,
    name: str | None = None,
) -> Recipe:
    """A copy with these values in place of its own; RecipeError if one of them is no good.

    `framework` brings its newest version for the CUDA, and its own stage. Whether the result can
    work is for `Catalog.check` to say.
    """
    document = recipe.model_dump(exclude_unset=True)
    if cuda is not None:
        document["cuda"]["version"] = cuda
    if framework is not None and framework != recipe.framework.name:
        version = _newest_version(framework, cuda or recipe.cuda.version)
        document["framework"] = {"name": framework, "version": version}
        own = recipe.framework.name
        document["stages"] = [framework if s == own else s for s in recipe.stages]
    if region is not None:
        document["region"] = region
    if instance_type is not None:
        document["builder"]["instance_types"] = [instance_type]
    if spot is not None:
        document["builder"]["market"] = "spot" if spot else "on-demand"
    if name is not None:
        document["name"] = name
    return _validated(document, f"the recipe {recipe.name} cannot be changed so")


def _newest_version(framework: str, cuda: str) -> str:
    builds = [b for b in catalog.load().builds if b.name == framework]
    fitting = [b for b in builds if cuda in b.cuda] or builds
    return max((b.version for b in fitting), key=numbers, default="0")


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise RecipeError(f"there is no folder of recipes at {folder}")
    return sorted(folder.glob("*.toml"))


def _document(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"the recipe {path} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"the recipe {path} is no TOML: {error}") from error


def _validated(document: Mapping[str, Any], message: str) -> Recipe:
    try:
        return Recipe.model_validate(document)
    except pydantic.ValidationError as error:
        raise RecipeError(message, findings=list(_findings(error))) from error


def _two_with_one_name(name: str, paths: Iterable[Path]) -> RecipeError:
    files = " and ".join(path.name for path in paths)
    return RecipeError(f"two recipes have the name {name}: {files}", hint="Give one another name")


def _findings(error: pydantic.ValidationError) -> Iterator[Finding]:
    for fault in error.errors(include_url=False):
        place = "".join(
            f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault["loc"]
        ).lstrip(".")
        table, field = _model_at(fault["loc"])
        match fault["type"]:
            case "extra_forbidden":
                hint = nearest(str(fault["loc"][-1]), table.model_fields if table else ())
                yield Finding(place, "unknown key", hint.capitalize())
            case "missing":
                yield Finding(place, "is missing", field.description or "" if field else "")
            case "bake":
                yield Finding(place, fault["ctx"]["message"], fault["ctx"]["hint"])
            case _:
                described = field.description if field else ""
                yield Finding(place, _lower(fault["msg"]), _sentence(described))


def _model_at(location: tuple[int | str, ...]) -> tuple[type[BaseModel] | None, Any]:
    """The table that holds this place, and the field itself where it has one."""
    table: type[BaseModel] = Recipe
    for part in location[:-1]:
        field = table.model_fields.get(str(part))
        if field is None or not (
            isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        ):
            return table, field
        table = field.annotation
    return table, table.model_fields.get(str(location[-1])) if location else None


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _sentence(text: str | None) -> str:
    return f"Write {text}" if text else ""
