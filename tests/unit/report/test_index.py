"""The index of all builds, and the command that writes it."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from bake.cli.views.index_page import write_index
from bake.errors import RequestError
from bake.record.report import index
from tests.support.bakes import at, failure, record, with_texts
from tests.support.benches import FOUR, ONE, a_bench
from tests.support.commands import invoke
from tests.support.pages import ATTACKS, bare_text


def some_builds(folder: Path) -> Path:
    record(run="r1", image_id="ami-1").write(folder / "r1")
    record(run="r2", image_id="ami-2", started_at=at(60)).write(folder / "r2")
    stand_in: dict[str, Any] = {"payload": "stand-in", "verified": "cpu", "image_id": "ami-3"}
    record(run="r3", **stand_in, started_at=at(-60)).write(folder / "r3")
    failure(run="r4", recipe="pytorch-cu126", started_at=at(120)).write(folder / "r4")
    killed = folder / "20261121-093000-abcdef"
    killed.mkdir()
    (killed / "base.log").write_text("It stopped here")
    bench = folder / "20261122-000000-abcdef"
    bench.mkdir()
    (bench / "i-1.log").write_text("It ran")
    a_bench(ONE, FOUR).write(bench)
    return folder


def write(folder: Path) -> str:
    return write_index(folder).read_text()


def test_the_index_lists_all_builds_the_newest_first(tmp_path: Path) -> None:
    text = bare_text(write(some_builds(tmp_path)))
    assert "3 images 1 failed 1 without a record" in text
    bakes = text.partition("Bakes Search")[2].partition("Benchmarks")[0]
    found = re.findall(
        r"2026-11-21 (\d\d:\d\d) UTC (\S+)(?: stand-in)? (failed|no rec|verified)", bakes
    )
    assert found == [
        ("09:30", "–", "no rec"),
        ("04:02", "pytorch-cu126", "failed"),
        ("04:01", "mxnet-cu101", "verified"),
        ("04:00", "mxnet-cu101", "verified"),
        ("03:59", "mxnet-cu101", "verified"),
    ]
    assert "stage drivers ended with status 100" in bakes
    assert "The bake was killed, or it still runs" in bakes
    assert "g4dn.xlarge, g4dn.12xlarge measured" in text.partition("Benchmarks")[2]


def test_the_newest_image_of_each_recipe_comes_first(tmp_path: Path) -> None:
    newest = bare_text(write(some_builds(tmp_path))).partition("Bakes Search")[0]
    assert re.findall(r"ami-\d", newest) == ["ami-2", "ami-3"]
    assert "mxnet-cu101 stand-in ami-3 verified on the CPU alone" in newest


def test_each_link_leads_to_a_page_which_leads_back(tmp_path: Path) -> None:
    record(run="r5").write(some_builds(tmp_path) / "a folder #5 of 100%")
    links = re.findall(r'href="\./([^"]*)"', write(tmp_path))
    assert len(links) == 9  # two of them are of the newest images
    for link in links:
        path = tmp_path / unquote(html.unescape(link))
        assert path.exists(), link
        if path.is_file():
            assert 'href="../index.html"' in path.read_text()


def test_a_page_that_cannot_be_written_does_not_keep_the_others_from_it(tmp_path: Path) -> None:
    (some_builds(tmp_path) / "r2" / "report.html").mkdir()
    _, problems = index.make(tmp_path)
    assert ["r2/report.html" in problem.message for problem in problems] == [True]
    assert (tmp_path / "r1" / "report.html").is_file()
    assert (tmp_path / "r4" / "report.html").is_file()


def test_an_unreadable_record_is_listed_as_such(tmp_path: Path) -> None:
    for name in ("record.json", "bench.json"):
        folder = tmp_path / f"20261121-093000-{name[:1] * 6}"
        folder.mkdir()
        (folder / name).write_text("{}")
        (folder / "one.log").write_text("")
    # Only the letters of a hexadecimal number belong to a run.
    assert bare_text(write(tmp_path)).count("The record cannot be read") == 1


def test_texts_of_machines_are_escaped(tmp_path: Path) -> None:
    for number, run in enumerate((record(), failure(), record(image_id="ami-x"))):
        with_texts(run, ATTACKS).write(tmp_path / f"r{number}")
    text = write(tmp_path)
    assert not re.search(r"<(?:img|svg|iframe|link)\b", text)
    assert "javascript:window" not in "".join(re.findall(r'href="[^"]*"', text))


def test_without_builds_there_is_no_index(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(RequestError, match="No builds found"):
            index.make(folder)


def test_the_command_writes_the_index_and_prints_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BAKE_BUILDS", str(some_builds(tmp_path)))
    assert invoke("report", "r1", "--all").returncode == 2
    said = invoke("report", "--all", "--json")
    assert json.loads(said.stdout)["path"] == str(tmp_path / "index.html")
    assert (tmp_path / "20261122-000000-abcdef" / "report.html").is_file()
    (tmp_path / "r4" / "report.html").unlink()
    (tmp_path / "r4" / "report.html").mkdir()
    said = invoke("report", "--all", "--json")
    assert said.returncode == 1
    error = json.loads(said.stdout)["error"]
    assert "The index" in error["message"]
    assert ["r4/report.html" in line for line in error["details"]] == [True]
    assert (tmp_path / "r1" / "report.html").is_file()
