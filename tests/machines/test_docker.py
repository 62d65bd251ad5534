"""The stage `docker` with Debian's real Docker: its daemon runs containers, and leaves no id."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bake.verify import check_clean
from tests.support.environment import REPOSITORY
from tests.support.stage_machines import SCRIPTS, Machine
from tests.support.systemd_machines import Machines, RootShell, systemd_machines

pytestmark = pytest.mark.soak  # it downloads 60 MB from Debian's archive

USER = "admin"
IDS = "ls /etc/docker/key.json /var/lib/docker/engine-id"
# What Docker itself needs to make containers on a machine that is a container.
NESTED = ["--cap-add", "NET_ADMIN,NET_RAW,MKNOD,AUDIT_WRITE"]
CGROUPS = Path("/sys/fs/cgroup")
if not (CGROUPS / "cgroup.controllers").exists():  # control groups of version 1
    # Each hierarchy, but not the folder of them: systemd would change this computer's own one.
    NESTED += ["--cgroupns", "host", "--tmpfs", f"{CGROUPS}:rw,mode=755"]
    for hierarchy in sorted(filter(Path.is_mount, CGROUPS.iterdir())):
        NESTED += ["--volume", f"{hierarchy}:{hierarchy}:rw"]


def stage(machine: Machine, name: str) -> str:
    done = machine.script((SCRIPTS / "stages" / f"{name}.sh").read_text(), name, LOGIN_USER=USER)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    with systemd_machines() as machines:
        yield machines


@pytest.fixture(scope="module")
def machine(machines: Machines) -> Iterator[Machine]:
    before, hierarchies = set(CGROUPS.glob("*/docker")), sorted(CGROUPS.iterdir())
    machine = machines.boot(options=NESTED)
    machine.read(f"useradd --create-home --shell /bin/bash {USER}")
    print(stage(machine, "docker"))
    yield machine
    for group in set(CGROUPS.glob("*/docker")) - before:  # of this computer, in version 1
        group.rmdir()
    assert sorted(CGROUPS.iterdir()) == hierarchies


def test_docker_starts_at_boot_and_runs_a_container_for_the_login_user(machine: Machine) -> None:
    assert machine.read("systemctl is-enabled docker; systemctl is-active docker") == (
        "enabled\nactive"
    )
    body = (REPOSITORY / "scripts/checks/docker.sh").read_bytes()
    done = machine.run("export BAKE_GPUS=0; bash -s", user=USER, stdin=body)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(" runs a container\n")
    assert machine.read("docker image ls --quiet; docker container ls --all --quiet") == ""


def test_the_second_run_changes_nothing(machine: Machine) -> None:
    before = machine.read("docker info --format '{{.ID}}'; stat --format %Y /etc/group")
    stage(machine, "docker")
    assert machine.read("docker info --format '{{.ID}}'; stat --format %Y /etc/group") == before


def test_the_id_of_docker_is_not_in_the_image(machines: Machines, machine: Machine) -> None:
    assert machine.run(IDS).stdout
    stage(machine, "seal")
    disk = machines.disk(machines.shut_down(machine))
    assert disk.run(IDS).stdout == ""
    check_clean(RootShell(disk))
