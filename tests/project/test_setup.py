"""The behaviour of `make` on a computer where programs are missing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from invoke.parser import Parser

import tasks
from tests.support.environment import REPOSITORY

NEXT = REPOSITORY / "scripts" / "setup" / "next.sh"
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


@pytest.mark.parametrize("moment", ["setup", "rehearsal"])
@pytest.mark.parametrize("shell", ["/bin/bash", "/usr/bin/zsh", "/usr/bin/fish", ""])
def test_make_ends_with_commands_that_work_in_the_shell_of_the_user(
    moment: str, shell: str
) -> None:
    run = subprocess.run(
        [NEXT, moment], env={"PATH": os.environ["PATH"], "SHELL": shell}, capture_output=True
    )
    assert (run.returncode, run.stderr) == (0, b"")
    lines = [line.strip() for line in run.stdout.decode().splitlines() if line.startswith("  ")]
    assert len(lines) >= 3
    used = Path(shell).name or "bash"
    for line in lines:
        if match := re.search(r"invoke ([^#|)]+)", line):
            Parser(contexts=tasks.namespace.to_contexts()).parse_argv(match[1].split())
        if " completion " in line:
            assert f"invoke completion {used}" in line
    suffix = ".fish" if used == "fish" else ""
    assert lines[0] == f"source .venv/bin/activate{suffix}"
    assert all(len(line) <= 80 for line in run.stdout.decode().splitlines())


def test_each_goal_for_people_tells_what_to_do_next() -> None:
    makefile = (REPOSITORY / "Makefile").read_text()
    for goal in ("setup", "rehearsal"):
        recipe = re.search(rf"^{goal}:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
        assert recipe
        assert recipe[1].splitlines()[-1] == f"\t@scripts/setup/next.sh {goal}"
    assert "invoke local.down" in NEXT.read_text()
