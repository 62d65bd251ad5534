"""Locks: how they are written, which bakes they refuse, and what a locked bake installs."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bake.aws.base_image import find_base_image
from bake.errors import PreflightError, RecipeError, RemoteError, RequestError
from bake.plan import changes as explain
from bake.plan import description, lock
from bake.plan.lock import Lock
from bake.plan.plan import Plan, make_plan
from bake.recipe.payload import UPSTREAM, Payload
from bake.recipe.project import Project, built_in
from bake.recipe.recipe import BaseSection, Recipe
from bake.recipe.resolved import resolve
from bake.record import Installed, Inventory, Record, StageRecord, Wheel
from bake.verify.inventory import parse_notes
from tests.support.aws_in_process import BASE_NAME, UBUNTU, aws_in_process
from tests.support.commands import invoke
from tests.support.documents import checked
from tests.support.environment import REPOSITORY
from tests.support.stage_machines import find

RECIPE = find("mxnet-cu118-debian12")
SHA = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("a", "b", "c")}


def wheel(version: str, sha256: str, file: str) -> Wheel:
    return Wheel(version=version, sha256=sha256, file=file)


STAGES = {
    "base": Installed(apt={"git": "1:2.39.5-0", "curl": "7.88.1-10"}),
    "drivers": Installed(apt={"nvidia-smi": "535.1-1", "libc6": "2.36-9"}),
    "cuda": Installed(apt={"libc6": "2.36-10"}),
    "venv": Installed(
        apt={"python3-venv": "3.11.2"},
        pip={"pip": wheel("24.0", SHA["a"], "pip-24.0-py3-none-any.whl")},
    ),
    "mxnet": Installed(pip={"numpy": wheel("1.23.5", SHA["b"], "numpy-1.23.5.whl")}),
    "d2l": Installed(files={"d2l-en.zip": SHA["c"]}),
}
RECORD = Record(
    run="20261121-040000-abcdef",
    recipe=RECIPE.name,
    asked=lock.package_settings(RECIPE),
    digest="d" * 64,
    payload="upstream",
    verified="gpu",
    region="us-west-2",
    image_id="ami-1",
    image_name="bake/x/1",
    base_image_id="ami-0a",
    base_image_name="debian-12-amd64-20261101-2000",
    instance_type="g5.xlarge",
    zone="us-west-2a",
    market="spot",
    stages=tuple(StageRecord(name=name, digest="e" * 64, seconds=1) for name in RECIPE.stages),
    checks=(),
    inventory=Inventory(stages=STAGES),
    started_at=datetime(2026, 11, 21, 4, tzinfo=UTC),
)


def lock_of(folder: Path, record: Record = RECORD, **changes: Any) -> Lock:
    path = record.model_copy(update=changes).write(folder / "build")
    return lock.from_record(path, RECIPE.name)


def plan(held_to: Lock | None, recipe: Recipe = RECIPE, payload: Payload = UPSTREAM) -> Plan:
    return make_plan(
        resolve(recipe),
        payload=payload,
        base_image_id="ami-0a",
        project=built_in(),
        lock=held_to,
    )


def inputs(made: Plan) -> dict[str, Mapping[str, str]]:
    return {stage.name: stage.inputs for stage in made.stages}


def different(one: Plan, other: Plan) -> set[str]:
    digests = {stage.name: stage.digest for stage in one.stages}
    return {stage.name for stage in other.stages if digests[stage.name] != stage.digest}


def with_stage(held_to: Lock, name: str, **kinds: Any) -> Lock:
    stage = held_to.stages.get(name, Installed()).model_copy(update=kinds)
    return held_to.model_copy(update={"stages": {**held_to.stages, name: stage}})


# ---- made of a record ----


def test_a_written_lock_can_be_read_and_names_its_origin(tmp_path: Path) -> None:
    made = lock_of(tmp_path)
    path = tmp_path / f"{RECIPE.name}.lock"
    lock.write(made, path)
    assert lock.read_if_exists(tmp_path / f"{RECIPE.name}.lock", RECIPE.name) == made
    assert lock.read_if_exists(tmp_path / "another.lock", "another") is None
    text = path.read_text()
    assert f"invoke lock {RECIPE.name}" in text.splitlines()[1]
    assert tomllib.loads(text)["run"] == RECORD.run
    assert [file.name for file in tmp_path.glob("*.lock*")] == [path.name]


EARLIER = """# Written by an earlier version, which had its own writer.
format = 1
recipe = "mxnet-cu101"
payload = "upstream"
run = "mxnet-cu101-20261121-040000-abcdef"

[base_image]
name = "ubuntu-18.04-20230607"

[base_image.ids]
"us-west-2" = "ami-1"

[asked]
"d2l.notebooks" = true
"stages" = ["base", "mxnet"]

[stages."base".apt]
"git" = "1:2.39.5-0"

[stages."mxnet".pip]
"mxnet" = { version = "1.7.0", sha256 = "aa", file = "mxnet-1.7.0-py3-none-any.whl" }
"""


def test_a_lock_of_an_earlier_version_has_the_same_meaning(tmp_path: Path) -> None:
    path = tmp_path / "mxnet-cu101.lock"
    path.write_text(EARLIER)
    read = lock.read(path, "mxnet-cu101")
    assert read.stages["mxnet"].pip["mxnet"].file == "mxnet-1.7.0-py3-none-any.whl"
    lock.write(read, path)
    assert lock.read(path, "mxnet-cu101") == read
    assert tomllib.loads(path.read_text()) == tomllib.loads(EARLIER)


def test_one_change_changes_one_line_of_the_lock_in_any_order(tmp_path: Path) -> None:
    before = lock.text(lock_of(tmp_path)).splitlines()
    apt = {"curl": "7.88.1-11", "git": "1:2.39.5-0"}  # another order, another version
    after = lock.text(with_stage(lock_of(tmp_path), "base", apt=apt)).splitlines()
    assert set(before) ^ set(after) == {'curl = "7.88.1-10"', 'curl = "7.88.1-11"'}
    assert len(before) == len(after)


def test_every_reason_why_a_record_cannot_be_locked_is_named(tmp_path: Path) -> None:
    stages = {
        "conda": Installed(conda={"linux-64/x.conda": "-", "https://elsewhere/y.conda": SHA["a"]}),
        "d2l": Installed(
            pip={
                "by-git": Wheel(version="1", sha256="-", file="git+https://x/y"),
                "built": Wheel(version="2", sha256=SHA["a"], file="built-2.tar.gz"),
                "sound": Wheel(version="3", sha256=SHA["a"], file="https://x/sound-3.whl?y"),
            }
        ),
    }
    with pytest.raises(RequestError) as caught:
        lock_of(tmp_path, recipe="other", asked={}, inventory=Inventory(stages=stages))
    said = "\n".join(map(str, caught.value.findings))
    for word in (
        "belongs to recipe other",
        "an older version",
        "x.conda",
        "y.conda",
        "by-git 1",
        "built 2",
    ):
        assert word in said
    assert len(caught.value.findings) == 6


def test_the_newest_bake_of_the_recipe_and_payload_counts(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="from the original servers found in") as caught:
        lock.newest_record(tmp_path, RECIPE.name, "upstream")
    assert f"invoke bake {RECIPE.name} --no-lock" in caught.value.hint
    for number, changes in enumerate(
        [{}, {"started_at": RECORD.started_at + timedelta(1)}, {"payload": "stand-in"}]
    ):
        later = {"started_at": RECORD.started_at + timedelta(days=2), **changes} if number else {}
        RECORD.model_copy(update=later).write(tmp_path / str(number))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "record.json").write_text("{}")
    assert lock.newest_record(tmp_path, RECIPE.name, "upstream").parent.name == "1"
    assert lock.newest_record(tmp_path, RECIPE.name, "stand-in").parent.name == "2"


def test_a_lock_keeps_the_ids_of_its_base_image_in_all_regions(tmp_path: Path) -> None:
    west = lock_of(tmp_path)
    path = RECORD.model_copy(update={"region": "eu-west-1", "base_image_id": "ami-0b"}).write(
        tmp_path / "east"
    )
    both = lock.from_record(path, RECIPE.name, west)
    assert both.base_image.ids == {"us-west-2": "ami-0a", "eu-west-1": "ami-0b"}
    assert both.base_image_in("eu-west-1") == "ami-0b"
    assert both.base_image_in("ap-south-1") == RECORD.base_image_name
    newer = RECORD.model_copy(update={"base_image_name": "debian-12-amd64-20270101-1"})
    later = lock.from_record(newer.write(tmp_path / "later"), RECIPE.name, both)
    assert later.base_image.ids == {"us-west-2": "ami-0a"}


@pytest.mark.parametrize(
    "text",
    ["format = 2", "no toml", 'recipe = "another"', "\x00"],
)
def test_an_invalid_lock_or_the_lock_of_another_recipe_is_refused(
    tmp_path: Path, text: str
) -> None:
    path = tmp_path / f"{RECIPE.name}.lock"
    path.write_text(text)
    with pytest.raises(RecipeError, match="cannot be used") as caught:
        lock.read_if_exists(tmp_path / f"{RECIPE.name}.lock", RECIPE.name)
    assert caught.value.findings
    assert lock.read_if_valid(path) is None


def test_a_value_that_contains_a_line_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / f"{RECIPE.name}.lock"
    evil = with_stage(lock_of(tmp_path), "base", apt={"curl": "1\nhtop"})
    lock.write(evil, path)
    with pytest.raises(RecipeError) as caught:
        lock.read(path, RECIPE.name)
    assert "stages.base.apt.curl" in str(caught.value.findings[0])


@pytest.mark.parametrize(
    "listing", ["nothing", "/usr/share/bake/installed/base/apt:curl", "a/b/c:d"]
)
def test_invalid_notes_of_a_stage_are_refused(listing: str) -> None:
    with pytest.raises(RemoteError, match="Cannot read the notes"):
        parse_notes(listing)


def test_the_command_writes_the_lock_of_the_newest_bake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock is written in the checkout whose tasks.py is loaded."""
    monkeypatch.setenv("BAKE_BUILDS", str(tmp_path / "builds"))
    for part in ("tasks.py", "manifests"):
        source = REPOSITORY / part
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / part)
    path = tmp_path / "manifests" / f"{RECIPE.name}.lock"
    RECORD.write(tmp_path / "builds" / RECORD.run)
    command = [Path(sys.executable).parent / "invoke", "lock", RECIPE.name, "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [said] = checked("lock", done.stdout)["locks"]
    assert (said["run_id"], said["apt_package_count"], said["wheel_count"]) == (RECORD.run, 6, 2)
    assert lock.read(path, RECIPE.name).stages == STAGES


def test_the_command_refuses_what_cannot_be_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BAKE_BUILDS", str(tmp_path / "builds"))
    monkeypatch.setattr("bake.cli.bake.project", lambda: Project(tmp_path))
    shutil.copytree(REPOSITORY / "manifests", tmp_path / "manifests")
    refused = invoke("lock", RECIPE.name)
    assert refused.returncode == 2
    assert f"invoke bake {RECIPE.name} --no-lock" in refused.stderr
    RECORD.write(tmp_path / "builds" / RECORD.run)
    assert invoke("lock", RECIPE.name, "--stand-in").returncode == 2, "that bake was no rehearsal"
    assert invoke("lock", RECIPE.name, "--record", "nowhere.json").returncode == 2
    assert invoke("lock").returncode == 2
    assert not (tmp_path / "manifests" / f"{RECIPE.name}.lock").exists()


# ---- planned with ----


def test_a_lock_changes_the_digests_in_the_same_way_each_time(tmp_path: Path) -> None:
    held_to = lock_of(tmp_path)
    free, locked = plan(None), plan(held_to)
    # What seals installs nothing, and stands on all that does.
    assert different(free, locked) == set(RECIPE.stages)
    assert locked == plan(held_to)
    assert locked.lock == held_to
    again = held_to.model_copy(update={"run": "20261122-040000-abcdef"})
    assert plan(again).digest == locked.digest, "another bake of the same is no change"


def test_a_changed_entry_of_a_lock_runs_its_stage_and_the_stages_that_need_it(
    tmp_path: Path,
) -> None:
    held_to = lock_of(tmp_path)
    newer = {"numpy": Wheel(version="1.24.0", sha256=SHA["c"], file="numpy-1.24.0.whl")}
    changed = with_stage(held_to, "mxnet", pip=newer)
    assert different(plan(held_to), plan(changed)) == {"mxnet", "d2l", "seal"}
    changed = with_stage(held_to, "cuda", apt={"libc6": "2.36-11"})
    # venv may run beside cuda, and need the same package.
    assert different(plan(held_to), plan(changed)) == {"cuda", "venv", "mxnet", "d2l", "seal"}


def test_a_stage_gets_its_locked_packages_and_those_that_may_be_installed_before_it_ends(
    tmp_path: Path,
) -> None:
    told = inputs(plan(lock_of(tmp_path)))
    stages = {
        name: [line.split()[0] for line in told[name]["LOCKED_APT"].splitlines()[1:]]
        for name in ("base", "drivers", "cuda", "venv")
    }
    assert set(stages["base"]) == {"base"}
    assert set(stages["drivers"]) == {"base", "drivers", "venv"}
    assert set(stages["cuda"]) == {"base", "drivers", "cuda", "venv"}
    assert set(stages["venv"]) == {"base", "drivers", "cuda", "venv"}
    assert told["mxnet"]["LOCKED_PIP"].splitlines()[1:] == [
        f"numpy==1.23.5 --hash=sha256:{SHA['b']} # numpy-1.23.5.whl"
    ]
    # Nothing of it in the lock is another thing than no lock.
    assert told["d2l"]["LOCKED_PIP"]
    assert not inputs(plan(None))["d2l"]["LOCKED_PIP"]


def test_installers_are_checked_against_the_lock(tmp_path: Path) -> None:
    recipe = find("mxnet-cu101")
    free = inputs(plan(None, recipe))
    name = free["conda"]["CONDA_INSTALLER"]
    held_to = lock_of(tmp_path).model_copy(update={"asked": lock.package_settings(recipe)})
    held_to = with_stage(held_to, "conda", files={name: SHA["a"]}, conda={"linux-64/x": SHA["b"]})
    commit = "0123456789abcdef0123456789abcdef01234567"
    notebooks = free["d2l"]["NOTEBOOKS_URL"].rpartition("/")[2]
    held_to = with_stage(held_to, "d2l", files={notebooks: commit})
    told = inputs(plan(held_to, recipe))
    assert told["conda"]["CONDA_INSTALLER_SHA256"] == SHA["a"]
    assert told["conda"]["LOCKED_CONDA"].splitlines()[1:] == [f"linux-64/x {SHA['b']}"]
    assert told["d2l"]["NOTEBOOKS_COMMIT"] == commit


def test_a_lock_that_does_not_match_the_recipe_is_refused_with_every_difference(
    tmp_path: Path,
) -> None:
    held_to = lock_of(tmp_path)
    packages = RECIPE.packages.model_copy(update={"apt": ("htop",)})
    other = RECIPE.model_copy(update={"packages": packages, "base": BaseSection(os="ubuntu-22.04")})
    with pytest.raises(RecipeError) as caught:
        lock.refuse_mismatch(held_to, other, replace(UPSTREAM, name="stand-in"))
    said = [str(finding) for finding in caught.value.findings]
    assert said == [
        "payload: the lock is for upstream downloads, and this bake uses stand-in",
        'base: "debian-12" is locked, and the recipe says "ubuntu-22.04"',
        'packages.apt: nothing is locked, and the recipe says ["htop"]',
    ]
    assert "--no-lock" in caught.value.hint
    with pytest.raises(RecipeError, match="does not match this bake"):
        plan(held_to, payload=replace(UPSTREAM, name="stand-in"))


def test_a_lock_matches_with_another_builder_mirror_or_region(tmp_path: Path) -> None:
    builder = RECIPE.builder.model_copy(update={"market": "spot", "disk_gb": 100})
    elsewhere = {"pypi": "https://mirror.example.org/simple"}
    other = RECIPE.model_copy(update={"builder": builder, "mirrors": elsewhere, "region": "x"})
    lock.refuse_mismatch(lock_of(tmp_path), other, UPSTREAM)


def test_a_plan_names_the_lock_as_the_reason_why_a_stage_runs(tmp_path: Path) -> None:
    free, held_to = plan(None), lock_of(tmp_path)
    tags = description.describe(free) | {f"bake:stage:{s.name}": s.digest for s in free.stages}
    states: dict[str, explain.State] = {stage.name: "to run" for stage in free.stages}
    why = explain.reasons(plan(held_to), states, tags)["base"].why
    assert why == ("locked now: 2 apt packages",)


def test_a_locked_bake_uses_only_the_base_image_of_the_lock() -> None:
    with aws_in_process() as aws:
        older = aws.base_image("20200101")
        aws.base_image("20990101")
        assert find_base_image(aws.cloud, UBUNTU, locked=older).image_id == older
        by_name = find_base_image(aws.cloud, UBUNTU, locked=f"{BASE_NAME}20200101")
        assert by_name.image_id == older
        for gone in ("ami-0123456789abcdef0", f"{BASE_NAME}20190101"):
            with pytest.raises(PreflightError, match="locked base image") as caught:
                find_base_image(aws.cloud, UBUNTU, locked=gone)
            assert gone in str(caught.value.findings[0])
