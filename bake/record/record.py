"""The result of a bake: one JSON document, in the folder of the run's logs.

A field that was added later has a default, so that older records can be read.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from bake.files import make_folder, write_file
from bake.record.inventory import Inventory
from bake.record.timeline import MachineRecord, StepRecord

FILE = "record.json"
FAILURE = "failure.json"


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", from_attributes=True)


class StageRecord(_Table):
    """A stage that the image contains.

    `checkpoint` is the id of the checkpoint that already contained it, or None if it ran in this
    bake. `seconds` is its duration when it ran.
    """

    name: str
    digest: str
    seconds: float
    checkpoint: str | None = None


class CheckRecord(_Table):
    """The result of a check.

    `part` tells the proof from the search for leftover files; it is None in older records.
    """

    part: Literal["proof", "leftovers"] | None = None
    name: str
    outcome: Literal["passed", "failed", "skipped"]
    detail: str
    seconds: float


class Record(_Table):
    """A bake that made an image: its result, its steps and its checks.

    It contains no secret. Times are in UTC. `snapshot_ids` are the image's own snapshots.
    """

    run: str
    recipe: str
    asked: Mapping[str, Any] = Field(
        {}, description="the settings of the recipe: table.key → value"
    )
    digest: str = Field(description="the digest of the whole plan")
    payload: Literal["upstream", "stand-in"]
    verified: Literal["gpu", "cpu", "no"]
    region: str = ""
    here: str = Field(
        "", description="the options with which a command uses the same cloud: --local"
    )
    image_id: str
    image_name: str
    snapshot_ids: tuple[str, ...] = ()
    base_image_id: str
    base_image_name: str = ""
    instance_type: str
    zone: str
    market: str
    stages: tuple[StageRecord, ...]
    steps: tuple[StepRecord, ...] = ()
    machines: tuple[MachineRecord, ...] = ()
    checks: tuple[CheckRecord, ...]
    inventory: Inventory
    started_at: AwareDatetime
    ended_at: AwareDatetime = Field(default_factory=lambda: datetime.now(UTC))

    def write(self, folder: Path) -> Path:
        """Write record.json into the folder, completely or not at all, and return its path."""
        return _write(self, folder / FILE)


class Failure(_Table):
    """A bake that made no image: its steps, and the error that ended it.

    It contains no secret. `error` is the name of the error's class in `bake/errors.py`; `stages`
    are the plan's stages, and `here` is as in a Record.
    """

    run: str
    recipe: str
    asked: Mapping[str, Any] = {}
    digest: str
    payload: Literal["upstream", "stand-in"]
    region: str = ""
    here: str = ""
    base_image_id: str
    base_image_name: str = ""
    stages: tuple[str, ...] = ()
    steps: tuple[StepRecord, ...] = ()
    machines: tuple[MachineRecord, ...] = ()
    error: str
    message: str
    hint: str = ""
    code: str = ""
    reason: str = ""
    details: tuple[str, ...] = ()
    started_at: AwareDatetime
    ended_at: AwareDatetime

    def write(self, folder: Path) -> Path:
        """Write failure.json into the folder, completely or not at all, and return its path."""
        return _write(self, folder / FAILURE)


def read(path: Path) -> Record:
    """Read record.json; ValueError if the file is not a record."""
    return Record.model_validate_json(path.read_text(encoding="utf-8"))


def read_failure(path: Path) -> Failure:
    """Read failure.json; ValueError if the file is not the record of a failure."""
    return Failure.model_validate_json(path.read_text(encoding="utf-8"))


def _write(table: _Table, path: Path) -> Path:
    make_folder(path.parent)
    write_file(path, table.model_dump_json(indent=2) + "\n", mode=0o666)
    return path
