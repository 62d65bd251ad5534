"""The document of `invoke doctor`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from bake.cli.documents.document import Document, Part, Snake, TextOrNull
from bake.pipeline.doctor import DoctorResult


class PrerequisiteEntry(Part):
    """Something that a bake needs."""

    subject: str = Field(description="what was checked")
    outcome: Annotated[Literal["missing", "not_checked", "warning", "ok"], Snake] = Field(
        description="its outcome"
    )
    detail: str = Field(description="what was found")
    advice: TextOrNull = Field(description="what to do")


class DoctorDocument(Document):
    """The prerequisites of a bake, here and at AWS."""

    is_ready: bool = Field(description="true if nothing is known to be missing")
    checks: tuple[PrerequisiteEntry, ...] = Field(description="the worst outcome first")
    missing_policy: dict[str, Any] | None = Field(
        description="the IAM policy that the caller lacks; null if no permission is missing"
    )

    @classmethod
    def of_result(
        cls, result: DoctorResult, missing_policy: dict[str, Any] | None
    ) -> DoctorDocument:
        return cls(
            is_ready=result.well,
            checks=tuple(PrerequisiteEntry.of(check) for check in result.checks),
            missing_policy=missing_policy,
        )
