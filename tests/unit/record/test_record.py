"""The record says what an image is and what is in it, as JSON, and is whole or not there."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pydantic
import pytest

from bake.errors import RemoteError
from bake.record import CheckRecord, Inventory, Record, StageRecord, inventory, read


class Here:
    """This computer as the machine."""

    def run(self, command: str, *, check: bool = True, timeout_s: float | None = None) -> Any:
        done: Any = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
        done.exit_status = done.returncode
        if check and done.returncode:
            raise RemoteError(done.stderr)
        return done


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


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = RECORD.write(tmp_path / "builds" / RECORD.run)
    assert path.name == "record.json"
    assert read(path) == RECORD
    assert [file.name for file in path.parent.iterdir()] == ["record.json"]


def test_it_is_plain_json_with_times_in_utc(tmp_path: Path) -> None:
    document = json.loads(RECORD.write(tmp_path).read_text())
    assert document == RECORD.document()
    assert document["started_at"] == "2026-11-21T04:00:00Z"
    assert document["checks"][0]["outcome"] == "passed"
    assert document["inventory"]["pip"] == {"numpy": "1.23.5"}


def test_the_last_record_stays_when_the_new_one_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = RECORD.write(tmp_path)
    before = path.read_text()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        RECORD.model_copy(update={"recipe": "another"}).write(tmp_path)
    assert path.read_text() == before


@pytest.mark.parametrize(
    "change",
    [{"verified": "yes"}, {"started_at": datetime(2026, 1, 1)}, {"password": "x"}],
)
def test_what_is_no_record_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        Record(**(dict(RECORD) | change))


def test_the_inventory_of_this_computer_is_what_its_package_managers_say() -> None:
    found = inventory(Here(), sys.prefix)
    assert found.python == "{}.{}.{}".format(*sys.version_info[:3])
    assert found.pip["pydantic"] == pydantic.VERSION
    assert found.dpkg["bash"]
    assert found.kernel
    assert found.os
    assert found.conda == {}


def test_where_there_is_no_environment_nothing_is_in_it() -> None:
    found = inventory(Here(), "/nowhere")
    assert (found.python, found.pip, found.conda) == ("", {}, {})
    assert found.dpkg["bash"]


def test_an_environment_whose_pip_does_not_answer_is_an_error(tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(RemoteError):
        inventory(Here(), str(tmp_path))


def test_a_package_that_was_removed_is_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Machine(Here):
        def run(self, command: str, **more: Any) -> Any:
            said = {
                "dpkg-query": "ii \tbash\t5.1\nrc \tnano\t7\nhi \tnvidia-utils-470\t470.1\n",
                "nvcc": "Cuda compilation tools, release 10.1, V10.1.243",
                "conda list": '[{"name": "python", "version": "3.7.16", "channel": "x"}]',
                "pip list": "[]",
            }
            text = next((text for key, text in said.items() if key in command), "")
            done: Any = subprocess.CompletedProcess([], 0, text, "")
            done.exit_status = 0
            return done

    found = inventory(Machine(), "/opt/conda/envs/d2l")
    assert found.dpkg == {"bash": "5.1", "nvidia-utils-470": "470.1"}
    assert found.cuda == "10.1"
    assert found.conda == {"python": "3.7.16"}
