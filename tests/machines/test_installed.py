"""The installed package, in an environment of its own: `bake` works in any folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from uv import find_uv_bin

from bake import __version__
from tests.support.documents import checked
from tests.support.environment import REPOSITORY

SOURCES = ("bake", "docs", "manifests", "scripts", "LICENSE", "MANIFEST.in", "README.md",
           "pyproject.toml", "setup.cfg", "setup.py", "tasks.py")  # fmt: skip
BUILD = "import setuptools.build_meta as build, sys; build.build_{}(sys.argv[1])"
# What a checkout has, and an installed package does not need.
LEFT_OUT = ("__pycache__", "setup")
# pip makes a folder __pycache__ beside each program, and uv does so on request.
LIKE_PIP = ("--compile-bytecode",)
# A stage that takes the place of the built-in one, whose upgrade takes a while.
BASE = """\
#!/usr/bin/env bash
# Nothing is upgraded.
# Replaces: built-in
# Needs:
echo nothing
"""


def run(*command: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "BAKE_BUILDS"}
    path = {"PATH": os.pathsep.join([str(Path(command[0]).parent), os.environ["PATH"]])}
    return subprocess.run(
        command, cwd=cwd, env=kept | path, capture_output=True, text=True, timeout=200
    )


def build(kind: str, source: Path, target: Path) -> Path:
    """Build an sdist or a wheel, as pip does, with the tests' own setuptools."""
    target.mkdir()
    done = run(sys.executable, "-c", BUILD.format(kind), target, cwd=source)
    assert done.returncode == 0, done.stderr
    [made] = target.iterdir()
    return made


def files_below(folder: Path) -> set[str]:
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {str(path) for path in found if not set(LEFT_OUT) & set(path.parts)}


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel, and an empty folder in which its user works."""

    wheel: Path
    environment: Path
    folder: Path

    def bake(self, *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        done = run(self.environment / "bin" / "bake", *words, cwd=self.folder)
        assert done.returncode == status, done.stdout + done.stderr
        return done

    def document(self, command: str, *words: str) -> Any:
        """Run a command with --json and return its document."""
        return checked(command, self.bake(command, *words, "--json").stdout)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel of the sdist of this checkout, in a new environment.

    Its dependencies are the tests' own, without what makes this checkout importable.
    """
    folder = tmp_path_factory.mktemp("installed")
    source, unpacked, environment = (folder / name for name in ("source", "sdist", "environment"))
    source.mkdir()
    ignore = shutil.ignore_patterns("__pycache__")
    for name in SOURCES:
        if (REPOSITORY / name).is_dir():
            shutil.copytree(REPOSITORY / name, source / name, ignore=ignore)
        else:
            shutil.copy(REPOSITORY / name, source)
    with tarfile.open(build("sdist", source, folder / "sdists")) as archive:
        archive.extractall(unpacked, filter="data")
    wheel = build("wheel", unpacked / f"bake-{__version__}", folder / "wheels")
    shutil.rmtree(source)
    shutil.rmtree(unpacked)
    uv = [find_uv_bin(), "--quiet", "--offline", "--no-config"]
    for command in (
        ["venv", "--python", sys.executable, environment],
        ["pip", "install", "--python", environment, "--no-deps", "--no-index", *LIKE_PIP, wheel],
    ):
        done = run(*uv, *command, cwd=folder)
        assert done.returncode == 0, done.stderr
    [packages] = environment.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    (folder / "empty").mkdir()
    return Installed(wheel, environment, folder / "empty")


def test_the_wheel_contains_all_that_a_checkout_has_for_a_bake(installed: Installed) -> None:
    with zipfile.ZipFile(installed.wheel) as archive:
        inside = {name for name in archive.namelist() if name.startswith("bake/")}
    code = {f"bake/{name}" for name in files_below(REPOSITORY / "bake")}
    built_in = {
        f"bake/builtin/{folder}/{name}"
        for folder in ("manifests", "scripts", "docs")
        for name in files_below(REPOSITORY / folder)
    }
    assert inside == code | built_in


def test_help_names_the_program_that_was_typed(installed: Installed) -> None:
    listed = installed.bake("--help").stdout
    assert listed == installed.bake().stdout
    assert "  build  " in listed
    assert "--echo" not in listed
    assert "invoke" not in listed
    assert installed.bake("--version").stdout == f"bake {__version__}\n"
    explained = installed.bake("build", "--help").stdout
    assert explained.startswith("Usage: bake build [RECIPE …] [options]")
    assert "invoke" not in explained
    wrong = installed.bake("bild", status=2)
    assert wrong.stderr == (
        "Unknown command: bild. Did you mean build? To list the commands: bake --help\n"
    )


def test_without_a_project_the_built_in_recipes_are_used(
    installed: Installed, local_cloud: Path
) -> None:
    recipes = {each["name"] for each in installed.document("recipes")["recipes"]}
    assert recipes == {path.stem for path in REPOSITORY.glob("manifests/*.toml")}
    [planned] = installed.document("plan", "mxnet-cu101", "--local", "--stand-in")["plans"]
    assert planned["recipe"] == "mxnet-cu101"
    refused = installed.bake("lock", "mxnet-cu101", "--stand-in", status=2)
    assert "belongs to it" in refused.stderr
    assert list(installed.folder.iterdir()) == []


def test_a_new_project_is_baked_with_its_own_stage_input_file_and_check(
    installed: Installed, local_cloud: Path
) -> None:
    installed.bake("init", "images")
    images = replace(installed, folder=installed.folder / "images")
    recipe, stage = images.folder / "manifests" / "hello.toml", images.folder / "scripts" / "stages"
    # Without GPU, driver, CUDA, Python and framework.
    assert "[cuda]" not in recipe.read_text()
    (images.folder / "manifests" / "mine.toml").write_text(
        'name = "mine"\nextends = "hello"\nwithout = ["packages"]\ninputs.GREETING = "Good day"\n'
    )
    (stage / "base.sh").write_text(BASE)
    done = images.bake("build", "mine", "--local", "--stand-in")
    assert "Launch   bake launch-from-ami --local --ami ami-" in done.stdout
    [path] = images.folder.glob("builds/*/record.json")
    record = json.loads(path.read_text())
    assert [stage["name"] for stage in record["stages"]] == ["base", "motd", "seal"]
    [check] = [each for each in record["checks"] if each["name"] == "motd"]
    assert (check["outcome"], check["detail"]) == ("passed", "/etc/motd begins with: Good day")
    page = (path.parent / "report.html").read_text()
    assert "<span>bake</span> <span>launch-from-ami</span>" in page
    # From above, the project is named; its file is in the stage's digest, and the image is current.
    there = ("--project", "images", "--local", "--stand-in")
    [planned] = installed.document("plan", "mine", *there)["plans"]
    assert {stage["name"]: stage["state"] for stage in planned["stages"]} == dict.fromkeys(
        ("base", "motd", "seal"), "done"
    )
    assert [stage["replaces_built_in"] for stage in planned["stages"]] == [True, False, False]
    (images.folder / "files" / "motd.txt").write_text("Another text\n")
    [planned] = installed.document("plan", "images/manifests/mine.toml", *there[2:])["plans"]
    assert [stage["name"] for stage in planned["stages"] if stage["state"] == "to_run"] == [
        "motd",
        "seal",
    ]
