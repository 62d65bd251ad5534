"""The names of machines and images: asked for in the background, and remembered."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bake.aws import tags
from bake.cli.completion import cloud_names
from bake.cli.completion.candidate import Candidate
from tests.support.ec2_server import ec2_server, make_image, make_machine
from tests.support.environment import REPOSITORY

NAMES = [Candidate("lab1", "g4dn.xlarge, running"), Candidate("lab2", "")]


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a person whose AWS is what the test says."""
    monkeypatch.setenv("BAKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.fixture
def aws() -> Iterator[None]:
    with ec2_server():
        yield


def complete(line: str) -> tuple[list[str], float]:
    """Return the candidates as a shell gets them, and how long it has waited."""
    before = time.monotonic()
    run = subprocess.run(
        [Path(sys.executable).with_name("invoke"), "--complete", "--", line],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env={**os.environ, "BAKE_COMPLETION": "1"},
    )
    assert run.stderr == ""
    word = line.rpartition(" ")[2]
    lines = [each for each in run.stdout.splitlines() if each.startswith(word)]
    return lines, time.monotonic() - before


def complete_until_known(line: str) -> list[str]:
    """Press Tab until AWS has answered: on a busy computer, a shell does not wait for it."""
    ends = time.monotonic() + 30
    while not (found := complete(line)[0]) and time.monotonic() < ends:
        pass
    return found


@pytest.mark.usefixtures("aws")
def test_machines_are_offered_by_their_names_and_builders_by_their_ids() -> None:
    lab = make_machine("lab1")
    twins = {make_machine("twin"), make_machine("twin")}
    builder = make_machine("bake-1", **{tags.USED_BY: "bake"})
    assert complete_until_known("invoke stop ") == ["lab1\tg4dn.xlarge, running"]
    by_id = complete("invoke stop i-")[0]
    assert {line.partition("\t")[0] for line in by_id} == {lab, *twins, builder}
    assert f"{builder}\tbake-1: g4dn.xlarge, running (bake)" in by_id


@pytest.mark.usefixtures("aws")
def test_images_are_offered_by_their_names_and_ids() -> None:
    name = "bake/mxnet-cu101/20261130-deadbeef"
    image = make_image(make_machine("builder"), name)
    assert complete_until_known("invoke copy ami-") == [f"{image}\t{name}"]
    assert complete("invoke launch-from-ami --ami bake")[0] == [f"{name}\t{image}"]


def test_a_shell_does_not_wait_for_an_aws_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        found, waited = complete("invoke stop ")
    assert found == []
    assert waited < cloud_names.WAIT_S + 5  # the rest is a busy computer's start of Python


def test_without_credentials_nothing_is_offered_or_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert complete("invoke stop ")[0] == []


def test_the_local_cloud_is_not_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BAKE_HOME", str(tmp_path / "home"))
    assert complete("invoke stop --local ")[0] == []
    assert complete("invoke local.interrupt ")[0] == []
    assert not [*(tmp_path / "home").rglob("server.*")]


def remembered(monkeypatch: pytest.MonkeyPatch, *, age_s: float) -> tuple[Path, list[Path]]:
    """Remember NAMES, and return their file and a list of the refreshes that follow."""
    refreshed: list[Path] = []
    monkeypatch.setattr(
        cloud_names, "_refresh_in_background", lambda path, _: refreshed.append(path)
    )
    cloud_names.machine_names("", local=False, region=None)
    (path,) = refreshed
    refreshed.clear()
    cloud_names.refresh(path, lambda: NAMES)
    os.utime(path, (time.time() - age_s, time.time() - age_s))
    return path, refreshed


@pytest.mark.parametrize(("age_s", "asked"), [(1, False), (3600, True), (-3600, True)])
def test_names_are_remembered_for_a_moment(
    age_s: float, asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, refreshed = remembered(monkeypatch, age_s=age_s)
    assert cloud_names.machine_names("", local=False, region=None) == NAMES
    assert refreshed == ([path] if asked else [])
    assert path.stat().st_mode & 0o77 == 0


@pytest.mark.parametrize(
    "change",
    [
        {"region": "eu-west-1"},
        {"local": True},
        {"AWS_PROFILE": "other"},
        {"AWS_ACCESS_KEY_ID": "other"},
    ],
    ids=str,
)
def test_names_of_another_account_or_region_are_not_offered(
    change: dict[str, str | bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, refreshed = remembered(monkeypatch, age_s=1)
    for name, value in change.items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, str(value))
    region, local = change.get("region"), bool(change.get("local"))
    assert cloud_names.machine_names("", local=local, region=region and str(region)) == []
    assert len(refreshed) == 1


def test_no_secret_decides_about_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    remembered(monkeypatch, age_s=1)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "another")
    assert cloud_names.machine_names("", local=False, region=None) == NAMES


def test_a_failure_is_remembered_and_so_not_repeated_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, refreshed = remembered(monkeypatch, age_s=1)

    def fail() -> list[Candidate]:
        raise OSError("no network")

    cloud_names.refresh(path, fail)
    assert cloud_names.machine_names("", local=False, region=None) == []
    assert refreshed == []


@pytest.mark.parametrize("content", [b"", b"{", b'["x"]', b"[1]", b"\xff", b"[[1,2,3]]", b"{}"])
def test_a_damaged_file_has_no_names(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = remembered(monkeypatch, age_s=1)
    path.write_bytes(content)
    assert cloud_names.machine_names("", local=False, region=None) == []


def test_files_that_are_no_longer_used_are_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    path, _ = remembered(monkeypatch, age_s=1)
    old = path.with_name("machines-0000.json")
    old.touch()
    os.utime(old, (time.time() - 8 * 24 * 3600,) * 2)
    cloud_names.refresh(path, lambda: NAMES)
    assert not old.exists()
    assert path.exists()
