"""What each stage has installed, as the stages have noted it on the machine (scripts/lib.sh)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints

from bake.errors import RemoteError

FOLDER = "/usr/share/bake/installed"  # STAGE/KIND: lines `NAME WHAT…`
UNKNOWN = "-"

# Of a line of words, one.
Word = Annotated[str, StringConstraints(pattern=r"^[!-~]+$")]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Wheel(_Table):
    """`file` is its name, or a URL where it came from outside the index."""

    version: Word
    sha256: Word
    file: Word


class Installed(_Table):
    """By one stage. `apt` is package → version, of those that it added or upgraded; `conda` path in
    the channel → sha256; `files` other downloads → sha256 (of a git repository: the commit).

    UNKNOWN stands for a hash that nobody can tell.
    """

    apt: Mapping[Word, Word] = {}
    conda: Mapping[Word, Word] = {}
    pip: Mapping[Word, Wheel] = {}
    files: Mapping[Word, Word] = {}


# Asked of a machine: each line begins with the file's path.
COMMAND = f"! [ -d {FOLDER} ] || grep --recursive '' {FOLDER}"


_WHEEL = ("version", "sha256", "file")


def parse(listing: str) -> dict[str, Installed]:
    """Stage → what it installed. RemoteError for what no stage of ours writes."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    try:
        for stage, kind, name, words in _lines(listing):
            value = dict(zip(_WHEEL, words, strict=True)) if kind == "pip" else words[0]
            found.setdefault(stage, {}).setdefault(kind, {})[name] = value
        return {stage: Installed.model_validate(kinds) for stage, kinds in found.items()}
    except ValueError as error:
        raise RemoteError(
            f"What the stages have noted in {FOLDER} cannot be understood: {error}",
            hint="Only lib.sh writes there: does a stage of yours?",
        ) from error


def _lines(listing: str) -> Iterator[tuple[str, str, str, list[str]]]:
    for line in listing.splitlines():
        path, _, text = line.partition(":")
        stage, kind = path.removeprefix(f"{FOLDER}/").split("/")
        name, *words = text.split()
        if kind != "pip" and len(words) != 1:
            raise ValueError(text)
        yield stage, kind, name, words
