"""Locked installations on real machines."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from bake.catalog import load
from bake.errors import PreflightError
from bake.local import standin
from bake.local.machines.engine import find_engine
from bake.local.standin import mirror, trust, upstreams, wheels
from bake.local.standin.archive import Package
from bake.pipeline import bake
from bake.pipeline.preview import preview
from bake.plan import lock
from bake.plan.lock import Lock
from bake.recipe.payload import UPSTREAM, Payload
from bake.record import Installed, Wheel
from bake.verify.inventory import NOTES_COMMAND, parse_notes
from tests.support.documents import checked
from tests.support.environment import CACHE, REPOSITORY
from tests.support.kitchen import Kitchen, Witness
from tests.support.stage_machines import Machine, find, machines


def wheel(version: str, sha256: str, file: str) -> Wheel:
    return Wheel(version=version, sha256=sha256, file=file)


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
            archives = (key for key, image in load().os_images.items() if not image.like)
            main = {key: list(upstreams.main_packages(key, ())) for key in archives}
            for name, text in versions.items():
                for version in text.split(","):
                    number, _, needs = version.partition(" ")
                    package = Package(name, number, needs.replace("+", ", "))
                    main["ubuntu-18.04"].append(package)
            upstreams._write_operating_systems(self.root, sign, main)

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
        wheels._write_index(self.root / "pypi")


@pytest.fixture(scope="module")
def changing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstreams]:
    folder = tmp_path_factory.mktemp("upstreams")
    root, state = folder / "mirror", folder / "state.json"
    (root / "pypi/files").mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BAKE_CACHE", str(CACHE))
        trusted = trust.establish(CACHE / "stand-in" / "trust")
        upstreams.write(root, trusted, {"ubuntu-18.04": EXTRA})
        engine = find_engine()
        host, listen = engine.computer_address, standin.listen_address(engine)
        certificate = trusted.server_certificate((host, listen))
        running = mirror.start(state, root, certificate, address=listen)
        base = f"https://{host}:{running.port}"
        paths = {"nvidia": "compute/cuda/repos", "pypi": "pypi/simple"}
        payload = Payload(
            name="stand-in",
            mirrors={name: f"{base}/{paths.get(name, name)}" for name in UPSTREAM.mirrors},
            key_fingerprints=dict.fromkeys(UPSTREAM.mirrors, trusted.fingerprint),
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
install_packages %s
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
    assert "more: 1 is installed, and no version is locked\n" in done.stderr
    assert "three: 1 is installed, and no version is locked\n" in done.stderr


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
        return machine.script(PIP % asked, "wheel_count", **given, **more)

    changing.wheels(alpha="1 beta", beta="1", gamma="1")
    assert install("alpha gamma").returncode == 0
    found = notes(machine)
    assert {name: w.version for name, w in found["wheel_count"].pip.items()} == {
        "alpha": "1",
        "beta": "1",
        "gamma": "1",
    }
    held = {"LOCKED_PIP": told("wheel_count", found)["LOCKED_PIP"]}

    # A constraint of the environment, which has no hash, stands beside the lock.
    machine.read("printf 'beta==1\\n' >/tmp/constraints.txt")
    machine.read(f"printf '[install]\\nconstraint = /tmp/constraints.txt\\n' >{prefix}/pip.conf")
    done = install("alpha gamma", **held)
    assert done.returncode == 0, done.stdout + done.stderr
    assert notes(machine) == found

    # What is asked for and not in the lock is not installed on the quiet.
    changing.wheels(alpha="1 beta", beta="1", gamma="1", delta="1")
    done = machine.script(PIP % "alpha delta", "wheel_count", **given, **held)
    assert done.returncode == 1
    assert "does not contain what the recipe requests" in done.stderr

    # beta has other bytes, gamma only another version, alpha is as it was.
    changing.wheels(alpha="1 beta", beta="1 alpha", gamma="2")
    done = install("alpha gamma", **held)
    assert done.returncode == 1
    was, now = found["wheel_count"].pip["beta"].sha256, hashlib.sha256()
    now.update((changing.root / "pypi/files/beta-1-py3-none-any.whl").read_bytes())
    assert f"beta==1: sha256 {was} is locked, and the index has {now.hexdigest()}" in done.stderr
    assert "gamma==1 is locked, and the index has 2" in done.stderr
    assert "alpha==1 is locked" not in done.stderr
    assert "alpha==1: sha256" not in done.stderr


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
        assert f"instead of {found['conda'].files[installer]}" in done.stderr
    finally:
        file.write_bytes(whole)


# ---- baked with ----


def test_a_bake_is_locked_planned_the_same_and_baked_again(
    kitchen: Kitchen, witness: Witness
) -> None:
    note = 'source "$BAKE_LIB"; note apt <<<"one 1"; echo "$LOCKED_APT" >/opt/told'
    kitchen.stage("a", inputs="STAGE LOCKED_APT", body=note)
    told_once = '[[ -z $LOCKED_APT ]] || grep --quiet "^a one 1$" /opt/told'
    kitchen.stage("b", "a", inputs="STAGE LOCKED_APT", body=told_once)
    kitchen.recipe("one", "a", "b")
    kitchen.bake("one")
    ((context, recipe),) = kitchen.requests("one")
    path = lock.newest_record(context.builds, "one", "stand-in")
    held_to = lock.from_record(path, "one")
    assert held_to.stages["a"].apt == {"one": "1"}
    locked = replace(context, lock=held_to)
    first, second = preview(locked, recipe), preview(locked, recipe)
    assert first.plan.digest == second.plan.digest
    assert {reason.state for reason in first.reasons.values()} == {"to run"}
    assert first.reasons["a"].why == ("locked now: 1 apt package",)
    outcome = bake.bake(locked, recipe)
    assert outcome.record
    again = lock.from_record(context.builds / outcome.record.run / "record.json", "one")
    assert again.stages == held_to.stages
    assert bake.bake(locked, recipe).status == "up to date"
    assert witness.began() == ["a", "b", "a", "b"]
    # The base image is the lock's, or none at all.
    gone = held_to.model_copy(update={"base_image": lock.LockedImage(name="x", ids={})})
    with pytest.raises(PreflightError) as caught:
        bake.bake(replace(context, lock=gone), recipe)
    assert "x of owner" in str(caught.value.findings)


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
        return checked(words[0], run.stdout)

    def bake() -> Any:
        [baked] = invoke("bake", "mxnet-cu101", "--local")["bakes"]
        return json.loads(Path(baked["baked"]["record_path"]).read_text())

    def plan(*options: str) -> Any:
        [planned] = invoke("plan", "mxnet-cu101", "--local", *options)["plans"]
        return planned

    free = bake()
    [counts] = invoke("lock", "mxnet-cu101")["locks"]
    print({kind: counts[kind] for kind in ("apt_package_count", "wheel_count")})
    first, second = plan(), plan()
    assert first["digest"] == second["digest"] != free["digest"]
    assert first["locked_run_id"] == free["run"]
    assert plan("--no-lock")["digest"] == free["digest"]
    locked = bake()
    assert locked["digest"] == first["digest"]
    assert locked["base_image_id"] == free["base_image_id"]
    for kind in ("dpkg", "pip", "stages"):
        assert locked["inventory"][kind] == free["inventory"][kind]
    refused = invoke("lock", "mxnet-cu112", status=2)
    assert "has none of mxnet-cu112" in refused["error"]["message"]
