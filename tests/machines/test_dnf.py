"""What the scripts do on Amazon Linux: real dnf, rpm and gpg, with small signed packages."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.support.dnf_machine import KEY, Rpm, dnf_machine, publish
from tests.support.kernel_machine import LIB_WITH_KERNEL, PERSISTENCED, module
from tests.support.stage_machines import LIB, SCRIPTS, Machine

KERNEL = "6.1.159-181.amzn2023.x86_64"
NVIDIA = {
    "NVIDIA_MIRROR": "https://example.org/cuda",
    "NVIDIA_REPOSITORY": "amzn2023/x86_64",
}
# What this machine does not have: a network, a kernel, and systemd.
HERE = f"""{LIB_WITH_KERNEL.format(lib=LIB, kernel=KERNEL)}
fetch() {{ cp /srv/keys/public "$2"; }}
dracut() {{ :; }}
dnf_source() {{
    printf "%s\\n" "[$1]" name=x baseurl=file:///srv/nvidia gpgcheck=1 "gpgkey=file://$3" |
        write_file "/etc/yum.repos.d/$1.repo"
}}
"""
HERE_LIB = "/run/bake/here.sh"
STREAM = """---
document: modulemd
version: 2
data:
  name: nvidia-driver
  stream: {branch}-open
  version: 1
  context: c0ffee
  arch: x86_64
  summary: test
  description: test
  license:
    module: [MIT]
  artifacts:
    rpms:
{artifacts}
...
"""


def system(version: str) -> list[Rpm]:
    names = ("gcc", "gcc-c++", "make", "git", "rsync", "unzip", "bzip2", "ca-certificates")
    more = ("gnupg2-minimal", "libgomp", "libquadmath", "tool", "held")
    provided = Rpm("curl-minimal", version, provides=("curl = 8",))
    return [*(Rpm(name, version) for name in (*names, *more)), provided, Rpm("curl", version)]


def of_kernel(name: str) -> Rpm:
    version, _, release = KERNEL.removesuffix(".x86_64").partition("-")
    own = {"kernel": {f"/boot/vmlinuz-{KERNEL}": "k", f"/lib/modules/{KERNEL}/kernel/x": ""}}
    return Rpm(name, version, release, files=own.get(name, {}))


def driver(version: str) -> list[Rpm]:
    tool, unit = "/usr/bin/nvidia-smi", "/usr/lib/systemd/system/nvidia-persistenced.service"
    return [
        Rpm("nvidia-driver-cuda", version, files={tool: "#!/bin/sh\n"}),
        Rpm("nvidia-persistenced", version, files={unit: PERSISTENCED.decode()}),
        Rpm("kmod-nvidia-open-dkms", version, requires=("dkms",)),
        Rpm("nvidia-fabricmanager", version),
    ]


@pytest.fixture(scope="module")
def machine_and_key() -> Iterator[tuple[Machine, str]]:
    with dnf_machine() as (machine, key):
        publish(machine, "/srv/os", [*system("1"), *map(of_kernel, KERNELS)])
        source = f"[os]\nname=os\nbaseurl=file:///srv/os\ngpgcheck=1\ngpgkey=file://{KEY}\n"
        machine.run("cat >/etc/yum.repos.d/os.repo", stdin=source.encode())
        machine.read("dnf --assumeyes --quiet install curl-minimal held kernel")
        yield machine, key


KERNELS = ("kernel", "kernel-devel", "kernel-modules-extra")


@pytest.fixture
def machine(machine_and_key: tuple[Machine, str]) -> Machine:
    return machine_and_key[0]


def call(machine: Machine, commands: str, **given: str) -> subprocess.CompletedProcess[str]:
    return machine.script(f"set -euo pipefail; source {LIB}\n{commands}", "own", **given)


def read(machine: Machine, commands: str, **given: str) -> str:
    done = call(machine, commands, **given)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def test_the_names_of_the_stages_are_those_of_amazon_linux(machine: Machine) -> None:
    wanted = "build-essential curl gnupg libgomp1 libquadmath0 git"
    read(machine, f"install_packages {wanted}\nfor name in {wanted}; do is_installed $name; done")
    notes = machine.read("cat /usr/share/bake/installed/own/dnf").splitlines()
    names = [line.split()[0] for line in notes]
    assert names == ["gcc", "gcc-c++", "git", "gnupg2-minimal", "libgomp", "libquadmath", "make"]
    assert "held 1-1.amzn2023" in machine.read("cat /usr/share/bake/base-image/dnf").splitlines()
    assert read(machine, "version_of git; release_of git; version_of nothing") == (
        "1-1.amzn2023\n1"
    )
    assert call(machine, "is_installed docker.io").returncode != 0


def test_what_the_archive_does_not_have_fails_with_dnfs_words(machine: Machine) -> None:
    done = call(machine, "install_packages unheard-of")
    assert done.returncode == 1
    assert "unheard-of" in done.stdout + done.stderr


def test_a_package_that_is_not_signed_with_the_key_is_refused(machine: Machine) -> None:
    machine.read("cp -r /srv/os /srv/other; rpmsign --delsign /srv/other/x86_64/tool-1*")
    machine.read("createrepo_c --quiet /srv/other")
    source = f"dnf_source other file:///srv/other {KEY}\ninstall_packages"
    try:
        machine.read("mv /etc/yum.repos.d/os.repo /tmp")
        done = call(machine, f"{source} tool")
        assert done.returncode == 1
        assert "not signed" in done.stdout + done.stderr
    finally:
        machine.read("mv /tmp/os.repo /etc/yum.repos.d; rm /etc/yum.repos.d/other.repo")


def test_an_upgrade_leaves_held_packages_alone(machine: Machine) -> None:
    read(machine, "install_packages tool; hold_packages held")
    publish(machine, "/srv/os", [*system("2"), *map(of_kernel, KERNELS)])
    read(machine, "update_package_lists; upgrade_system")
    assert read(machine, "version_of tool; version_of held") == "2-1.amzn2023\n1-1.amzn2023"


def test_a_lock_is_refused(machine: Machine) -> None:
    done = call(machine, "install_packages tool", LOCKED_APT="# locked")
    assert done.returncode == 1
    assert "cannot be locked" in done.stderr


def test_the_driver_is_of_its_branch_and_held_with_the_kernel(
    machine_and_key: tuple[Machine, str],
) -> None:
    machine, key = machine_and_key
    streams = {"580": "580.105.08", "595": "595.91.07"}
    packages = [Rpm("dkms", "3")] + [
        each for version in streams.values() for each in driver(version)
    ]
    modules = "".join(
        STREAM.format(
            branch=branch,
            artifacts="\n".join(
                f"    - {each.name}-0:{version}-{each.release}.x86_64" for each in driver(version)
            ),
        )
        for branch, version in streams.items()
    )
    publish(machine, "/srv/nvidia", packages, modules)
    nvidia = f"/lib/modules/{KERNEL}/updates/dkms/nvidia.ko"  # DKMS would build it
    machine.run(f"install -D /dev/stdin {nvidia}; depmod {KERNEL}", stdin=module("580.105.08"))
    machine.run(f"mkdir -p /run/bake; cat >{HERE_LIB}", stdin=HERE.encode())
    inputs = {
        "OS_ID": "amazon-linux-2023",
        "DRIVER_BRANCH": "580",
        "DRIVER_USERLAND_PACKAGES": "nvidia-driver-cuda",
        "DRIVER_KERNEL_PACKAGES": "kmod-nvidia-open-dkms nvidia-persistenced",
        "DRIVER_HOLD_KERNEL": "yes",
        "FABRIC_MANAGER_PACKAGES": "nvidia-fabricmanager",
        "NVIDIA_KEY_FINGERPRINT": key,
        "BAKE_LIB": HERE_LIB,
        **NVIDIA,
    }
    stage = (SCRIPTS / "stages/drivers.sh").read_text()
    done = machine.script(stage, "drivers", **inputs)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "NVIDIA driver 580.105.08 (nvidia-driver-cuda)" in done.stdout
    held = machine.read("dnf --quiet versionlock list")
    for name in ("kernel", "kernel-devel", "dkms", "kmod-nvidia-open-dkms", "nvidia-driver-cuda"):
        assert f"{name}-" in held
    again = machine.script(stage, "drivers", **inputs)
    assert again.returncode == 0, again.stdout + again.stderr

    missing = machine.script(stage, "drivers", **inputs | {"DRIVER_BRANCH": "470"})
    assert "has no driver 470 (open)" in missing.stderr
    other = machine.script(stage, "drivers", **inputs | {"NVIDIA_KEY_FINGERPRINT": "0" * 40})
    assert f"and not the key {'0' * 40}" in other.stderr
