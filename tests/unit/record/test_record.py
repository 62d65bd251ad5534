"""The record describes an image as JSON, and is written completely or not at all."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import pydantic
import pytest

from bake.errors import FileError
from bake.record import CheckRecord, Inventory, Record, StageRecord, read

RECORD = Record(
    run="20261121-040000-abcdef",
    recipe="mxnet-cu101",
    digest="d" * 64,
    payload="stand-in",
    verified="cpu",
    region="us-west-2",
    image_id="ami-1",
    image_name="bake/mxnet-cu101/20261121-040000-dddddddd",
    snapshot_ids=("snap-1",),
    base_image_id="ami-0",
    instance_type="g4dn.xlarge",
    zone="us-west-2a",
    market="spot",
    stages=(StageRecord(name="base", digest="e" * 64, seconds=1.5),),
    checks=(CheckRecord(name="nvcc", outcome="passed", detail="release 10.1", seconds=0.1),),
    inventory=Inventory(kernel="6.1", pip={"numpy": "1.23.5"}),
    started_at=datetime(2026, 11, 21, 4, tzinfo=UTC),
)


def test_a_written_record_can_be_read(tmp_path: Path) -> None:
    path = RECORD.write(tmp_path / "builds" / RECORD.run)
    assert path.name == "record.json"
    assert read(path) == RECORD
    assert [file.name for file in path.parent.iterdir()] == ["record.json"]


def test_a_record_is_json_with_times_in_utc(tmp_path: Path) -> None:
    document = json.loads(RECORD.write(tmp_path).read_text())
    assert document == RECORD.model_dump(mode="json")
    assert document["started_at"] == "2026-11-21T04:00:00Z"
    assert document["checks"][0]["outcome"] == "passed"
    assert document["inventory"]["pip"] == {"numpy": "1.23.5"}


def test_the_last_record_stays_when_the_new_one_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = RECORD.write(tmp_path)
    before = path.read_text()

    def full(descriptor: int, *_: object, **__: object) -> BinaryIO:
        os.close(descriptor)
        return Path("/dev/full").open("wb")

    monkeypatch.setattr(os, "fdopen", full)
    with pytest.raises(FileError, match="No space left"):
        RECORD.model_copy(update={"recipe": "another"}).write(tmp_path)
    assert path.read_text() == before
    assert [file.name for file in tmp_path.glob("*record*")] == ["record.json"]


def test_the_record_may_be_read_by_everyone_whom_the_umask_allows(tmp_path: Path) -> None:
    umask = os.umask(0o027)
    try:
        path = RECORD.write(tmp_path)
    finally:
        os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    "change",
    [{"verified": "yes"}, {"started_at": datetime(2026, 1, 1)}, {"password": "x"}],
)
def test_an_invalid_record_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        Record(**(dict(RECORD) | change))
