"""The site of a local cloud: the state that its regions, images and machines share."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from bake.errors import LocalCloudError
from bake.local.delays import NONE, Delays
from bake.local.machines.engine import Engine
from bake.local.machines.machine import LocalMachine, free_address

CLEAR_TIMEOUT_S = 30


@dataclass
class Site:
    """The shared state of one server.

    `cloud_id` is in the label of every container and layer. It keeps two clouds on one computer
    apart.
    """

    engine: Engine
    home: Path
    ssh_port: int
    # Returns the files of this computer that each machine sees, and their paths on the machine.
    inherited: Callable[[], Mapping[Path, str]]
    # The state that the API shows changes only under this lock: requests and machines run in
    # threads of their own.
    lock: threading.RLock = field(default_factory=threading.RLock)
    machines: dict[str, LocalMachine] = field(default_factory=dict)
    workers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(4, "layers"))
    on_change: Callable[[], None] = lambda: None
    delays: Delays = NONE
    # The events for which the response to the current request waits, after the lock is released.
    moments: list[threading.Event] = field(default_factory=list)
    _prune_waits: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(1))

    @property
    def cloud_id(self) -> str:
        return cloud_id(self.home)

    @property
    def labels(self) -> dict[str, str]:
        return {"bake.cloud": self.cloud_id}

    @property
    def label(self) -> str:
        return f"bake.cloud={self.cloud_id}"

    @property
    def repository(self) -> str:
        return f"localhost/bake-{self.cloud_id}/snapshot"

    def layer(self, snapshot_id: str) -> str:
        """Return the name of the layer that contains a snapshot's data."""
        return f"{self.repository}:{snapshot_id}"

    def new_machine(self, instance_id: str) -> LocalMachine:
        """Return a machine with an address of its own. The caller holds the lock."""
        taken = {machine.address for machine in self.machines.values()}
        machine = LocalMachine(
            self.engine,
            f"bake-{self.cloud_id}-{instance_id}",
            folder=self.home / "machines" / instance_id,
            address=free_address(self.cloud_id, self.ssh_port, taken),
            port=self.ssh_port,
            labels=self.labels,
        )
        self.machines[instance_id] = machine
        return machine

    @contextlib.contextmanager
    def lock_released(self) -> Iterator[None]:
        """Release the lock for a slow operation, in a request that has changed nothing yet."""
        self.lock.release()
        try:
            yield
        finally:
            self.lock.acquire()

    def forget_layer(self, snapshot_id: str) -> None:
        """Remove a snapshot's data, except for layers that a machine or another snapshot uses."""
        self.engine.forget(self.layer(snapshot_id))
        self.prune()

    def prune(self) -> None:
        """Remove unused layers in the background. Calls before it begins are one removal."""
        if self._prune_waits.acquire(blocking=False):
            self.workers.submit(self._prune)

    def _prune(self) -> None:
        self._prune_waits.release()
        self.engine.prune(self.label)

    def erase_layers(self) -> None:
        for layer in self.engine.references(self.repository):
            self.engine.forget(layer)
        self.engine.prune(self.label)

    def clear_machines(self) -> None:
        """Remove every machine of this cloud, also the machines of a server that was killed."""
        for machine in list(self.machines.values()):
            machine.remove()
        self.machines.clear()
        # A machine that was starting when its server was killed cannot be removed at once.
        deadline = time.monotonic() + CLEAR_TIMEOUT_S
        while left := self.engine.containers(self.label):
            for name in left:
                self.engine.remove(name)
            if time.monotonic() > deadline:
                raise LocalCloudError(f"Cannot remove these machines: {', '.join(left)}")
        shutil.rmtree(self.home / "machines", ignore_errors=True)
        self.engine.prune(self.label)


def register(site: Site, clouds: Path) -> None:
    """Record this cloud's home, and remove the layers and machines of clouds without a home.

    They are in the container engine's storage, and no other command would find them.
    """
    clouds.mkdir(parents=True, exist_ok=True)
    (clouds / site.cloud_id).write_bytes(os.fsencode(site.home.resolve()))
    for note in clouds.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another cloud has removed it
            home = Path(os.fsdecode(note.read_bytes()))
            if not home.exists():
                orphan = Site(site.engine, home, site.ssh_port, site.inherited)
                orphan.erase_layers()
                orphan.clear_machines()
                note.unlink()


def cloud_id(home: Path) -> str:
    """Return the id of the cloud of a home folder."""
    return hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:8]
