"""What came of a bake: one JSON document, which is kept beside the run's logs.

A field that was added later has a default: records of before are read, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from bake.files import write_file
from bake.record.inventory import Inventory
from bake.record.timeline import MachineRecord, StepRecord

FILE = "record.json"
FAILURE = "failure.json"


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", from_attributes=True)


class StageRecord(_Table):
    """A stage that the image contains. `checkpoint` is the one that it came from; None: it ran.

    `seconds` are those of the time when it ran.
    """

    name: str
    digest: str
    seconds: float
    checkpoint: str | None = None


class CheckRecord(_Table):
    """A check as it ended; made from any object with these attributes."""

    name: str
    outcome: Literal["passed", "failed", "skipped"]
    detail: str
    seconds: float


class Record(_Table):
    """One image: what it is, how it came to be, and what was proved on it. No secret is in it.

    Times are in UTC. `snapshot_ids` are the image's own.
    """

    run: str
    recipe: str
    asked: Mapping[str, Any] = Field({}, description="what the recipe asked for: table.key → value")
    digest: str = Field(description="of the whole plan")
    payload: Literal["upstream", "stand-in"]
    verified: Literal["gpu", "cpu", "no"]
    region: str = ""
    here: str = Field("", description="what a command needs to mean the same cloud: --local")
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

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return self.model_dump(mode="json")

    def write(self, folder: Path) -> Path:
        """Write it into the folder, whole or not at all, and say where."""
        return _write(self, folder / FILE)


class Failure(_Table):
    """A bake that gave no image: how far it came, and what ended it. No secret is in it.

    `error` is the kind of it in `bake/errors.py`; `stages` are the plan's.
    """

    run: str
    recipe: str
    asked: Mapping[str, Any] = {}
    digest: str
    payload: Literal["upstream", "stand-in"]
    region: str = ""
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
        """Write it into the folder, whole or not at all, and say where."""
        return _write(self, folder / FAILURE)


def read(path: Path) -> Record:
    """ValueError when the file is no record."""
    return Record.model_validate_json(path.read_text(encoding="utf-8"))


def read_failure(path: Path) -> Failure:
    """ValueError when the file is none."""
    return Failure.model_validate_json(path.read_text(encoding="utf-8"))


def _write(table: _Table, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, table.model_dump_json(indent=2) + "\n", mode=0o666)
    return path
