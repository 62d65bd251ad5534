"""A checkpoint holds no key: what is on a real machine's disk while it is held, and afterwards."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest

from bake import threads
from bake.aws.user_data import user_data
from bake.errors import ConnectError, RemoteError
from bake.local import control
from bake.local.machines.os_images import STAND_IN_OWNER
from bake.ssh import hold as holding
from bake.ssh import keys
from bake.ssh.connection import Connection, connect
from bake.ssh.hold import hold
from bake.threads import TaskGroup

# What a hold touches, down to the folders in which it does.
LOOKED_AT = (
    "/etc/ssh /etc/machine-id /root /home "
    "/var/lib/cloud /var/lib/dbus /var/lib/dkms /var/lib/systemd"
)
SIGNING_KEY = "the key with which DKMS signs"


@dataclass(frozen=True)
class Started:
    """A machine, and all by which one could log in to it or pass for it."""

    ec2: Any
    instance_id: str
    port: int
    login: keys.KeyPair
    host_key: keys.KeyPair
    expires_at: datetime

    @property
    def address(self) -> str:
        while True:
            answer = self.ec2.describe_instances(InstanceIds=[self.instance_id])
            instance = answer["Reservations"][0]["Instances"][0]
            if instance["State"]["Name"] == "running":
                return str(instance["PublicIpAddress"])
            time.sleep(0.1)

    def connect(self, **different: Any) -> Connection:
        how: dict[str, Any] = {
            "port": self.port,
            "user": "ubuntu",
            "private_key": self.login.private_openssh,
            "host_key": self.host_key.public_openssh,
            "timeout_s": 60,
        }
        return connect(self.address, **(how | different))

    @property
    def traces(self) -> list[str]:
        """Texts of which none may be in a checkpoint."""
        return [
            self.login.public_openssh.split()[1],
            *self.host_key.private_openssh.splitlines()[2:4],  # the first is the same in all
            self.host_key.public_openssh.split()[1],
            f"{self.expires_at:%Y-%m-%dT%H:%M:%S}",
            SIGNING_KEY,
        ]


def start(ec2: Any, port: int, image_id: str, name: str) -> Started:
    login, host_key = keys.generate(), keys.generate()
    expires_at = datetime.now(UTC) + timedelta(hours=1)
    ec2.import_key_pair(KeyName=name, PublicKeyMaterial=login.public_openssh.encode())
    reservation = ec2.run_instances(
        ImageId=image_id,
        InstanceType="t3.micro",
        KeyName=name,
        UserData=user_data(host_key, expires_at),
        MinCount=1,
        MaxCount=1,
    )
    instance_id = reservation["Instances"][0]["InstanceId"]
    return Started(ec2, instance_id, port, login, host_key, expires_at)


@pytest.fixture(scope="module")
def ec2(local_home: Path) -> Iterator[tuple[Any, int]]:
    """A client of the local cloud, and the port of its machines' SSH."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("BAKE_HOME", str(local_home))
        endpoint = control.status()
        assert endpoint is not None
        environment = control.environment(endpoint)
    client = boto3.client(
        "ec2",
        endpoint_url=endpoint.url,
        region_name=environment["AWS_DEFAULT_REGION"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
    )
    yield client, endpoint.ssh_port
    for name in ("held", "of the snapshot"):
        client.delete_key_pair(KeyName=name)


@pytest.fixture(scope="module")
def builder(ec2: tuple[Any, int]) -> Iterator[Started]:
    client, port = ec2
    (base,) = client.describe_images(Owners=[STAND_IN_OWNER])["Images"]
    started = start(client, port, base["ImageId"], "held")
    yield started
    client.terminate_instances(InstanceIds=[started.instance_id])


@pytest.fixture(scope="module")
def ssh(builder: Started) -> Iterator[Connection]:
    with builder.connect() as connected:
        # A hold waits for this too; what the tests compare with must not come before it.
        connected.run("until [ -e /run/cloud-init/result.json ]; do sleep 0.1; done", timeout_s=60)
        connected.run(
            "sudo install -D --mode 600 /dev/stdin /var/lib/dkms/mok.key", stdin=SIGNING_KEY
        )
        # A link to it shows what is in its place on the disk, once it is gone.
        connected.run("sudo ln /etc/ssh/ssh_host_ed25519_key /opt/its-place-on-the-disk")
        yield connected


def whole(ssh: Connection) -> list[str]:
    """What a hold touches: each path, its kind, owner, mode, time and link; and every content."""
    find = f"sudo find $(ls --directory {LOOKED_AT} 2>/dev/null) -xdev"
    said = ssh.run(
        f"{find} -printf '%p %y %U:%G %m %T@ %l\\n'; {find} -type f -exec sha256sum {{}} +"
    )
    there = said.stdout.splitlines()
    assert any("/etc/ssh/ssh_host_ed25519_key f 0:0 600" in line for line in there)
    assert any("/var/lib/cloud/scripts/per-boot/bake-power-off" in line for line in there)
    return sorted(there)


def found(ssh: Connection, started: Started) -> list[str]:
    """The files on the disk in which something of that machine is."""
    said = ssh.run(
        "cat >/dev/shm/traces; sudo find / -xdev -type f -print0 | "
        "sudo xargs --null grep --files-with-matches --text --fixed-strings --file /dev/shm/traces",
        stdin="\n".join(started.traces),
        check=False,
    )
    return sorted(said.stdout.splitlines())


def test_nothing_is_on_the_disk_while_it_is_held_and_all_is_back_afterwards(
    builder: Started, ssh: Connection
) -> None:
    before = whole(ssh)
    there = found(ssh, builder)
    assert "/home/ubuntu/.ssh/authorized_keys" in there
    assert "/etc/ssh/ssh_host_ed25519_key" in there
    assert "/var/lib/dkms/mok.key" in there
    assert any("/user-data.txt" in path for path in there)
    for _ in range(2):
        began = time.monotonic()
        with hold(ssh):
            print(f"held after {time.monotonic() - began:.2f} s")
            assert found(ssh, builder) == []
            assert ssh.run("sudo ls -A /var/lib/cloud /etc/machine-id").stdout.split() == [
                "/etc/machine-id",
                "/var/lib/cloud:",
            ]
            assert ssh.run("sudo grep -c . /etc/machine-id", check=False).stdout == "0\n"
            began = time.monotonic()
        print(f"released after {time.monotonic() - began:.2f} s")
        assert whole(ssh) == before
        ssh.run("sudo ln --force /etc/ssh/ssh_host_ed25519_key /opt/its-place-on-the-disk")
    with builder.connect() as new:
        assert new.run("sudo ls --directory /run/bake-hold.*").stdout == "/run/bake-hold.lock\n"


def test_a_machine_started_from_the_snapshot_has_nothing_of_the_builder(
    ec2: tuple[Any, int], builder: Started, ssh: Connection
) -> None:
    client, port = ec2
    machine_id = ssh.run("cat /etc/machine-id").stdout
    answer = client.describe_volumes(
        Filters=[{"Name": "attachment.instance-id", "Values": [builder.instance_id]}]
    )
    with hold(ssh):
        snapshot = client.create_snapshot(VolumeId=answer["Volumes"][0]["VolumeId"])
        client.get_waiter("snapshot_completed").wait(
            SnapshotIds=[snapshot["SnapshotId"]], WaiterConfig={"Delay": 1}
        )
    image_id = client.register_image(
        Name="of the snapshot",
        RootDeviceName="/dev/sda1",
        Architecture="x86_64",
        VirtualizationType="hvm",
        BlockDeviceMappings=[
            {"DeviceName": "/dev/sda1", "Ebs": {"SnapshotId": snapshot["SnapshotId"]}}
        ],
    )["ImageId"]
    other = start(client, port, image_id, "of the snapshot")
    try:
        with other.connect() as new:  # which takes its host key alone
            assert found(new, builder) == []
            assert new.run("cat /etc/machine-id").stdout not in ("", machine_id)
            timer = "/var/lib/cloud/scripts/per-boot/bake-power-off"
            assert f"{other.expires_at:%Y-%m-%dT%H:%M}" in new.run(f"sudo cat {timer}").stdout
        with pytest.raises(ConnectError, match="refused the login key"):
            other.connect(private_key=builder.login.private_openssh, timeout_s=1)
    finally:
        client.terminate_instances(InstanceIds=[other.instance_id])
        client.deregister_image(ImageId=image_id)
        client.delete_snapshot(SnapshotId=snapshot["SnapshotId"])


def test_a_connection_that_is_cut_while_held_is_an_error_and_the_machine_recovers(
    builder: Started, ssh: Connection
) -> None:
    before = whole(ssh)
    with (
        builder.connect() as cut,
        pytest.raises(RemoteError, match="not held still to the end") as caught,
        hold(cut),
    ):
        with suppress(ConnectError):
            cut.run("sudo kill $(ps -o ppid= -p $PPID)")
        while cut.alive:
            time.sleep(0.01)
    assert "has to be deleted" in caught.value.hint
    with builder.connect(timeout_s=20) as new:
        assert whole(new) == before


def test_a_machine_that_nobody_releases_puts_everything_back_by_itself(
    builder: Started, ssh: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = whole(ssh)
    monkeypatch.setattr(holding, "HELD_FOR_S", 1)
    with pytest.raises(RemoteError, match="not held still to the end") as caught, hold(ssh):
        time.sleep(1.5)
        assert whole(ssh) == before
    assert caught.value.details == ("no release was received: everything is restored",)


def test_a_machine_that_is_held_already_is_refused_and_stays_held(
    builder: Started, ssh: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = whole(ssh)
    with hold(ssh):
        monkeypatch.setattr(holding, "HELD_FOR_S", 1)
        with pytest.raises(RemoteError, match="could not be held still") as caught, hold(ssh):
            pass
        assert caught.value.details == ("it is held already",)
        assert found(ssh, builder) == []
    assert whole(ssh) == before


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_exception_within_comes_out_with_everything_back(
    ssh: Connection, error: type[BaseException]
) -> None:
    before = whole(ssh)
    with pytest.raises(error), hold(ssh):
        raise error
    assert whole(ssh) == before


def test_a_hold_that_is_called_off_puts_everything_back(ssh: Connection) -> None:
    before = whole(ssh)
    held = threading.Event()

    def hold_it() -> None:
        with hold(ssh):
            held.set()
            threads.pause(30)

    def fail() -> None:
        assert held.wait(30)
        raise ZeroDivisionError

    began = time.monotonic()
    with pytest.raises(ZeroDivisionError), TaskGroup[str, None]() as group:
        group.start("hold", hold_it)
        group.start("fail", fail)
        group.next()
    assert time.monotonic() - began < 10
    assert whole(ssh) == before


def test_a_machine_that_loses_its_power_while_held_is_reached_by_the_same_keys(
    builder: Started, ssh: Connection
) -> None:
    ec2 = builder.ec2
    with pytest.raises(RemoteError, match="not held still to the end"), hold(ssh):
        ec2.stop_instances(InstanceIds=[builder.instance_id], Force=True)
        ec2.get_waiter("instance_stopped").wait(
            InstanceIds=[builder.instance_id], WaiterConfig={"Delay": 1}
        )
    ec2.start_instances(InstanceIds=[builder.instance_id])
    with builder.connect() as new:
        timer = "/var/lib/cloud/scripts/per-boot/bake-power-off"
        assert f"{builder.expires_at:%Y-%m-%dT%H:%M}" in new.run(f"sudo cat {timer}").stdout
        with hold(new):
            assert found(new, builder) == []
    with pytest.raises(RemoteError, match="could not be held still") as caught, hold(ssh):
        pass
    assert caught.value.details == ("it was rebooted, and no stage has declared a reboot",)
