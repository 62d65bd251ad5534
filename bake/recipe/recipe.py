"""A recipe: the operating system of an image, its stages, and the sections that the stages need.

A recipe is a TOML file. It is validated as a whole: each error is a `Finding` with its place in the
file and a hint. This module passes no value to a shell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from bake import catalog
from bake.catalog import nearest
from bake.errors import RecipeError
from bake.recipe.fields import (
    AmiId,
    AptPackage,
    Ascii,
    CondaPackage,
    Distinct,
    DnfPackage,
    Environment,
    ImageOwner,
    ImageParameter,
    ImagePattern,
    InputName,
    InputValue,
    InstanceTypeName,
    Mirrors,
    Name,
    NameOrTable,
    NotEmpty,
    OsKey,
    ParameterName,
    PipPackage,
    Printable,
    Region,
    SecretId,
    SecretName,
    Tags,
    UserName,
    VariableName,
    Version,
    invalid_value,
    known,
    matching,
)
from bake.recipe.validation import findings

SEAL = "seal"
MANAGER_STAGES = {"miniconda": "conda", "miniforge": "conda", "venv": "venv"}
DEFAULT_FRAMEWORK = "mxnet"
DEFAULT_ENVIRONMENT = "main"
# The sections that describe software. A recipe has those that its stages need.
SOFTWARE = ("driver", "cuda", "python", "framework", "d2l")
BASE_SOURCES = ("ami", "name", "ssm_parameter", "recipe")
SECRET_PLACES = ("env", "ssm", "secretsmanager")


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BuilderSection(_Table):
    instance_types: Annotated[tuple[InstanceTypeName, ...], NotEmpty, Distinct] = Field(
        description="machines, in the order in which they are tried"
    )
    disk_gb: int = Field(64, strict=True, ge=8, le=16384, description="a whole number of GB")
    market: Literal["on-demand", "spot"] = "on-demand"
    timeout_hours: float = Field(6, strict=True, gt=0, le=48, description="a number, up to 48")


class DriverSection(_Table):
    branch: Annotated[Version, known("driver branch", lambda: catalog.load().branches())]
    modules: Literal["proprietary", "open"] = "proprietary"
    hold_kernel: bool = Field(True, strict=True, description="true or false")


class CudaSection(_Table):
    version: Annotated[Version, known("CUDA release", lambda: catalog.load().cuda)]


class PythonSection(_Table):
    """The environment's Python and its manager. `installer` is the version of the manager."""

    manager: Literal["miniconda", "miniforge", "venv"]
    version: Annotated[Version, matching(r"3\.[0-9]{1,2}", "version of Python 3", '"3.9"')]
    environment: Environment | None = Field(
        None, description="the environment's name: d2l with the package d2l, else main, if missing"
    )
    installer: str = ""

    @model_validator(mode="after")
    def _installer_is_known(self) -> Self:
        known_versions = [i.version for i in catalog.load().installers if i.manager == self.manager]
        if self.installer in known_versions or (self.manager == "venv" and not self.installer):
            return self
        message = f"{self.manager} has no installer {self.installer!r}"
        hint = (
            nearest(self.installer, known_versions)
            if known_versions
            else "a venv needs no installer: leave it out"
        )
        raise invalid_value(message, hint, below="installer")


class FrameworkSection(_Table):
    name: Annotated[str, known("framework", lambda: catalog.load().frameworks)]
    version: Version

    @model_validator(mode="after")
    def _version_is_known(self) -> Self:
        known_versions = sorted({b.version for b in catalog.load().builds if b.name == self.name})
        if self.version not in known_versions:
            message = f"unknown version of {self.name}: {self.version}"
            raise invalid_value(message, nearest(self.version, known_versions), below="version")
        return self


class D2lSection(_Table):
    version: Annotated[Version, known("version of d2l", lambda: catalog.load().d2l)]
    notebooks: bool = Field(True, strict=True, description="true or false")


class PackagesSection(_Table):
    """Packages in addition to those that the stages install."""

    apt: Annotated[tuple[AptPackage, ...], Distinct] = ()
    dnf: Annotated[tuple[DnfPackage, ...], Distinct] = ()
    conda: Annotated[tuple[CondaPackage, ...], Distinct] = ()
    pip: Annotated[tuple[PipPackage, ...], Distinct] = ()


class CheckpointsSection(_Table):
    """The stages after which a bake keeps its machine's disk, as a start for later bakes.

    If `after` is None, the disk is kept after every wave of stages. No digest covers this section.
    """

    after: Annotated[tuple[Name, ...], Distinct] | None = Field(
        None, description="a list of the recipe's stages"
    )
    keep: int = Field(8, strict=True, ge=0, le=100, description="a whole number, 0 to 100")
    max_age_days: float = Field(30, strict=True, gt=0, le=3650, description="a number of days")


class Secret(_Table):
    """The place, one of three, from which a secret's value is read when a bake starts.

    `key` is a key of the JSON object in Secrets Manager. The value itself is never in a recipe.
    """

    env: VariableName | None = None
    ssm: ParameterName | None = None
    secretsmanager: SecretId | None = None
    key: str | None = Field(None, min_length=1, description="a key of the secret's JSON object")

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        named = [place for place in SECRET_PLACES if getattr(self, place) is not None]
        if len(named) != 1:
            places = " and ".join(named) or "no place"
            raise invalid_value(f"names {places}", f"Write one of {', '.join(SECRET_PLACES)}")
        if self.key is not None and self.secretsmanager is None:
            raise invalid_value("works only with secretsmanager", "Leave it out", below="key")
        return self


def _sealed_at_the_end(stages: tuple[str, ...]) -> tuple[str, ...]:
    if stages[-1] != SEAL:
        raise invalid_value(
            f"the last stage is not {SEAL}", "An image must be sealed: add it as the last stage"
        )
    return stages


class BaseSection(_Table):
    """The image from which a bake starts: one of the catalog's (`os` alone), or another one.

    Another one is named by an AMI's id, by its owner and a pattern of its name, by a parameter of
    Systems Manager that contains its id, or by the recipe that makes it. `os` is the catalog's key
    of the operating system in it, which only the image of a recipe leaves out. `login_user` is
    the operating system's own if it is missing.
    """

    os: OsKey | None = None
    ami: AmiId | None = None
    owner: ImageOwner | None = None
    name: ImagePattern | None = None
    ssm_parameter: ImageParameter | None = None
    recipe: Name | None = None
    login_user: UserName | None = None

    @property
    def is_of_catalog(self) -> bool:
        """True if the image is the catalog's own one of the operating system."""
        return not any(getattr(self, source) for source in BASE_SOURCES)

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> Any:
        """Return the name of the operating system alone, as most recipes write it, if possible."""
        return self.os if self.is_of_catalog and not self.login_user else handler(self)

    def __str__(self) -> str:
        """Return the operating system or the source of the image, for people."""
        named = next((s for s in BASE_SOURCES if getattr(self, s)), None)
        if named is None:
            return str(self.os)
        value = getattr(self, named)
        source = f"the image of {value}" if named == "recipe" else str(value)
        return f"{source} ({self.os})" if self.os else source

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        named = [source for source in BASE_SOURCES if getattr(self, source) is not None]
        if len(named) > 1:
            hint = f"Write one of {', '.join(BASE_SOURCES)}"
            raise invalid_value(f"names {' and '.join(named)}", hint)
        if (self.owner is None) != (self.name is None):
            missing = "name" if self.name is None else "owner"
            raise invalid_value("is missing", "Write both owner and name", below=missing)
        if self.recipe is None and self.os is None:
            hint = 'Write the operating system in the image, such as os = "ubuntu-24.04"'
            raise invalid_value("is missing", hint, below="os")
        if self.recipe is not None and (self.os or self.login_user):
            wrong = "os" if self.os else "login_user"
            hint = f"Leave it out: the recipe {self.recipe} says it"
            raise invalid_value("does not go with recipe", hint, below=wrong)
        return self


def _base_table(value: object) -> object:
    """Write the name of an operating system as the table that it stands for."""
    if isinstance(value, str):
        known_names = catalog.load().os_images
        if value not in known_names:
            hint = nearest(value, known_names)
            if value.startswith("ami-"):
                hint = f'Write a table, with its system: {{ ami = "{value}", os = "ubuntu-24.04" }}'
            raise invalid_value(f"unknown operating system: {value}", hint)
        return {"os": value}
    return value


class Recipe(_Table):
    """The contents of an image. Frozen: `override` returns a changed copy, validated again.

    `extends` and `without` say from which recipe the values come that its own file leaves out; they
    have been applied already (bake.recipe.extends).
    """

    name: Name
    description: Annotated[str, Printable, Ascii] = Field(
        "", max_length=255, description="up to 255 characters, EC2's limit"
    )
    default: bool = Field(False, strict=True, description="true if --cuda alone chooses it")
    extends: Name | None = None
    without: Annotated[tuple[str, ...], Distinct] = ()
    base: Annotated[BaseSection, NameOrTable(_base_table)]
    region: Region | None = None
    gpu: Literal["required", "if-present", "none"] | None = None
    stages: Annotated[tuple[Name, ...], NotEmpty, Distinct, AfterValidator(_sealed_at_the_end)]
    checks: Annotated[tuple[Name, ...], Distinct] = Field(
        (), description="names of scripts in scripts/checks, which the proof runs"
    )
    builder: BuilderSection
    driver: DriverSection | None = None
    cuda: CudaSection | None = None
    python: PythonSection | None = None
    framework: FrameworkSection | None = None
    d2l: D2lSection | None = None
    packages: PackagesSection = PackagesSection()
    inputs: dict[InputName, InputValue] = {}
    checkpoints: CheckpointsSection = CheckpointsSection()
    mirrors: Mirrors = {}
    tags: Tags = {}
    secrets: dict[SecretName, Secret] = {}

    @model_validator(mode="before")
    @classmethod
    def _assume_unknown_facts(cls, document: Any) -> Any:
        catalog.assume(document)
        return document

    @model_validator(mode="after")
    def _stages_match_sections(self) -> Self:
        groups = []
        if self.python:
            groups.append((set(MANAGER_STAGES.values()), MANAGER_STAGES[self.python.manager]))
        if self.framework:
            groups.append((set(catalog.load().frameworks), self.framework.name))
        for index, stage in enumerate(self.stages):
            for group, right in groups:
                if stage in group and stage != right:
                    message = f"the recipe has {right}, and its stage is {stage}"
                    raise invalid_value(message, f"Write {right}", below=f"stages[{index}]")
        return self

    @model_validator(mode="after")
    def _sections_go_together(self) -> Self:
        if self.gpu == "none" and self.driver:
            hint = 'Leave out [driver], or write gpu = "if-present"'
            raise invalid_value("a machine without a GPU has no driver", hint, below="gpu")
        needs = (("d2l", "framework"), ("framework", "python"))
        # The recipe of the base image may have what is missing here.
        for section, needed in needs if self.base.recipe is None else ():
            if getattr(self, section) and not getattr(self, needed):
                hint = f"Add [{needed}], or leave out [{section}]"
                raise invalid_value(f"needs [{needed}]", hint, below=section)
        return self

    @model_validator(mode="after")
    def _checkpoints_follow_stages(self) -> Self:
        before_seal = [stage for stage in self.stages if stage != SEAL]
        for index, stage in enumerate(self.checkpoints.after or ()):
            if stage not in before_seal:
                message = f"a sealed disk cannot be a checkpoint: {stage}"
                if stage != SEAL:
                    message = f"the recipe has no stage {stage}"
                hint = nearest(stage, before_seal)
                raise invalid_value(message, hint, below=f"checkpoints.after[{index}]")
        return self


def promises_no_gpu(recipe: Recipe) -> bool:
    """Tell whether the image is for machines without a GPU, because the recipe says so or has no
    driver."""
    return recipe.gpu == "none" or (recipe.gpu is None and recipe.driver is None)


def cuda_of(recipe: Recipe) -> str | None:
    """Return the recipe's CUDA release; None without one."""
    return recipe.cuda.version if recipe.cuda else None


def framework_of(recipe: Recipe) -> str | None:
    """Return the name of the recipe's framework; None without one."""
    return recipe.framework.name if recipe.framework else None


def validated(
    document: Mapping[str, Any], message: str, place: Callable[[str], str] = str
) -> Recipe:
    """Return the recipe of a document; RecipeError with this message and every finding.

    `place` changes the place of a finding.
    """
    try:
        return Recipe.model_validate(document)
    except pydantic.ValidationError as error:
        found = [replace(each, place=place(each.place)) for each in findings(error, Recipe)]
        raise RecipeError(message, findings=found) from error


PREFIXES = {"conda": "/opt/conda/envs", "venv": "/opt/venvs"}


def environment_name(recipe: Recipe) -> str:
    """Return the name of the recipe's Python environment; empty without Python."""
    if recipe.python is None:
        return ""
    return recipe.python.environment or ("d2l" if recipe.d2l else DEFAULT_ENVIRONMENT)


def environment_prefix(recipe: Recipe) -> str:
    """Return the folder of the recipe's Python environment on the machine; empty without Python."""
    if recipe.python is None:
        return ""
    return f"{PREFIXES[MANAGER_STAGES[recipe.python.manager]]}/{environment_name(recipe)}"
