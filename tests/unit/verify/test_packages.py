"""The requested packages are looked for on the machine, by name and version."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bake.errors import VerificationError
from bake.recipe.resolved import resolve
from bake.verify import accepted, expect, prove
from tests.support.proved_machine import DRIVER, NO_GPU, Machine
from tests.support.recipes import NO_SECTIONS, changed_recipe


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    meta = made.prefix / "conda-meta"
    meta.mkdir(parents=True)
    listed = [{"name": "ffmpeg", "version": "6.1.1"}, {"name": "python", "version": "3.7.16"}]
    made.says["conda"] = (json.dumps(listed), 0)
    return made


def packages_of(machine: Machine, **requested: Any) -> tuple[str, str]:
    """Return outcome and detail of the check."""
    wanted = machine.expectation(**{"apt": (), **requested})
    try:
        checks = prove(machine, wanted).checks
    except VerificationError as error:
        [detail] = error.details
        name, _, text = detail.partition(": ")
        assert name == "packages"
        return "failed", text
    [check] = [check for check in checks if check.name == "packages"]
    return check.outcome, check.detail


@pytest.mark.parametrize(
    "requested",
    [
        {"apt": ("htop",)},
        {"apt": ("htop=3.0.5-7",)},
        {"apt": ("libc6",)},
        {"apt": ("libc6:amd64=2.36-9",)},
        {"conda_packages": ("ffmpeg>=6",)},
        {"conda_packages": ("FFmpeg=6.1",)},
        {"pip": ("foo_bar",)},
        {"pip": ("Foo-Bar[extra]>=1.2,<2",)},
        {"pip": ("foo.bar @ https://example.org/foo_bar-9-py3-none-any.whl",)},
        {"pip": ("cowsay; python_version >= '3.8'",)},
    ],
)
def test_an_installed_package_passes(machine: Machine, requested: dict[str, Any]) -> None:
    assert packages_of(machine, **requested) == ("passed", "1 package")


@pytest.mark.parametrize(
    ("requested", "reason"),
    [
        ({"apt": ("jq",)}, "packages.apt: jq is not installed"),
        ({"apt": ("libc6:i386",)}, "packages.apt: libc6:i386 is not installed"),
        ({"apt": ("htop=3.0.5-8",)}, "htop=3.0.5-8 is requested, and 3.0.5-7 is installed"),
        ({"conda_packages": ("scipy",)}, "packages.conda: scipy is not installed"),
        ({"conda_packages": ("ffmpeg<6",)}, "ffmpeg<6 is requested, and 6.1.1 is installed"),
        ({"pip": ("cowsay",)}, "packages.pip: cowsay is not installed"),
        ({"pip": ("foo-bar==1.6",)}, "foo-bar==1.6 is requested, and 1.5 is installed"),
    ],
)
def test_a_missing_package_and_another_version_fail(
    machine: Machine, requested: dict[str, Any], reason: str
) -> None:
    outcome, detail = packages_of(machine, **requested)
    assert outcome == "failed"
    assert reason in detail
    kind = {"apt": "apt", "conda_packages": "conda", "pip": "pip"}[next(iter(requested))]
    assert f"Read the log of the stage that installs packages.{kind}." in detail


def test_all_faults_are_reported_at_once(machine: Machine) -> None:
    _, detail = packages_of(machine, apt=("jq", "htop"), pip=("cowsay",))
    assert "jq is not installed" in detail
    assert "cowsay is not installed" in detail
    assert "htop" not in detail


def test_a_package_that_another_one_provides_is_installed(machine: Machine) -> None:
    program = (
        'case "$*" in *Provides*) printf "ii \\tawk, mail-agent (= 1):any\\nrc \\tgone\\n" ;; '
    )
    program += "*) printf 'ii \\tmawk\\t1.3\\n' ;; esac"
    machine.says["dpkg-query"] = None
    machine._program(machine.folder / "bin" / "dpkg-query", program)
    assert packages_of(machine, apt=("awk", "mail-agent", "mawk")) == ("passed", "3 packages")
    assert packages_of(machine, apt=("gone",))[0] == "failed"
    assert packages_of(machine, apt=("awk=1",))[0] == "failed"  # apt installs no such version


def test_without_requested_packages_there_is_no_check_and_nothing_is_asked(
    machine: Machine,
) -> None:
    proof = prove(machine, machine.expectation(apt=()))
    assert "packages" not in {check.name for check in proof.checks}
    assert not any("dpkg-query" in command for command in machine.commands)


def test_an_inventory_that_cannot_be_read_is_a_failure(machine: Machine) -> None:
    machine.says["dpkg-query"] = ("dpkg-query: error: the database is locked", 2)
    outcome, detail = packages_of(machine, apt=("htop",))
    assert outcome == "failed"
    assert "Cannot list what is installed" in detail


def test_stand_ins_are_checked_by_name_only_and_the_result_says_so(machine: Machine) -> None:
    requested = {"apt": ("htop=9",), "conda_packages": ("ffmpeg=9",), "pip": ("foo-bar==9",)}
    said = "3 packages, by name only: stand-ins"
    assert packages_of(machine, **requested, stand_in=True) == ("passed", said)
    assert packages_of(machine, pip=("cowsay",), stand_in=True)[0] == "failed"


@pytest.mark.parametrize(("gpu", "proved"), [("if-present", "no"), ("none", "cpu"), (None, "cpu")])
def test_packages_alone_prove_a_machine_that_promises_no_gpu(
    machine: Machine, gpu: Any, proved: str
) -> None:
    machine.probe = NO_GPU + DRIVER
    recipe = changed_recipe(
        "mxnet-cu101", stages=["base", "seal"], packages__apt=["htop"], gpu=gpu, **NO_SECTIONS
    )
    proof = prove(machine, expect(resolve(recipe), "g4dn.xlarge"))
    passed = [check.name for check in proof.checks if check.outcome == "passed"]
    assert [name for name in passed if name != "upgrades"] == ["kernel", "packages"]
    assert proof.verified == proved
    assert proof.verified in accepted(resolve(recipe))


def test_the_packages_of_a_recipe_are_expected() -> None:
    packages = {"apt": ["htop"], "conda": ["ffmpeg"], "pip": ["cowsay"]}
    recipe = resolve(changed_recipe("mxnet-cu101", packages=packages))
    real = expect(recipe, "g4dn.xlarge")
    assert (real.apt, real.conda_packages, real.pip) == (("htop",), ("ffmpeg",), ("cowsay",))
    assert not real.stand_in
    rehearsal = expect(recipe, "g4dn.xlarge", stand_in=True)
    assert rehearsal.packages == ("htop", "ffmpeg", "cowsay")
    assert rehearsal.stand_in
