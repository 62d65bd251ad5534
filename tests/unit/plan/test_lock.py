"""Locks: of what they are made, what they refuse, and what a bake with one installs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bake import catalog
from bake.aws.base_image import find_base_image
from bake.errors import PreflightError, RecipeError, RemoteError, RequestError
from bake.local import standin
from bake.local.machines.engine import find_engine
from bake.local.standin import mirror, trust, upstreams, wheels
from bake.local.standin.archive import Package
from bake.pipeline import bake
from bake.pipeline.preview import preview
from bake.plan import changes as explain
from bake.plan import description, lock
from bake.plan.lock import Lock
from bake.plan.plan import Plan, make_plan
from bake.recipe.payload import UPSTREAM, Payload
from bake.recipe.recipe import Recipe
from bake.record import Installed, Inventory, Record, StageRecord, Wheel
from bake.verify.inventory import NOTES_COMMAND, parse_notes
from tests.support.aws_in_process import BASE_NAME, UBUNTU, aws_in_process
from tests.support.environment import CACHE, REPOSITORY
from tests.support.kitchen import Kitchen, Witness
from tests.support.stage_machines import SCRIPTS, Machine, find, machines

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
    asked=lock.asked(RECIPE),
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
        recipe,
        catalog=catalog.load(),
        payload=payload,
        base_image_id="ami-0a",
        scripts=SCRIPTS,
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


def test_what_is_written_is_read_again_and_says_how_it_was_made(tmp_path: Path) -> None:
    made = lock_of(tmp_path)
    path = tmp_path / f"{RECIPE.name}.lock"
    lock.write(made, path)
    assert lock.beside(tmp_path, RECIPE.name) == made
    assert lock.beside(tmp_path, "another") is None
    text = path.read_text()
    assert f"invoke lock {RECIPE.name}" in text.splitlines()[1]
    assert tomllib.loads(text)["run"] == RECORD.run
    assert [file.name for file in tmp_path.glob("*.lock*")] == [path.name]


def test_one_change_is_one_line_whatever_the_order(tmp_path: Path) -> None:
    before = lock.text(lock_of(tmp_path)).splitlines()
    apt = {"curl": "7.88.1-11", "git": "1:2.39.5-0"}  # another order, another version
    after = lock.text(with_stage(lock_of(tmp_path), "base", apt=apt)).splitlines()
    assert set(before) ^ set(after) == {'"curl" = "7.88.1-10"', '"curl" = "7.88.1-11"'}
    assert len(before) == len(after)


def test_every_reason_against_a_lock_is_named(tmp_path: Path) -> None:
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
    for word in ("of other", "earlier version", "x.conda", "y.conda", "by-git 1", "built 2"):
        assert word in said
    assert len(caught.value.findings) == 6


def test_the_newest_bake_of_the_recipe_and_payload_counts(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="has none of") as caught:
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


def test_regions_of_one_base_image_are_kept_and_those_of_another_are_not(tmp_path: Path) -> None:
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
def test_what_is_no_lock_of_the_recipe_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / f"{RECIPE.name}.lock"
    path.write_text(text)
    with pytest.raises(RecipeError, match="cannot be used") as caught:
        lock.beside(tmp_path, RECIPE.name)
    assert caught.value.findings
    assert lock.earlier(path) is None


def test_a_value_that_could_become_a_line_of_its_own_is_refused(tmp_path: Path) -> None:
    path = tmp_path / f"{RECIPE.name}.lock"
    evil = with_stage(lock_of(tmp_path), "base", apt={"curl": "1\nhtop"})
    lock.write(evil, path)
    with pytest.raises(RecipeError) as caught:
        lock.read(path, RECIPE.name)
    assert "stages.base.apt.curl" in str(caught.value.findings[0])


@pytest.mark.parametrize(
    "listing", ["nothing", "/usr/share/bake/installed/base/apt:curl", "a/b/c:d"]
)
def test_notes_that_no_stage_of_ours_writes_are_refused(listing: str) -> None:
    with pytest.raises(RemoteError, match="Cannot read the notes"):
        parse_notes(listing)


def test_the_command_writes_the_lock_of_the_newest_bake(tmp_path: Path) -> None:
    """As people type it, in a checkout of its own."""
    for part in ("tasks.py", "manifests"):
        source = REPOSITORY / part
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / part)
    path = tmp_path / "manifests" / f"{RECIPE.name}.lock"

    def invoke(*words: str) -> subprocess.CompletedProcess[str]:
        command = [Path(sys.executable).parent / "invoke", "lock", *words]
        environment = os.environ | {"BAKE_BUILDS": str(tmp_path / "builds")}
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    refused = invoke(RECIPE.name)
    assert (refused.returncode, path.exists()) == (2, False)
    assert f"invoke bake {RECIPE.name} --no-lock" in refused.stderr
    RECORD.write(tmp_path / "builds" / RECORD.run)
    done = invoke(RECIPE.name, "--json")
    assert done.returncode == 0, done.stderr
    [said] = json.loads(done.stdout)
    assert (said["run"], said["apt"], said["pip"]) == (RECORD.run, 6, 2)
    assert lock.read(path, RECIPE.name).stages == STAGES
    assert invoke(RECIPE.name, "--stand-in").returncode == 2, "that bake was no rehearsal"
    assert invoke(RECIPE.name, "--record", "nowhere.json").returncode == 2
    assert invoke().returncode == 2


# ---- planned with ----


def test_a_lock_is_in_the_digests_and_the_same_each_time(tmp_path: Path) -> None:
    held_to = lock_of(tmp_path)
    free, locked = plan(None), plan(held_to)
    # What seals installs nothing, and stands on all that does.
    assert different(free, locked) == set(RECIPE.stages)
    assert locked == plan(held_to)
    assert locked.lock == held_to
    again = held_to.model_copy(update={"run": "20261122-040000-abcdef"})
    assert plan(again).digest == locked.digest, "another bake of the same is no change"


def test_a_changed_entry_runs_its_stage_and_those_above(tmp_path: Path) -> None:
    held_to = lock_of(tmp_path)
    newer = {"numpy": Wheel(version="1.24.0", sha256=SHA["c"], file="numpy-1.24.0.whl")}
    changed = with_stage(held_to, "mxnet", pip=newer)
    assert different(plan(held_to), plan(changed)) == {"mxnet", "d2l", "seal"}
    changed = with_stage(held_to, "cuda", apt={"libc6": "2.36-11"})
    # venv may run beside cuda, and need the same package.
    assert different(plan(held_to), plan(changed)) == {"cuda", "venv", "mxnet", "d2l", "seal"}


def test_stages_are_told_what_is_theirs_and_what_may_come_before_they_end(tmp_path: Path) -> None:
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
    held_to = lock_of(tmp_path).model_copy(update={"asked": lock.asked(recipe)})
    held_to = with_stage(held_to, "conda", files={name: SHA["a"]}, conda={"linux-64/x": SHA["b"]})
    commit = "0123456789abcdef0123456789abcdef01234567"
    notebooks = free["d2l"]["NOTEBOOKS_URL"].rpartition("/")[2]
    held_to = with_stage(held_to, "d2l", files={notebooks: commit})
    told = inputs(plan(held_to, recipe))
    assert told["conda"]["CONDA_INSTALLER_SHA256"] == SHA["a"]
    assert told["conda"]["LOCKED_CONDA"].splitlines()[1:] == [f"linux-64/x {SHA['b']}"]
    assert told["d2l"]["NOTEBOOKS_COMMIT"] == commit


def test_a_lock_of_something_else_is_refused_and_every_difference_named(tmp_path: Path) -> None:
    held_to = lock_of(tmp_path)
    packages = RECIPE.packages.model_copy(update={"apt": ("htop",)})
    other = RECIPE.model_copy(update={"packages": packages, "base": "ubuntu-22.04"})
    with pytest.raises(RecipeError) as caught:
        lock.refuse_another(held_to, other, replace(UPSTREAM, name="stand-in"))
    said = [str(finding) for finding in caught.value.findings]
    assert said == [
        "payload: the lock is of upstream downloads, and this bake is of stand-in",
        'base: "debian-12" is locked, and the recipe says "ubuntu-22.04"',
        'packages.apt: nothing is locked, and the recipe says ["htop"]',
    ]
    assert "--no-lock" in caught.value.hint
    with pytest.raises(RecipeError, match="something else"):
        plan(held_to, payload=replace(UPSTREAM, name="stand-in"))


def test_how_and_where_it_is_baked_does_not_matter_to_a_lock(tmp_path: Path) -> None:
    builder = RECIPE.builder.model_copy(update={"market": "spot", "disk_gb": 100})
    elsewhere = {"pypi": "https://mirror.example.org/simple"}
    other = RECIPE.model_copy(update={"builder": builder, "mirrors": elsewhere, "region": "x"})
    lock.refuse_another(lock_of(tmp_path), other, UPSTREAM)


def test_a_plan_says_why_a_stage_of_another_lock_has_to_run(tmp_path: Path) -> None:
    free, held_to = plan(None), lock_of(tmp_path)
    tags = description.describe(free) | {f"bake:stage:{s.name}": s.digest for s in free.stages}
    states: dict[str, explain.State] = {stage.name: "to run" for stage in free.stages}
    why = explain.reasons(plan(held_to), states, tags)["base"].why
    assert any(line.startswith("LOCKED_APT") for line in why), why


def test_only_the_base_image_of_the_lock_will_do() -> None:
    with aws_in_process() as aws:
        older = aws.base_image("20200101")
        aws.base_image("20990101")
        assert find_base_image(aws.cloud, UBUNTU, locked=older).image_id == older
        by_name = find_base_image(aws.cloud, UBUNTU, locked=f"{BASE_NAME}20200101")
        assert by_name.image_id == older
        for gone in ("ami-0123456789abcdef0", f"{BASE_NAME}20190101"):
            with pytest.raises(PreflightError, match="base image of the lock") as caught:
                find_base_image(aws.cloud, UBUNTU, locked=gone)
            assert gone in str(caught.value.findings[0])


# ---- installed with, on real machines ----

EXTRA = ("one", "two", "three")


@dataclass
class Upstreams:
    """A mirror of this test's own, of which things change."""

    root: Path
    trusted: trust.Trust
    payload: Payload

    def packages(self, **versions: str) -> None:
        """Ubuntu's archive has these besides what the stage `base` brings: versions with commas
        between them, each with what it needs, as in `1 this+that,2`."""
        with self.trusted.signer() as sign:
            packages = []
            for name, text in versions.items():
                for version in text.split(","):
                    number, _, needs = version.partition(" ")
                    packages.append(Package(name, number, needs.replace("+", ", ")))
            upstreams._write_operating_systems(self.root, sign, packages)

    def wheels(self, **versions: str) -> None:
        """All wheels that the index has: `version` or `version requirement`."""
        files = self.root / "pypi/files"
        for old in files.glob("*"):
            old.unlink()
        for name, text in versions.items():
            version, *requires = text.split()
            wheel = wheels.StandInWheel(name, version, tuple(requires))
            (files / wheel.file_name).write_bytes(wheel.build())
        for page in (self.root / "pypi/simple").glob("*/index.html"):
            page.unlink()
        wheels._write_index(self.root / "pypi/simple", files)


@pytest.fixture(scope="module")
def changing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstreams]:
    folder = tmp_path_factory.mktemp("upstreams")
    root, state = folder / "mirror", folder / "state.json"
    (root / "pypi/files").mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BAKE_CACHE", str(CACHE))
        trusted = trust.establish(CACHE / "stand-in" / "trust")
        upstreams.write(root, trusted, EXTRA)
        engine = find_engine()
        host, listen = engine.computer_address, standin.listen_address(engine)
        certificate = trusted.server_certificate((host, listen))
        running = mirror.start(state, root, certificate, address=listen)
        base = f"https://{host}:{running.port}"
        paths = {"nvidia": "compute/cuda/repos", "pypi": "pypi/simple"}
        payload = Payload(
            name="stand-in",
            mirrors={name: f"{base}/{paths.get(name, name)}" for name in UPSTREAM.mirrors},
            nvidia_key_fingerprint=trusted.fingerprint,
            sha256=standin._sha256(),
        )
        try:
            yield Upstreams(root, trusted, payload)
        finally:
            mirror.stop(state)


@pytest.fixture(scope="module")
def start(changing: Upstreams) -> Iterator[Callable[[], Machine]]:
    with machines() as start:
        yield lambda: start(find("mxnet-cu101"), changing.payload)


def notes(machine: Machine) -> dict[str, Installed]:
    """What the record would have of it."""
    return parse_notes(machine.read(NOTES_COMMAND, user="ubuntu"))


def told(stage: str, found: dict[str, Installed], *beside: str) -> dict[str, str]:
    """The inputs by which a stage is held to what was found."""
    held_to = Lock(
        recipe="x",
        payload="stand-in",
        run="1",
        base_image=lock.LockedImage(name="x", ids={}),
        asked={},
        stages=found,
    )
    return held_to.inputs(stage, [stage, *beside], {})


APT = """set -o errexit -o nounset -o pipefail
source "${BAKE_LIB:?}"
apt_get update
apt_install %s
"""


@pytest.fixture(scope="module")
def with_base(changing: Upstreams, start: Callable[[], Machine]) -> Machine:
    machine = start()
    machine.bake("base")
    return machine


def install_packages(
    machine: Machine, asked: str, stage: str = "own", **given: str
) -> subprocess.CompletedProcess[str]:
    """As a stage would that is the first to ask for any of these."""
    if stage == "own":
        machine.read("rm -rf /usr/share/bake/installed/own")
        machine.run("dpkg --purge one two three deep more")
    return machine.script(APT % asked, stage, **given)


@pytest.mark.machines
def test_apt_installs_what_is_locked_or_names_all_that_differs(
    changing: Upstreams, with_base: Machine
) -> None:
    changing.packages(one="1 deep", deep="1", two="1", three="1")
    done = install_packages(with_base, "one two")
    assert done.returncode == 0, done.stderr
    found = notes(with_base)
    assert found["own"].apt == {"one": "1", "two": "1", "deep": "1"}
    assert "build-essential" in found["base"].apt
    assert "libc6" not in found["base"].apt, "it was there before"
    held = {"LOCKED_APT": told("own", found, "base")["LOCKED_APT"]}

    # There is newer: the lock's is taken, also of what comes along.
    changing.packages(one="1 deep,2 deep", deep="1,2", two="1,2", three="1")
    done = install_packages(with_base, "one two", **held)
    assert done.returncode == 0, done.stderr
    assert notes(with_base) == found
    assert with_base.read("apt-mark showauto deep one") == "deep", "as it would be without a lock"
    assert not with_base.read("ls /etc/apt/preferences.d")

    # Of two there is only a newer one, deep is gone.
    changing.packages(one="1 deep,2", two="2,3", three="1")
    done = install_packages(with_base, "one two", **held)
    assert done.returncode == 1
    assert "deep: 1 is locked, and the archive has none\n" in done.stderr
    assert "two: 1 is locked, and the archive has 3 2\n" in done.stderr
    assert "one: " not in done.stderr

    # The same version needs something more, and something is asked for that the lock has not.
    changing.packages(one="1 deep+more", deep="1", two="1", more="1", three="1")
    done = install_packages(with_base, "one two three", **held)
    assert done.returncode == 1
    assert "more: 1 is installed, and nothing of it is locked\n" in done.stderr
    assert "three: 1 is installed, and nothing of it is locked\n" in done.stderr


@pytest.mark.machines
def test_what_a_stage_beside_adds_is_held_to_the_lock_too(
    changing: Upstreams, with_base: Machine
) -> None:
    """`deep` was added by the first of two stages; with the lock, the second one comes first."""
    changing.packages(one="1 deep", two="1 deep", deep="1,2")
    install_packages(with_base, "")
    found = {
        "base": notes(with_base)["base"],
        "own": Installed(apt={"one": "1", "deep": "1"}),
        "other": Installed(apt={"two": "1"}),
    }
    for stage, package in (("other", "two"), ("own", "one")):
        given = told(stage, found, *({*found} - {stage}))
        done = with_base.script(APT % package, stage, **given)
        assert done.returncode == 0, done.stderr
    assert with_base.read("dpkg-query -Wf '${Version}' deep") == "1"


PIP = """set -o errexit -o nounset -o pipefail
source "${BAKE_LIB:?}"
pip_install %s
"""


@pytest.fixture(scope="module")
def with_python(changing: Upstreams, start: Callable[[], Machine]) -> Machine:
    machine = start()
    machine.bake("conda")
    return machine


@pytest.mark.machines
def test_pip_installs_what_is_locked_or_names_all_that_differs(
    changing: Upstreams, with_python: Machine
) -> None:
    machine = with_python
    names = ("LOGIN_USER", "ENVIRONMENT_PREFIX", "PYPI_MIRROR")
    given = {name: machine.inputs[name] for name in names}
    prefix = given["ENVIRONMENT_PREFIX"]
    pip = f"{prefix}/bin/python -m pip"

    def install(asked: str, **more: str) -> Any:
        machine.run(f"{pip} uninstall --yes alpha beta gamma", user="ubuntu")
        return machine.script(PIP % asked, "wheels", **given, **more)

    changing.wheels(alpha="1 beta", beta="1", gamma="1")
    assert install("alpha gamma").returncode == 0
    found = notes(machine)
    assert {name: w.version for name, w in found["wheels"].pip.items()} == {
        "alpha": "1",
        "beta": "1",
        "gamma": "1",
    }
    held = {"LOCKED_PIP": told("wheels", found)["LOCKED_PIP"]}

    # A constraint of the environment, which has no hash, stands beside the lock.
    machine.read("printf 'beta==1\\n' >/tmp/constraints.txt")
    machine.read(f"printf '[install]\\nconstraint = /tmp/constraints.txt\\n' >{prefix}/pip.conf")
    done = install("alpha gamma", **held)
    assert done.returncode == 0, done.stdout + done.stderr
    assert notes(machine) == found

    # What is asked for and not in the lock is not installed on the quiet.
    changing.wheels(alpha="1 beta", beta="1", gamma="1", delta="1")
    done = machine.script(PIP % "alpha delta", "wheels", **given, **held)
    assert done.returncode == 1
    assert "does not hold what the recipe asks for" in done.stderr

    # beta has other bytes, gamma only another version, alpha is as it was.
    changing.wheels(alpha="1 beta", beta="1 alpha", gamma="2")
    done = install("alpha gamma", **held)
    assert done.returncode == 1
    was, now = found["wheels"].pip["beta"].sha256, hashlib.sha256()
    now.update((changing.root / "pypi/files/beta-1-py3-none-any.whl").read_bytes())
    assert f"beta==1: sha256 {was} is locked, and the index has {now.hexdigest()}" in done.stderr
    assert "gamma==1 is locked, and the index has 2" in done.stderr
    assert "alpha==1 is locked" not in done.stderr
    assert "alpha==1: sha256" not in done.stderr


@pytest.mark.machines
def test_conda_and_its_installer_are_what_is_locked(
    changing: Upstreams, with_python: Machine
) -> None:
    """Last, since it leaves no environment."""
    found = notes(with_python)
    installer = with_python.inputs["CONDA_INSTALLER"]
    assert dict(found["conda"].files) == {installer: with_python.inputs["CONDA_INSTALLER_SHA256"]}
    [path] = found["conda"].conda
    assert path == "linux-64/python-3.7-stand_in.conda"
    held = {"LOCKED_CONDA": told("conda", found)["LOCKED_CONDA"]}

    machine = with_python
    wiped = f"rm -rf {machine.inputs['ENVIRONMENT_PREFIX']} /usr/share/bake/installed"
    machine.read(wiped)
    machine.bake("conda", **held)
    assert notes(machine)["conda"].conda == found["conda"].conda

    file = changing.root / "conda/conda-forge" / path
    whole = file.read_bytes()
    try:
        file.write_bytes(whole + b" ")
        changed = hashlib.sha256(whole + b" ").hexdigest()
        machine.read(wiped)
        done = machine.stage("conda", **held)
        assert done.returncode == 1
        locked = found["conda"].conda[path]
        assert f"{path}: sha256 {locked} is locked, and the channel has {changed}" in done.stderr
        file.unlink()
        machine.read(wiped)
        done = machine.stage("conda", **held)
        assert done.returncode == 1
        assert f"{path}: sha256 {locked} is locked, and https://" in done.stderr
        assert f"{path} cannot be downloaded" in done.stderr
    finally:
        file.write_bytes(whole)

    file = next((changing.root / "miniconda").glob(installer))
    whole = file.read_bytes()
    try:
        file.write_bytes(whole + b"# changed\n")
        machine.read("rm -rf /opt/conda")
        done = machine.stage("conda", **held)
        assert done.returncode == 1
        assert f"and not {found['conda'].files[installer]}" in done.stderr
    finally:
        file.write_bytes(whole)


# ---- baked with ----


@pytest.mark.machines
def test_a_bake_is_locked_planned_the_same_and_baked_again(
    kitchen: Kitchen, witness: Witness
) -> None:
    note = 'source "$BAKE_LIB"; note apt <<<"one 1"; echo "$LOCKED_APT" >/opt/told'
    kitchen.stage("a", inputs="STAGE LOCKED_APT", body=note)
    told_once = '[[ -z $LOCKED_APT ]] || grep --quiet "^a one 1$" /opt/told'
    kitchen.stage("b", "a", inputs="STAGE LOCKED_APT", body=told_once)
    kitchen.recipe("one", "a", "b")
    kitchen.bake("one")
    ((context, recipe),) = kitchen.orders("one")
    path = lock.newest_record(context.builds, "one", "stand-in")
    held_to = lock.from_record(path, "one")
    assert held_to.stages["a"].apt == {"one": "1"}
    locked = replace(context, lock=held_to)
    first, second = preview(locked, recipe), preview(locked, recipe)
    assert first.plan.digest == second.plan.digest
    assert {reason.state for reason in first.reasons.values()} == {"to run"}
    assert any(why.startswith("LOCKED_APT") for why in first.reasons["a"].why)
    outcome = bake.bake(locked, recipe)
    assert outcome.record
    again = lock.from_record(context.builds / outcome.record.run / "record.json", "one")
    assert again.stages == held_to.stages
    assert bake.bake(locked, recipe).status == "there already"
    assert witness.began() == ["a", "b", "a", "b"]
    # The base image is the lock's, or none at all.
    gone = held_to.model_copy(update={"base_image": lock.LockedImage(name="x", ids={})})
    with pytest.raises(PreflightError) as caught:
        bake.bake(replace(context, lock=gone), recipe)
    assert "x of owner" in str(caught.value.findings)


@pytest.mark.machines
@pytest.mark.soak
def test_the_default_recipe_is_baked_locked_and_baked_just_the_same(
    local_cloud: Path, tmp_path: Path
) -> None:
    """All stages of a rehearsal, by the command line, in a checkout of its own."""
    for part in ("tasks.py", "manifests", "scripts"):
        source = REPOSITORY / part
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / part)

    def invoke(*words: str, status: int = 0) -> Any:
        environment = os.environ | {"BAKE_BUILDS": str(tmp_path / "builds")}
        command = [Path(sys.executable).parent / "invoke", *words, "--stand-in", "--json"]
        run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert run.returncode == status, run.stderr
        return json.loads(run.stdout) if run.stdout else run.stderr

    free = invoke("bake", "mxnet-cu101", "--local")["record"]
    [counts] = invoke("lock", "mxnet-cu101")
    print({kind: counts[kind] for kind in ("apt", "conda", "pip", "files")})
    first, second = (invoke("plan", "mxnet-cu101", "--local") for _ in range(2))
    assert first["digest"] == second["digest"] != free["digest"]
    assert first["locked"] == free["run"]
    assert invoke("plan", "mxnet-cu101", "--local", "--no-lock")["digest"] == free["digest"]
    locked = invoke("bake", "mxnet-cu101", "--local")["record"]
    assert locked["digest"] == first["digest"]
    assert locked["base_image_id"] == free["base_image_id"]
    for kind in ("dpkg", "pip", "stages"):
        assert locked["inventory"][kind] == free["inventory"][kind]
    refused = invoke("lock", "mxnet-cu112", status=2)
    assert "has none of mxnet-cu112" in refused["message"]
