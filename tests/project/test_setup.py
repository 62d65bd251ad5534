"""The behaviour of `make` on a computer where programs are missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.environment import REPOSITORY

SCRIPT = REPOSITORY / "scripts" / "setup" / "system-packages.sh"


def run(path: Path, goal: str = "rehearsal") -> subprocess.CompletedProcess[str]:
    """Run the script on a computer that has only the programs of the folder."""
    environment = {"PATH": str(path), "PYTHON": sys.executable}
    return subprocess.run(
        ["/bin/bash", SCRIPT, goal], env=environment, capture_output=True, text=True
    )


def program(path: Path, name: str, body: str = "exit 0") -> None:
    file = path / name
    file.write_text(f"#!/bin/bash\n{body}\n")
    file.chmod(0o755)


def test_what_is_missing_and_cannot_be_installed_is_named_with_the_command(tmp_path: Path) -> None:
    said = run(tmp_path)
    assert said.returncode == 1
    assert "apt-get not found" in said.stderr
    assert "apt-get install --no-install-recommends" in said.stderr
    for package in ("podman", "slirp4netns", "mmdebstrap", "openssh-client"):
        assert package in said.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="without root it is sudo that installs")
def test_what_is_missing_is_installed_where_it_may_be(tmp_path: Path) -> None:
    calls = tmp_path / "calls"
    program(tmp_path, "apt-get", f'echo "$@" >> {calls}')
    for there in ("ssh", "gpg", "podman"):
        program(tmp_path, there)
    assert run(tmp_path, "test").returncode == 0
    update, install = calls.read_text().splitlines()
    assert update.startswith("update")
    packages = install.split()
    needed = {"runc", "slirp4netns", "mmdebstrap", "packer", "rsync", "nodejs", "npm", "zsh"}
    assert needed <= set(packages)
    assert not {"podman", "openssh-client", "gnupg"} & set(packages)


def test_with_a_docker_that_runs_podman_is_not_asked_for(tmp_path: Path) -> None:
    program(tmp_path, "docker")
    said = run(tmp_path)
    assert "podman" not in said.stderr.split("Elsewhere")[0]


def test_with_everything_there_nothing_is_said_or_done(tmp_path: Path) -> None:
    everything = ("python3 ssh mmdebstrap gpg dpkg-deb apt-ftparchive curl rsync podman runc "
                  "slirp4netns newuidmap fuse-overlayfs")  # fmt: skip
    for name in everything.split():
        program(tmp_path, name)
    said = run(tmp_path)
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")
