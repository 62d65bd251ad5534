"""The common parts of all documents: the error, and the kinds of values.

Names and values are in snake_case, numbers have their unit in their name, times are in UTC, and
what is not known is null. A value that AWS defines, such as the state of a machine, keeps AWS's
spelling.
"""

from __future__ import annotations

import os
from datetime import UTC
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
)

from bake.errors import BakeError, error_document


class Part(BaseModel):
    """A part of a document. It can be made of any object that has its fields as attributes."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", json_schema_serialization_defaults_required=True
    )

    @classmethod
    def of(cls, source: object, **more: Any) -> Self:
        """Make it of the attributes of an object; `more` are fields that the object lacks."""
        missing = cls.model_fields.keys() - more.keys()
        found = {name: getattr(source, name) for name in missing if hasattr(source, name)}
        return cls.model_validate(found | more)


def _snake_case(value: object) -> object:
    return value.replace("-", "_").replace(" ", "_") if isinstance(value, str) else value


def _known(*values: str, otherwise: str | None) -> BeforeValidator:
    """Replace a value that is not known, such as that of a tag that was changed by hand."""
    return BeforeValidator(lambda value: value if value in values else otherwise)


# A value that bake defines, written with underscores.
Snake = BeforeValidator(_snake_case)
# Text that is null if it is empty.
TextOrNull = Annotated[str | None, BeforeValidator(lambda value: value or None)]
# A file's name may have bytes that are not UTF-8, which JSON cannot have.
PathText = Annotated[
    Path,
    PlainSerializer(lambda path: os.fsencode(path).decode(errors="replace"), return_type=str),
]
Time = Annotated[
    AwareDatetime, AfterValidator(lambda value: value.astimezone(UTC).replace(microsecond=0))
]
Seconds = Annotated[float, AfterValidator(lambda value: round(value, 1))]
Usd = Annotated[float, AfterValidator(lambda value: round(value, 4))]
Market = Annotated[Literal["on_demand", "spot"], Snake]
Payload = Annotated[Literal["upstream", "stand_in"], Snake]
Proved = Annotated[Literal["gpu", "cpu", "no"], _known("gpu", "cpu", otherwise="no")]
PayloadOrNull = Annotated[
    Literal["upstream", "stand_in"] | None,
    _known("upstream", "stand_in", otherwise=None),
    Snake,
]


class ErrorPart(Part):
    """An error."""

    type: str = Field(description="its class in `bake/errors.py`, such as `RequestError`")
    message: str = Field(description="what failed")
    code: str | None = Field(description="AWS's code of the error")
    reason: str | None = Field(description="AWS's message")
    details: tuple[str, ...] = Field(description="further lines, such as the end of a log")
    hint: str | None = Field(description="what to do")

    @classmethod
    def of_error(cls, error: BakeError | None) -> ErrorPart | None:
        """Return the part for an error, or None without an error."""
        return cls(**document) if (document := error_document(error)) else None


class Failure(Part):
    """The document of a command that has failed before it had a result."""

    error: ErrorPart = Field(description="what ended the command")


class Document(Part):
    """The document of a command."""

    error: ErrorPart | None = Field(
        None, description="null if the command has done its work (exit status 0)"
    )


class FailedRecipe(Part):
    """A recipe that could not be used."""

    recipe: str = Field(description="its name")
    error: ErrorPart = Field(description="why")

    @classmethod
    def of_recipe(cls, recipe: str, error: BakeError | None) -> FailedRecipe:
        return cls.model_validate({"recipe": recipe, "error": error_document(error)})
