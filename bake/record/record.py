"""The record of a bake: what the image is, what it is made of, and how it came to be."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from bake.record.inventory import Inventory

FILE = "record.json"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class StageRecord(_Part):
    name: str
    digest: str
    seconds: float


class CheckRecord(_Part):
    name: str
    outcome: Literal["passed", "failed", "skipped"]
    detail: str
    seconds: float


class Record(_Part):
    """`verified` says what was proved: on the GPU, on the CPU, or nothing."""

    run: str
    recipe: str
    digest: str
    payload: Literal["upstream", "stand-in"]
    verified: Literal["gpu", "cpu", "no"]
    region: str
    image_id: str
    image_name: str
    snapshot_ids: tuple[str, ...]
    base_image_id: str
    base_image_name: str
    instance_type: str
    zone: str
    market: str
    started_at: datetime
    ended_at: datetime
    stages: tuple[StageRecord, ...]
    checks: tuple[CheckRecord, ...]
    inventory: Inventory

    def write(self, folder: Path) -> Path:
        """Write it into the run's folder; where it now is."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / FILE
        path.write_text(self.model_dump_json(indent=2) + "\n")
        return path
