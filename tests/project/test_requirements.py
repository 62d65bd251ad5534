"""Every dependency of setup.cfg is pinned by version and hash, and names no index."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.environment import REPOSITORY

FOLDER = REPOSITORY / "requirements"
EXTRAS = {"run": (), "local": ("local",), "test": ("test",)}  # `test` has all of `local`
AUDIT = REPOSITORY / "scripts" / "setup" / "audit.sh"


@dataclass(frozen=True)
class Pin:
    requirement: Requirement
    hashes: tuple[str, ...]
    via: tuple[str, ...]

    @property
    def version(self) -> str:
        [specifier] = self.requirement.specifier
        assert specifier.operator == "=="
        return specifier.version


def pins(name: str) -> dict[str, Pin]:
    """Yield the entries of a file: `name==version ; marker \\`, its hashes, and comments on why."""
    text = (FOLDER / f"{name}.txt").read_text()
    found = {}
    for entry in re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE | re.IGNORECASE)[1:]:
        line, *more = entry.splitlines()
        requirement = Requirement(line.rstrip("\\").strip())
        found[canonicalize_name(requirement.name)] = Pin(
            requirement,
            tuple(re.findall(r"--hash=(\S+)", entry)),
            tuple(re.findall(r"^    # +(?:via )?(.+)$", "\n".join(more), re.MULTILINE)),
        )
    return found


def declared(extras: tuple[str, ...]) -> dict[str, Requirement]:
    config = configparser.ConfigParser()
    config.read(REPOSITORY / "setup.cfg")
    texts = [config["options"]["install_requires"]]
    texts += [config["options.extras_require"][extra] for extra in extras]
    lines = [line for text in texts for line in text.splitlines() if line.strip()]
    return {canonicalize_name(r.name): r for r in map(Requirement, lines)}


@pytest.mark.parametrize("name", EXTRAS)
def test_the_pins_are_of_what_setup_cfg_asks_for_now(name: str) -> None:
    asked, pinned = declared(EXTRAS[name]), pins(name)
    for package, requirement in asked.items():
        assert package in pinned, f"{package} is new: make requirements"
        version = pinned[package].version
        assert version in requirement.specifier, f"{requirement}, pinned {version}"
    top = {package for package, pin in pinned.items() if "bake (setup.cfg)" in pin.via}
    assert top == asked.keys(), "make requirements"


@pytest.mark.parametrize("name", EXTRAS)
def test_the_extras_that_are_asked_for_are_pinned_too(name: str) -> None:
    pinned = pins(name)
    for package, requirement in declared(EXTRAS[name]).items():
        for line in metadata.requires(package) or ():
            needed = Requirement(line)
            extras = [{"extra": extra} for extra in ("", *requirement.extras)]
            if needed.marker is None or any(needed.marker.evaluate(extra) for extra in extras):
                assert canonicalize_name(needed.name) in pinned, f"{requirement}: make requirements"


@pytest.mark.parametrize("name", EXTRAS)
def test_everything_is_pinned_by_hash_and_no_place_is_named(name: str) -> None:
    for package, pin in pins(name).items():
        assert pin.hashes, package
        assert all(re.fullmatch("sha256:[0-9a-f]{64}", value) for value in pin.hashes), package
        assert not pin.requirement.url
    options = re.findall(r"^-.*", (FOLDER / f"{name}.txt").read_text(), re.MULTILINE)
    assert not options


def test_the_smaller_ones_hold_what_the_larger_one_does() -> None:
    run, local, test = (pins(name) for name in ("run", "local", "test"))
    for smaller, larger in ((run, local), (local, test)):
        assert {p: pin.version for p, pin in smaller.items()}.items() <= {
            p: pin.version for p, pin in larger.items()
        }.items()


def test_what_builds_the_project_is_pinned() -> None:
    build = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["build-system"]["requires"]
    lines = (FOLDER / "build.in").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == build
    assert all(Requirement(line).name in pins(name) for line in build for name in EXTRAS)


def test_every_installation_is_by_hash() -> None:
    """make, the workflows and the commands of docs/ci.md use the pinned files."""
    places = [REPOSITORY / "Makefile", REPOSITORY / "docs" / "ci.md"]
    places += sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))
    lines = [line for path in places for line in path.read_text().splitlines()]
    installs = [line for line in lines if "pip install" in line]
    assert len(installs) >= 8
    for line in installs:
        own = "--no-deps" in line and "--no-build-isolation" in line and line.endswith(".")
        assert own or "--require-hashes --requirement" in line, line


@pytest.mark.parametrize(
    ("said", "status", "verdict"),
    [
        ("No known vulnerabilities found", 0, 0),
        ("Found 2 known vulnerabilities in 1 package", 1, 1),
        ("ERROR:pip_audit._cli:pip: Dependency not found", 1, 75),
        ("ConnectionError: Found nobody there", 1, 75),
    ],
)
def test_what_cannot_be_looked_up_is_neither_good_nor_bad(
    tmp_path: Path, said: str, status: int, verdict: int
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n[ $1 = -m ] || exit 0\necho '{said}'\nexit {status}\n")
    python.chmod(0o755)
    run = subprocess.run([AUDIT, python], capture_output=True, text=True)
    assert run.returncode == verdict
    assert said in run.stdout
    assert ("Skipped" in run.stderr) == (verdict == 75)


def test_nothing_that_is_pinned_has_a_known_vulnerability() -> None:
    run = subprocess.run(
        [AUDIT, sys.executable], capture_output=True, text=True, timeout=250, cwd=REPOSITORY
    )
    if run.returncode == 75:
        pytest.skip(f"{run.stderr.strip()} {run.stdout.strip().splitlines()[-1]}")
    assert run.returncode == 0, run.stdout
