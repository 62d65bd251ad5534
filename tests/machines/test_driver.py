"""The stage `drivers` and its functions, with real apt, dpkg and kmod."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from bake.local.standin.archive import Package
from bake.machine.boot import wait_until_booted
from bake.plan.script import read_script
from bake.verify import system
from tests.support.kernel_machine import (
    KERNEL_LIB,
    PERSISTENCED,
    call,
    driver,
    fabric_manager,
    give_kernel,
    kernel,
    module,
    publish,
    small_machines,
    upgrades,
)
from tests.support.stage_machines import SCRIPTS, Machine
from tests.support.systemd_machines import base_layer, systemd_machines

OLD, RUNNING, NEXT = (f"5.4.0-{number}-aws" for number in (1100, 1103, 1110))
# It forks, as the real one does.
DAEMON = 'echo "$@" > /run/arguments; sleep infinity & disown\n'
BUILD = r"""
mkdir -p /usr/src/{name}-1.0 && cd /usr/src/{name}-1.0
echo 'obj-m := {name}.o' > Makefile
printf '#include <linux/module.h>\n{code}\nMODULE_LICENSE("GPL");\n' > {name}.c
printf '%s\n' PACKAGE_NAME={name} PACKAGE_VERSION=1.0 'BUILT_MODULE_NAME[0]={name}' > dkms.conf
echo 'DEST_MODULE_LOCATION[0]=/updates' >> dkms.conf
dkms install {name}/1.0 -k "$(ls /lib/modules)"
"""
PARTS = (
    "nvidia-headless-no-dkms-470-server nvidia-utils-470-server libnvidia-decode-470-server "
    "libnvidia-encode-470-server"
)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Machine]]:
    with small_machines(tmp_path_factory.mktemp("bake")) as start:
        yield start


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


def test_the_headers_are_installed_while_the_archive_has_them(
    start: Callable[[], Machine],
) -> None:
    """As on Debian, whose images have a kernel without its headers."""
    machine = start()
    names = ["build-essential", "bzip2", "ca-certificates", "curl"]
    names += ["git", "gnupg", "rsync", "unzip"]
    tools = [Package(name, "0") for name in names]
    publish(machine, {"Debian": [*archive("470.256.02"), *tools]})
    machine.read("apt-get --yes --quiet install linux-image-aws")
    give_kernel(machine, RUNNING)
    body = (SCRIPTS / "stages" / "base.sh").read_text()
    given = {
        "OS_ID": "ubuntu-18.04",
        "OS_MIRROR": "",
        "OS_SECURITY_MIRROR": "",
        "APT_PACKAGES": "",
        "DNF_PACKAGES": "",
    }
    done = machine.script(body, "base", **given, BAKE_LIB=KERNEL_LIB)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "must reboot" not in done.stdout

    publish(machine, {"Debian": [*archive("470.256.02", newest=NEXT), *tools]})
    done = install(machine)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"kernel {RUNNING}: nvidia 470.256.02" in done.stdout


def test_a_machine_that_would_boot_another_kernel_is_refused(machine: Machine) -> None:
    give_kernel(machine, OLD)
    done = install(machine)
    assert done.returncode == 1
    said = f"the machine runs the kernel {OLD}, and its next boot starts {RUNNING}"
    assert said in done.stderr


def test_persistence_mode_is_on_from_the_boot_on() -> None:
    """systemd starts the daemon as Ubuntu's and Debian's packages do, but with persistence mode."""
    program = f"#!/bin/bash\n{DAEMON}"
    with systemd_machines() as machines:
        machine = machines.boot()
        machine.run("cat > /usr/bin/nvidia-persistenced", stdin=program.encode())
        machine.read("chmod +x /usr/bin/nvidia-persistenced")
        machine.run("cat > /lib/systemd/system/nvidia-persistenced.service", stdin=PERSISTENCED)
        machine.read("systemctl daemon-reload")
        done = call(machine, "enable_persistence")
        assert done.returncode == 0, done.stderr
        machine = machines.boot(machines.shut_down(machine))
        wait_until_booted(SimpleNamespace(run=lambda command, **_: machine.read(command)))  # type: ignore[arg-type]
        said = machine.read("systemctl is-active nvidia-persistenced; cat /run/arguments")
        assert said.split() == ["active", "--user", "nvidia-persistenced", "--verbose"]


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


def test_dkms_leaves_the_log_of_a_build_that_fails_and_of_no_other() -> None:
    with systemd_machines() as machines:
        machine = machines.disk(base_layer(machines.engine))
        assert machine.run(BUILD.format(name="broken", code="no C at all")).returncode != 0
        done = call(machine, "print_failed_builds")
        assert done.returncode == 0
        assert "the end of /var/lib/dkms/broken/1.0/build/make.log ----" in done.stderr
        assert "broken.c:2:1: error: unknown type name" in done.stderr
        machine.read("dkms remove broken/1.0 --all")
        assert machine.run(BUILD.format(name="sound", code="")).returncode == 0
        done = call(machine, "print_failed_builds")
        assert (done.returncode, done.stderr) == (1, "")


def test_the_log_of_a_module_that_cannot_be_built_is_shown(machine: Machine) -> None:
    machine.read("mkdir -p /var/lib/dkms/nvidia/470.256.02/build")
    machine.read("echo 'error: no member' > /var/lib/dkms/nvidia/470.256.02/build/make.log")
    done = install(machine, DRIVER_KERNEL_PACKAGES="package-that-fails")
    assert done.returncode == 1
    assert "make.log ----\nerror: no member\nerror: a kernel module could not be" in done.stderr
