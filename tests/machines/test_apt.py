"""What the scripts do with apt: pins, mirrors, upgrades and locks, against small archives."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from bake.local.standin.archive import Package
from tests.support.kernel_machine import call, publish, small_machines, upgrades
from tests.support.stage_machines import LIB, Machine

# As the stage `base` does.
BASE = f"""
set -euo pipefail
source {LIB}
update_package_lists
upgrade_system
install_packages tool
"""
NOTES = "/usr/share/bake/installed/base/apt"


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Machine]]:
    with small_machines(tmp_path_factory.mktemp("bake")) as start:
        yield start


def test_of_nvidias_repository_only_what_the_distribution_does_not_have_is_taken(
    start: Callable[[], Machine],
) -> None:
    machine = start()
    shared = ("dkms", "libxnvctrl0", "libnvidia-egl-wayland1", "nvidia-utils-580", "libcuda-x")
    own = ("cuda-toolkit-12-6", "libnccl2", "nvidia-container-toolkit", "libnvidia-container1")
    theirs = [Package(name, "9") for name in (*shared, *own, "nvidia-driver-610")]
    ours = [Package(name, "1") for name in (*shared, "nvidia-container-toolkit")]
    publish(machine, {"Ubuntu": ours})
    machine.read(f"apt-get --yes --quiet install {' '.join(shared)}")
    publish(machine, {"Ubuntu": ours, "NVIDIA CUDA": theirs})
    assert upgrades(machine) == {*shared}, "without pins, everything comes from there"
    assert call(machine, "pin_nvidia_repository").returncode == 0
    assert upgrades(machine) == {"libcuda-x"}
    machine.read(f"apt-get --simulate --yes install {' '.join(own)}")
    assert "(none)" in machine.read("apt-cache policy nvidia-driver-610 | grep Candidate")
    assert "9" in machine.read("apt-cache policy nvidia-container-toolkit | grep Candidate")


def system(version: str) -> list[Package]:
    """An archive with a version of a package that brings another one, as a kernel does."""
    packages = [Package("system", version, f"part-{version}"), Package(f"part-{version}", version)]
    return [*packages, Package("tool", version)]


def test_the_system_is_upgraded_and_a_lock_reproduces_it(start: Callable[[], Machine]) -> None:
    def base_image() -> Machine:
        machine = start()
        publish(machine, {"Ubuntu": system("1")})
        machine.read("apt-get --yes --quiet install system")
        return machine

    def installed(machine: Machine) -> list[str]:
        shown = machine.read("dpkg-query --show 'system' 'part-*' 'tool' | sort")
        return [line.replace("\t", " ") for line in shown.splitlines()]

    machine = base_image()
    publish(machine, {"Ubuntu": system("2")})
    done = machine.script(BASE, "base")
    assert done.returncode == 0, done.stderr
    assert installed(machine) == ["part-1 1", "part-2 2", "system 2", "tool 2"]
    notes = machine.read(f"cat {NOTES}").splitlines()
    assert notes == ["part-2 2", "system 2", "tool 2"]

    later = base_image()
    publish(later, {"Ubuntu": [*system("2"), *system("3")]})
    locked = "\n".join(["# locked", *(f"base {line}" for line in notes)])
    done = later.script(BASE, "base", LOCKED_APT=locked)
    assert done.returncode == 0, done.stderr
    assert installed(later) == installed(machine)


def test_an_upgrade_does_not_depend_on_the_machines_id(start: Callable[[], Machine]) -> None:
    machine = start()
    publish(machine, {"Ubuntu": [Package("one", "1")]})
    machine.read("apt-get --yes --quiet install one")
    machine.read(f"echo 'APT::Machine-ID \"{'0' * 32}\";' > /etc/apt/apt.conf.d/99-machine")
    phased = Package("one", "2", "libc6\nPhased-Update-Percentage: 0")
    publish(machine, {"Ubuntu": [phased]})
    assert upgrades(machine) == set(), "no machine is to be given this version yet"
    done = machine.script(f"set -e; source {LIB}; upgrade_system", "base")
    assert done.returncode == 0, done.stderr
    assert machine.read("dpkg-query --show one") == "one\t2"


def test_the_lists_of_a_checkpoint_are_updated(start: Callable[[], Machine]) -> None:
    machine = start()
    publish(machine, {"Ubuntu": [Package("one", "1"), Package("two", "1")]})
    # They are links to the archive's files.
    machine.read("cp --recursive --dereference /var/lib/apt/lists /var/lib/apt/old-lists")
    publish(machine, {"Ubuntu": [Package("one", "2"), Package("two", "2")]})
    machine.read("rm -r /var/lib/apt/lists /var/cache/apt/*.bin")
    machine.read("mv /var/lib/apt/old-lists /var/lib/apt/lists")
    assert "1" in machine.read("apt-cache policy one | grep Candidate")
    machine.read("rm --force /run/bake-package-lists")  # as a boot does
    done = machine.script(
        f"set -e; source {LIB}; install_packages one; install_packages two", "own"
    )
    assert done.returncode == 0, done.stderr
    assert machine.read("dpkg-query --show one two").split() == ["one", "2", "two", "2"]
    assert done.stdout.count("Building dependency tree") == 2


SERVER = """
import http.server, os, threading, time
os.chdir("/srv/archive/ubuntu")
right = open("Packages").read()
open("Packages", "a").write("\\n# of the next day\\n")
def finish():
    time.sleep(float(os.environ["AFTER_S"]))
    open("Packages", "w").write(right)
threading.Thread(target=finish, daemon=True).start()
handler = http.server.SimpleHTTPRequestHandler
http.server.ThreadingHTTPServer(("127.0.0.1", 8099), handler).serve_forever()
"""


@pytest.mark.parametrize(
    ("after_s", "address", "status", "says"),
    [
        (3, "", 0, "A package mirror is being updated: next attempt in 1 s"),
        (60, "", 1, "error: a package mirror was not consistent for 0 minutes: E: Failed to fetch"),
        (60, "nowhere", 1, "error: apt-get update failed: E: "),
    ],
)
def test_the_lists_of_a_mirror_that_is_being_updated_are_waited_for(
    start: Callable[[], Machine], after_s: int, address: str, status: int, says: str
) -> None:
    machine = start()
    publish(machine, {"Ubuntu": [Package("one", "1")]})
    machine.run("cat > /tmp/server.py", stdin=SERVER.encode())
    machine.read(f"AFTER_S={after_s} setsid python3 /tmp/server.py >/dev/null 2>&1 & sleep 1")
    source = f"deb [trusted=yes] http://127.0.0.1:8099/{address} /"
    machine.read(f"rm -rf /var/lib/apt/lists/*; echo '{source}' > /etc/apt/sources.list")
    limit = 30 if status == 0 else 2
    done = call(machine, f"sync_timeout_s={limit} sync_pause_s=1; update_package_lists")
    assert done.returncode == status, done.stdout + done.stderr
    assert says in done.stdout + done.stderr
    assert ("being updated" in done.stdout) == (address == "")
    found = machine.run("apt-cache show one").returncode
    assert (found == 0) == (status == 0)
