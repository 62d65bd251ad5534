"""The local cloud's site: what its regions, images and machines share on this computer."""

from __future__ import annotations

import contextlib
import hashlib
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
    """One per server. `cloud_id` keeps two clouds on one computer apart: it is in every label."""

    engine: Engine
    home: Path
    ssh_port: int
    given: Callable[[], Mapping[Path, str]]
    # What the API shows changes under this lock alone: requests and machines are many threads.
    lock: threading.RLock = field(default_factory=threading.RLock)
    machines: dict[str, LocalMachine] = field(default_factory=dict)
    workers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(4, "layers"))
    on_change: Callable[[], None] = lambda: None
    delays: Delays = NONE
    # What the answer to the request that has the lock has to wait for, once it has let it go.
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
        """The name of the layer that holds a snapshot's data."""
        return f"{self.repository}:{snapshot_id}"

    def new_machine(self, instance_id: str) -> LocalMachine:
        """A machine with an address of its own. Call it with the lock held."""
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
    def others_first(self) -> Iterator[None]:
        """Let other requests be served meanwhile. For a request that has changed nothing yet."""
        self.lock.release()
        try:
            yield
        finally:
            self.lock.acquire()

    def forget_layer(self, snapshot_id: str) -> None:
        """Remove a snapshot's data, as far as no machine and no other snapshot stands on it."""
        self.engine.forget(self.layer(snapshot_id))
        self.prune()

    def prune(self) -> None:
        """Have layers removed that nothing stands on; once, however many ask before it begins."""
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
        """Remove every machine of this cloud, those of a server that was killed included."""
        for machine in list(self.machines.values()):
            machine.remove()
        self.machines.clear()
        # One that was being started when its server was killed takes a moment to be removable.
        deadline = time.monotonic() + CLEAR_TIMEOUT_S
        while left := self.engine.containers(self.label):
            for name in left:
                self.engine.remove(name)
            if time.monotonic() > deadline:
                raise LocalCloudError(f"These machines cannot be removed: {', '.join(left)}")
        shutil.rmtree(self.home / "machines", ignore_errors=True)
        self.engine.prune(self.label)


def register(site: Site, clouds: Path) -> None:
    """Note where this cloud's home is, and remove what is left of clouds whose home is gone.

    Their layers are in the container engine's storage, where nobody would look for them.
    """
    clouds.mkdir(parents=True, exist_ok=True)
    (clouds / site.cloud_id).write_text(str(site.home.resolve()))
    for note in clouds.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another cloud was faster
            home = Path(note.read_text())
            if not home.exists():
                orphan = Site(site.engine, home, site.ssh_port, site.given)
                orphan.erase_layers()
                orphan.clear_machines()
                note.unlink()


def cloud_id(home: Path) -> str:
    """Which cloud this is: one for each home folder."""
    return hashlib.sha256(str(home.resolve()).encode()).hexdigest()[:8]
