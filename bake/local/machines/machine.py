"""The machine behind a running instance: a container.

Process 1 is a real init, and cloud-init is real. The data that EC2 gives a machine from outside
(user data, public key, host name) are in a seed folder, which is mounted and never copied.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import json
import logging
import os
import select
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bake.errors import LocalCloudError
from bake.local.machines.disk import MachineDisk
from bake.local.machines.engine import Engine

log = logging.getLogger(__name__)

# reboot(2) in a process namespace ends it with a signal: SIGHUP for a restart, SIGINT for a halt
# or a power-off (man 2 reboot, "Behavior inside PID namespaces").
_REBOOTED, _POWERED_OFF = 128 + 1, 128 + 2

POWER_OFF_TIMEOUT_S = 30

_SEED = "/media/cidata"
_BOOT_ID = "/proc/sys/kernel/random/boot_id"

Meanwhile = Callable[[int], contextlib.AbstractContextManager[object]]

# More starts at the same time take no less time in all: they wait for the engine's locks and for
# the processors, and everything else on the computer waits for them.
_starting = threading.BoundedSemaphore(max(2, os.cpu_count() or 2))


class Ending(enum.Enum):
    """The ways in which a machine ends without a request of the API."""

    POWER_OFF = "power off"
    REBOOT = "reboot"
    BROKEN = "broken"


@dataclass(frozen=True)
class Seed:
    """The data that cloud-init reads at the first boot (its NoCloud data source)."""

    instance_id: str
    hostname: str
    public_key: str
    user_data: bytes

    def write(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        keys = [self.public_key] if self.public_key else []
        # JSON is YAML, in which no character of a key's comment has a special meaning.
        ids = {"instance-id": self.instance_id, "local-hostname": self.hostname}
        (folder / "meta-data").write_text(json.dumps({**ids, "public-keys": keys}))
        write_user_data(folder, self.user_data)


def write_user_data(folder: Path, data: bytes) -> None:
    user_data = folder / "user-data"
    user_data.touch(mode=0o600)
    user_data.write_bytes(data)


class LocalMachine:
    """One container and the folder of its seed.

    Every method blocks until it is done. Methods that change the container run one after the
    other, and raise LocalCloudError after `remove`: a server that ends leaves no machine behind
    that was just starting.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        *,
        folder: Path,
        address: str,
        port: int,
        labels: Mapping[str, str],
    ) -> None:
        self.engine = engine
        self.name = name
        self.folder = folder
        self.address = address
        self.port = port
        self.labels = labels
        self._disk = MachineDisk(engine, name, labels)
        self._turn = threading.Lock()
        self._removed = False

    def create(
        self, layer: str, seed: Seed, inherited: Mapping[Path, str], *, boot: bool = True
    ) -> None:
        """Create the container, and boot it if `boot` is set.

        `inherited` maps files of this computer to the paths at which the machine sees them.
        """
        with self._change(), _starting:
            self._create(layer, seed, inherited, boot)

    def _create(self, layer: str, seed: Seed, inherited: Mapping[Path, str], boot: bool) -> None:
        seed.write(self.folder / "seed")
        arguments = self.engine.run_arguments(
            self.name,
            layer,
            hostname=seed.hostname,
            address=self.address,
            port=self.port,
            labels=self.labels,
            mounts={self.folder / "seed": _SEED, **inherited},
            command=["/sbin/init"],
            start=boot,
        )
        self.engine.call(*arguments)
        if boot:
            self._give_boot_id()

    def set_user_data(self, data: bytes) -> None:
        """Change the user data in the machine's seed, which cloud-init reads at each boot."""
        write_user_data(self.folder / "seed", data)

    def boot(self) -> None:
        with self._change(), _starting:
            self.engine.start(self.name)
            self._give_boot_id()

    def _give_boot_id(self) -> None:
        """Give this boot an id of its own: the kernel's id is that of the computer's boot."""
        (self.folder / "seed" / "boot-id").write_text(f"{uuid.uuid4()}\n")
        try:
            self.engine.mount_over(self.name, f"{_SEED}/boot-id", _BOOT_ID)
        except LocalCloudError as error:
            log.warning("%s: a reboot does not change the boot id: %s", self.name, error.message)

    def power_off(self) -> None:
        with self._change():
            self.engine.stop(self.name, timeout_s=POWER_OFF_TIMEOUT_S)

    def unplug(self) -> None:
        """End the machine at once, also while another thread powers it off."""
        self.engine.kill(self.name)

    def remove(self) -> None:
        """Remove the container in any state, and the folder of its seed."""
        with self._turn, _starting:
            self._removed = True
            self.engine.remove(self.name)
            shutil.rmtree(self.folder, ignore_errors=True)

    def commit(self, reference: str, on_moment: Callable[[], None]) -> int:
        """Save the disk as a layer, without mounted folders such as /run and the seed.

        `on_moment` is called when nothing can change the layer any more. Returns the number of
        bytes that were copied.
        """
        with self._change():
            return self._disk.keep(reference, on_moment)

    @contextlib.contextmanager
    def _change(self) -> Iterator[None]:
        with self._turn:
            if self._removed:
                raise LocalCloudError(f"The machine {self.name} was removed")
            yield

    def console(self) -> bytes:
        return self.engine.console(self.name)

    def wait_until_ended(self, meanwhile: Meanwhile = contextlib.nullcontext) -> Ending:
        """Wait without a timeout until the machine is off.

        `meanwhile` gets the id of the machine's process 1; its context is left when that ends.
        """
        pid = self.engine.process_id(self.name)
        if pid:
            with contextlib.suppress(ProcessLookupError):
                descriptor = os.pidfd_open(pid)
                try:
                    poll = select.poll()
                    poll.register(descriptor, select.POLLIN)
                    with meanwhile(pid):
                        poll.poll()
                finally:
                    os.close(descriptor)
        status = self.engine.wait(self.name)
        if status == _REBOOTED:
            return Ending.REBOOT
        return Ending.POWER_OFF if status in (0, _POWERED_OFF) else Ending.BROKEN

    def answers(self, *, within_s: float) -> bool:
        """Return whether the SSH server sends its greeting within `within_s` seconds."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            with (
                contextlib.suppress(OSError),
                socket.create_connection((self.address, self.port), timeout=1) as connection,
            ):
                connection.settimeout(1)
                if connection.recv(4) == b"SSH-":
                    return True
            time.sleep(0.2)
        return False


def ssh_port() -> int:
    """Return the port on which machines offer SSH: 22, or 2222 if this user may not bind 22."""
    try:
        first = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    except OSError:
        first = 1024
    return 22 if os.geteuid() == 0 or first <= 22 else 2222


def free_address(cloud_id: str, port: int, taken: Collection[str]) -> str:
    """Return a loopback address in the cloud's own /24 on which the port is free."""
    for address in _addresses(cloud_id):
        if address in taken:
            continue
        with socket.socket() as probe:
            try:
                probe.bind((address, port))
            except OSError:
                continue
        return address
    raise LocalCloudError("All 254 loopback addresses of this local cloud are in use")


def _addresses(cloud_id: str) -> Iterator[str]:
    digest = hashlib.sha256(cloud_id.encode()).digest()
    network = f"127.{digest[0] % 254 + 1}.{digest[1]}"
    return (f"{network}.{host}" for host in range(1, 255))
