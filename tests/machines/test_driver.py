"""The stage `drivers` and its functions, with real apt, dpkg and kmod."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

import pytest

from bake.local import standin
from bake.local.standin.archive import Package
from bake.plan.script import read_script
from bake.recipe.resolved import resolve
from bake.verify import system
from tests.support.environment import CACHE
from tests.support.kernel_machine import (
    KERNEL_LIB,
    driver,
    fabric_manager,
    give_kernel,
    kernel,
    module,
    publish,
)
from tests.support.stage_machines import LIB, SCRIPTS, Machine, find, machines

OLD, RUNNING, NEXT = (f"5.4.0-{number}-aws" for number in (1100, 1103, 1110))
PARTS = (
    "nvidia-headless-no-dkms-470-server nvidia-utils-470-server libnvidia-decode-470-server "
    "libnvidia-encode-470-server"
)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Machine]]:
    """Return a function that starts a machine whose only archives are those of the test."""
    recipe = find("mxnet-cu101")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BAKE_CACHE", str(CACHE))
        patch.setenv("BAKE_HOME", str(tmp_path_factory.mktemp("bake")))
        payload = standin.up(resolve(recipe))
        with machines() as start:
            yield lambda: start(recipe, payload)
        standin.down()


@pytest.fixture
def machine(start: Callable[[], Machine]) -> Machine:
    """A machine that runs a kernel, and has an older one that its base image came with."""
    machine = start()
    publish(machine, {"Ubuntu": archive("470.256.02")})
    machine.read(f"apt-get --yes --quiet install linux-aws linux-image-{OLD} linux-base")
    give_kernel(machine, RUNNING)
    return machine


def archive(*versions: str, newest: str = RUNNING, fabric: str = "470.256.02") -> list[Package]:
    """An archive with drivers, kernels and Fabric Manager."""
    kernels = [*kernel(OLD)[:3], *kernel(newest)]
    drivers = [part for version in versions for part in driver("470", version, [RUNNING])]
    rest = [fabric_manager("470", fabric), Package("dkms", "2.8.1-1"), Package("linux-base", "4")]
    return [*kernels, *drivers, *rest]


def install(machine: Machine, **changed: str) -> subprocess.CompletedProcess[str]:
    given = {
        "OS_ID": "ubuntu-18.04",
        "DRIVER_BRANCH": "470",
        "DRIVER_USERLAND_PACKAGES": PARTS,
        "DRIVER_KERNEL_PACKAGES": "nvidia-dkms-470-server linux-headers-aws",
        "DRIVER_HOLD_KERNEL": "yes",
        "FABRIC_MANAGER_PACKAGES": "nvidia-fabricmanager-470",
        "BAKE_LIB": KERNEL_LIB,
    }
    assert {*given, *changed} - {"BAKE_LIB"} <= {*read_script(SCRIPTS / "stages/drivers.sh").inputs}
    body = (SCRIPTS / "stages" / "drivers.sh").read_text()
    return machine.script(body, "drivers", **given | changed)


def call(machine: Machine, function: str) -> subprocess.CompletedProcess[str]:
    """Call a function of lib.sh as a stage does."""
    return machine.script(f"set -euo pipefail; source {LIB}\n{function}")


def upgrades(machine: Machine, option: str = "--with-new-pkgs") -> set[str]:
    said = machine.read(f"apt-get --simulate {option} upgrade")
    return {line.split()[1] for line in said.splitlines() if line.startswith("Inst ")}


def test_a_users_upgrade_changes_neither_the_driver_nor_the_kernel(machine: Machine) -> None:
    done = install(machine)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"kernel {RUNNING}: nvidia 470.256.02" in done.stdout
    publish(machine, {"Ubuntu": archive("470.256.02", "470.300.01", newest=NEXT)})
    assert upgrades(machine) == set()
    machine.read("apt-mark unhold 'linux-*'")
    assert {"linux-aws", f"linux-image-{NEXT}"} <= upgrades(machine), "nothing was to be held"
    held = machine.read("apt-mark showhold").split()
    assert {"dkms", "nvidia-fabricmanager-470", *PARTS.split()} <= {*held}


def test_a_recipe_may_leave_the_kernel_free(machine: Machine) -> None:
    assert install(machine, DRIVER_HOLD_KERNEL="no").returncode == 0
    publish(machine, {"Ubuntu": archive("470.256.02", "470.300.01", newest=NEXT)})
    free = {"linux-aws", "linux-image-aws", "linux-headers-aws", f"linux-image-{NEXT}"}
    assert free <= upgrades(machine)
    assert not [name for name in upgrades(machine) if "nvidia" in name]


def test_kernels_that_never_run_again_are_removed(machine: Machine) -> None:
    assert machine.read(f"ls /boot/vmlinuz-{OLD}")
    assert install(machine).returncode == 0
    assert machine.read("ls /boot") == f"vmlinuz-{RUNNING}"
    left = machine.read(
        "dpkg-query --show --showformat '${db:Status-Abbrev} ${Package}\\n' 'linux-*'"
    )
    assert OLD not in left
    assert "ii  linux-base" in left


def test_a_machine_that_would_boot_another_kernel_is_refused(machine: Machine) -> None:
    give_kernel(machine, OLD)
    done = install(machine)
    assert done.returncode == 1
    said = f"the machine runs the kernel {OLD}, and its next boot starts {RUNNING}"
    assert said in done.stderr


def test_persistence_mode_is_on_from_the_boot_on(machine: Machine) -> None:
    assert install(machine).returncode == 0
    unit = machine.read("cat /etc/systemd/system/nvidia-persistenced.service.d/bake.conf")
    start = "ExecStart=/usr/bin/nvidia-persistenced --user nvidia-persistenced --verbose"
    assert unit.splitlines() == ["[Service]", "ExecStart=", start]


def test_a_driver_is_chosen_whose_fabric_manager_is_in_the_archive(machine: Machine) -> None:
    fabric = "470.239.06"
    publish(machine, {"Ubuntu": archive("470.239.06", "470.256.02", fabric=fabric)})
    done = install(machine)
    assert done.returncode == 0, done.stdout + done.stderr
    versions = machine.read("dpkg-query --show '*nvidia*'").splitlines()
    assert len(versions) == 8
    assert all(line.endswith("470.239.06-0ubuntu1") for line in versions), versions
    assert machine.run("ls /etc/apt/preferences.d/bake-driver").returncode != 0


def test_a_fabric_manager_that_lags_behind_every_driver_is_named(machine: Machine) -> None:
    publish(machine, {"Ubuntu": archive("470.256.02", fabric="470.239.06")})
    done = install(machine)
    assert done.returncode == 1
    assert f"no common version of {PARTS} and nvidia-fabricmanager-470" in done.stderr


def test_every_kernel_that_can_boot_needs_the_drivers_module(machine: Machine) -> None:
    assert install(machine).returncode == 0
    machine.read(f"mkdir -p /lib/modules/{NEXT}; touch /boot/vmlinuz-{NEXT}")
    machine.read("mkdir -p /var/lib/dkms/nvidia/470.256.02/build")
    machine.read("seq 1 99 > /var/lib/dkms/nvidia/470.256.02/build/make.log")
    done = call(machine, "check_modules 470.256.02")
    assert done.returncode == 1
    assert f"no nvidia module was built for the kernel {NEXT}" in done.stderr
    assert (
        "---- the end of /var/lib/dkms/nvidia/470.256.02/build/make.log ----\n60\n" in done.stderr
    )
    other = f"/lib/modules/{NEXT}/updates/dkms"
    machine.run(f"mkdir -p {other}; cat > {other}/nvidia.ko", stdin=module("470.1.2"))
    machine.read(f"depmod {NEXT}")
    done = call(machine, "check_modules 470.256.02")
    assert f"the nvidia module for {NEXT} is 470.1.2, but the libraries" in done.stderr


def test_debians_name_of_the_module_is_found(machine: Machine) -> None:
    other = f"/lib/modules/{NEXT}/updates/dkms"
    machine.run(f"mkdir -p {other}; cat > {other}/nvidia-current.ko", stdin=module("535.309.01"))
    machine.read(f"touch /boot/vmlinuz-{NEXT}; rm /boot/vmlinuz-5.4*-110?-*; depmod {NEXT}")
    assert machine.run(f"modinfo --set-version {NEXT} nvidia").returncode != 0
    assert call(machine, f"module_of {NEXT}").stdout == "nvidia-current\n"
    done = call(machine, "check_modules 535.309.01")
    assert done.stdout == f"kernel {NEXT}: nvidia-current 535.309.01\n", done.stderr


def test_the_proof_reads_the_kernels_in_their_order_and_their_modules(machine: Machine) -> None:
    assert install(machine).returncode == 0
    other = f"/lib/modules/{NEXT}/updates/dkms"
    machine.run(f"mkdir -p {other}; cat > {other}/nvidia-current.ko", stdin=module("535.309.01"))
    machine.read(f"touch /boot/vmlinuz-{NEXT} /boot/vmlinuz-{OLD} /boot/initrd; depmod {NEXT}")
    machine.read(f"mkdir -p /lib/modules/{OLD}")
    said = machine.read(system.KERNELS, user="ubuntu").splitlines()
    assert said[0] == "container"
    assert said[2:] == [
        f"kernel {OLD} ",
        f"kernel {RUNNING} 470.256.02",
        f"kernel {NEXT} 535.309.01",
    ]
    publish(machine, {"Ubuntu": archive("470.256.02", "470.300.01", newest=NEXT)})
    assert "Inst" not in machine.read(system.UPGRADES, user="ubuntu")


def test_the_log_of_a_module_that_cannot_be_built_is_shown(machine: Machine) -> None:
    machine.read("mkdir -p /var/lib/dkms/nvidia/470.256.02/build")
    machine.read("echo 'error: no member' > /var/lib/dkms/nvidia/470.256.02/build/make.log")
    done = install(machine, DRIVER_KERNEL_PACKAGES="package-that-fails")
    assert done.returncode == 1
    assert "make.log ----\nerror: no member\nerror: a kernel module could not be" in done.stderr


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
