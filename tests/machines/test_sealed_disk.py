"""The disk of an image: what real services write until the machine is off is not on it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from bake.errors import VerificationError
from bake.verify import check_clean
from tests.support.stage_machines import Machine
from tests.support.systemd_machines import Machines, RootShell, systemd_machines

# A tiny kernel module, built by DKMS for Debian's cloud kernel, as the NVIDIA driver's is.
BUILD_A_MODULE = r"""
mkdir -p /usr/src/tiny-1.0 && cd /usr/src/tiny-1.0
echo 'obj-m := tiny.o' > Makefile
printf '#include <linux/module.h>\nMODULE_LICENSE("GPL");\n' > tiny.c
printf 'PACKAGE_NAME=tiny\nPACKAGE_VERSION=1.0\nBUILT_MODULE_NAME[0]=tiny\n' > dkms.conf
printf 'DEST_MODULE_LOCATION[0]=/updates\n' >> dkms.conf
dkms remove tiny/1.0 --all > /dev/null 2>&1
dkms install tiny/1.0 -k "$(ls /lib/modules)"
"""

# The SSM agent is in no archive that can be reached here. This service has the agent's unit, and
# writes where the agent does: all the time, and when it is stopped. Its workers, one of them for a
# session, outlive the service.
AGENT_UNIT = """[Service]
ExecStart=/usr/bin/amazon-ssm-agent
KillMode=process
"""
AGENT = r"""#!/bin/bash
state=/var/lib/amazon/ssm/i-0123456789abcdef0
write() {
    [[ -d $state/$1 && -d /var/log/amazon/ssm ]] || mkdir -p "$state/$1" /var/log/amazon/ssm
    echo data > "$state/$1/data"
    echo data >> /var/log/amazon/ssm/amazon-ssm-agent.log
}
every() { while :; do write "$1"; sleep 0.05 & wait; done; }
[[ ${0##*/} != *-worker ]] || every "${0##*/}"
/usr/bin/ssm-agent-worker &
[[ ! -e /run/session ]] || /usr/bin/ssm-session-worker &
trap 'write stopped; exit' TERM
every channels
"""
START_THE_AGENT = """
chmod 755 /usr/bin/amazon-ssm-agent /usr/bin/ssm-agent-worker /usr/bin/ssm-session-worker
mkdir -p /var/lib/amazon/ssm/Vault; echo key > /var/lib/amazon/ssm/Vault/RegistrationKey
systemctl daemon-reload; systemctl start amazon-ssm-agent
"""

# snapd after it has registered the machine with the store.
SNAPD = {
    "data": {
        "auth": {
            "last-id": 0,
            "users": None,
            "device": {
                "brand": "generic",
                "model": "generic-classic",
                "serial": "0a1b2c3d-0000-1111-2222-333344445555",
                "key-id": "k3y",
                "session-macaroon": "MDAxMWxvY2F0aW9u",
            },
            "macaroon-key": "c2VjcmV0",
        },
        "seeded": True,
    },
    "changes": {},
    "tasks": {},
    "last-change-id": 7,
}
SERIAL = "/var/lib/snapd/assertions/asserts-v0/serial/generic/generic-classic/0a1b/active"
KEY = "/var/lib/snapd/device/private-keys-v1/k3y"
STATE = "/var/lib/snapd/state.json"
KEYS = "/var/lib/dkms/mok.key /var/lib/fwupd/pki/secret.key"


def write(machine: Machine, path: str, text: str) -> None:
    done = machine.run(f"mkdir -p $(dirname {path}); cat > {path}", stdin=text.encode())
    assert done.returncode == 0, done.stderr


def findings(machine: Machine) -> str:
    """Return what an image of the machine must not contain; fails if there is nothing."""
    with pytest.raises(VerificationError) as caught:
        check_clean(RootShell(machine))
    return "\n".join(caught.value.details)


def use(machine: Machine) -> None:
    """Use the machine as a bake does: services run, and a driver is built."""
    machine.read(BUILD_A_MODULE)
    machine.read("systemctl start fwupd")
    machine.read("/lib/open-iscsi/startup-checks.sh")
    machine.read("logger --tag builder something")


def use_an_agent(machine: Machine) -> None:
    """Start the agent; if /run/session exists, it carries a session."""
    write(machine, "/lib/systemd/system/amazon-ssm-agent.service", AGENT_UNIT)
    for name in ("amazon-ssm-agent", "ssm-agent-worker", "ssm-session-worker"):
        write(machine, f"/usr/bin/{name}", AGENT)
    machine.read(START_THE_AGENT)


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    with systemd_machines() as machines:
        yield machines


@dataclass(frozen=True)
class Sealed:
    """The image of a builder that was used, sealed and shut down, and what was on it before."""

    image: str
    before: str
    keys: str


@pytest.fixture(scope="module")
def sealed(machines: Machines) -> Sealed:
    builder = machines.boot()
    use(builder)
    use_an_agent(builder)
    builder.read("umount /etc/hostname; echo ip-172-31-7-9 > /etc/hostname")
    builder.read("systemctl stop snapd.socket snapd.service")
    for path, text in {STATE: json.dumps(SNAPD), SERIAL: "type: serial", KEY: "a key"}.items():
        write(builder, path, text)
    before, keys = findings(builder), builder.read(f"cat {KEYS}")
    assert "sealed" in builder.bake("seal")
    check_clean(RootShell(builder), allow_session=True)
    # A request over D-Bus, or a login, does not start again what was stopped.
    call = "busctl call org.freedesktop.fwupd / org.freedesktop.fwupd GetDevices"
    assert "masked" in builder.run(call).stderr
    builder.run("systemctl start snapd.socket rsyslog amazon-ssm-agent unattended-upgrades")
    check_clean(RootShell(builder), allow_session=True)
    return Sealed(machines.shut_down(builder), before, keys)


def test_what_services_write_until_the_machine_is_off_is_not_on_the_image_s_disk(
    machines: Machines, sealed: Sealed
) -> None:
    for path in (
        *("/var/lib/dkms/mok.key", "/var/lib/dkms/mok.pub", "/var/lib/fwupd/pki/secret.key"),
        *("/var/lib/fwupd/pki/client.pem", "/var/lib/systemd/random-seed", "/var/log/wtmp"),
        *("/etc/iscsi/initiatorname.iscsi", "/etc/machine-id", "/etc/hostname", KEY, SERIAL),
        *("/var/lib/amazon/ssm/Vault/RegistrationKey", "/var/log/syslog"),
    ):
        assert path in sealed.before
    disk = machines.disk(sealed.image)
    checks = check_clean(RootShell(disk))
    assert "failed" not in {check.outcome for check in checks}
    # snapd keeps everything but the machine's identity.
    state = json.loads(disk.read(f"cat {STATE}"))
    assert state["data"]["auth"].pop("device") == {"brand": "generic", "model": "generic-classic"}
    assert state["data"]["seeded"] is True
    assert state["last-change-id"] == 7
    assert disk.read(f"stat --format %a {STATE}") == "600"
    # Nothing of the seal is left: what it has stopped runs at the next boot.
    assert not disk.read("find /etc/systemd /usr/lib/systemd /run -name '*bake*'")
    assert not disk.read("find /etc/systemd -lname /dev/null")


def test_a_machine_from_the_image_makes_its_own_keys(machines: Machines, sealed: Sealed) -> None:
    launched = machines.boot(sealed.image)
    assert "active" in launched.read("systemctl is-active rsyslog systemd-random-seed")
    use(launched)
    launched.read("snap list")  # snapd accepts the state that the seal has left
    keys = launched.read(f"cat {KEYS}")
    assert keys.count("PRIVATE KEY") == sealed.keys.count("PRIVATE KEY") == 4
    assert not set(keys.splitlines()[1:4]) & set(sealed.keys.splitlines())
    traces = sealed.keys.splitlines()[1:4]
    checks = check_clean(RootShell(launched), allow_session=True, booted=True, traces=traces)
    assert "failed" not in {check.outcome for check in checks}
    # Without the seal, the disk contains what the shutdown writes.
    launched.read("rm -f /var/lib/systemd/random-seed; truncate --size 0 /var/log/wtmp")
    found = findings(machines.disk(machines.shut_down(launched)))
    for path in ("/var/lib/systemd/random-seed", "/var/log/wtmp", "/var/lib/dkms/mok.key"):
        assert path in found


def test_an_agent_with_an_open_session_stays_until_the_shutdown(machines: Machines) -> None:
    builder = machines.boot()
    builder.read("touch /run/session")
    use_an_agent(builder)
    assert "sealed" in builder.bake("seal")
    assert builder.read("systemctl is-active amazon-ssm-agent") == "active"
    assert builder.read("ls /var/lib/amazon/ssm/Vault /var/lib/amazon/ssm/i-*/ssm-session-worker")
    check_clean(RootShell(builder), allow_session=True)
    assert "/var/lib/amazon/ssm" in findings(builder)
    check_clean(RootShell(machines.disk(machines.shut_down(builder))))
