"""The document of a new project."""

from __future__ import annotations

from pydantic import Field

from bake.cli.documents.document import Document, PathText


class InitDocument(Document):
    """The files of a new project."""

    folder: PathText = Field(description="the project's folder")
    written: tuple[PathText, ...] = Field(description="the files that were written")
    kept: tuple[PathText, ...] = Field(description="files that existed, and are unchanged")
