"""The snapshots of one region: layers in the container engine's storage."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from moto.core.utils import utcnow
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.utils import random_snapshot_id

from bake.local.api.filters import select
from bake.local.api.image import LocalImage, LocalSnapshot
from bake.local.site import Site

if TYPE_CHECKING:
    from bake.local.api.instance import LocalInstance

log = logging.getLogger(__name__)

MOST_PENDING = 5  # snapshots of one volume

NO_DATA_DISKS = "The machines of the local cloud have one disk, their root device"


class SnapshotBackend:
    """Replaces the snapshots of moto's `EBSBackend`."""

    site: Site
    account_id: str
    region_name: str
    default_kms_key_id: str
    amis: dict[str, LocalImage]
    snapshots: dict[str, LocalSnapshot]
    tags: dict[str, dict[str, str]]
    get_instance: Callable[[str], LocalInstance]
    get_volume: Callable[[str], Any]
    in_region: Callable[[str], SnapshotBackend]

    def create_snapshot(
        self,
        volume_id: str,
        description: str,
        owner_id: str | None = None,
        from_ami: str | None = None,
    ) -> LocalSnapshot:
        """Make a snapshot of a machine's disk. The machine is paused while its disk is copied."""
        volume = self.get_volume(volume_id)
        instance = volume.attachment.instance if volume.attachment else None
        if instance is None and not volume.snapshot_id:
            raise EC2ClientError("UnsupportedOperation", f"{volume_id} is empty. {NO_DATA_DISKS}.")
        if instance is None:
            # A root volume whose machine was terminated: its data was removed with the machine.
            raise EC2ClientError(
                "IncorrectState", f"The local cloud keeps no data of {volume_id}: it is detached"
            )
        self._check_rate(volume_id)
        snapshot = self._new_snapshot(volume, description or "")
        self._keep_disk(instance, snapshot, None, reboot=False)
        return snapshot

    def _check_rate(self, volume_id: str) -> None:
        """https://repost.aws/knowledge-center/ebs-snapshot-stuck"""
        interval = timedelta(seconds=self.site.delays.snapshot_interval_s)
        others = [s for s in self.snapshots.values() if s.volume_id == volume_id]
        if sum(other.status == "pending" for other in others) >= MOST_PENDING:
            raise EC2ClientError(
                "ConcurrentSnapshotLimitExceeded",
                f"Maximum allowed in-progress snapshots for a single volume exceeded: {volume_id}",
            )
        for other in others:
            if other.start_time > utcnow() - interval:
                raise EC2ClientError(
                    "SnapshotCreationPerVolumeRateExceeded",
                    "The maximum per volume CreateSnapshot request rate has been exceeded. "
                    "Use an increasing or variable sleep interval between requests.",
                )

    def copy_snapshot(
        self, source_snapshot_id: str, source_region: str, description: str, kms_key_id: str | None
    ) -> LocalSnapshot:
        source = self.in_region(source_region).get_snapshot(source_snapshot_id)
        return self._copy_layer(source, description or "", encrypted=bool(kms_key_id), images=[])

    def get_snapshot(self, snapshot_id: str) -> LocalSnapshot:
        snapshot: LocalSnapshot | None = self.snapshots.get(snapshot_id)
        if snapshot is None:
            raise _not_found(snapshot_id)
        return snapshot

    def own_snapshot(self, snapshot_id: str) -> LocalSnapshot:
        """Return the snapshot. Others' snapshots, which are not shared, are not found."""
        snapshot = self.get_snapshot(snapshot_id)
        if snapshot.owner_id != self.account_id:
            raise _not_found(snapshot_id)
        return snapshot

    def describe_snapshots(
        self,
        snapshot_ids: Sequence[str] | None = None,
        filters: Any = None,
        owners: Sequence[str] | None = None,
    ) -> list[LocalSnapshot]:
        """Return this account's matching snapshots. Public images do not share theirs."""
        mine = [s for s in self.snapshots.values() if s.owner_id == self.account_id]
        known = {snapshot.id for snapshot in mine}
        for snapshot_id in snapshot_ids or []:
            if snapshot_id not in known:
                raise _not_found(snapshot_id)
        if owners and not {"self", self.account_id} & set(owners):
            return []
        wanted = [s for s in mine if not snapshot_ids or s.id in snapshot_ids]
        return select(filters or {}, wanted)

    def delete_snapshot(self, snapshot_id: str) -> LocalSnapshot:
        snapshot = self.own_snapshot(snapshot_id)
        for image in self.amis.values():
            if snapshot_id in image.snapshot_ids:
                raise EC2ClientError(
                    "InvalidSnapshot.InUse",
                    f"The snapshot {snapshot_id} is currently in use by {image.id}",
                )
        self._forget_snapshot(snapshot)
        return snapshot

    def _forget_snapshot(self, snapshot: LocalSnapshot) -> None:
        del self.snapshots[snapshot.id]
        self.tags.pop(snapshot.id, None)
        self.site.workers.submit(self.site.forget_layer, snapshot.id)

    def _root_volume(self, instance: LocalInstance) -> Any:
        return self.get_volume(instance.block_device_mapping[instance.root_device_name].volume_id)

    def _new_snapshot(self, volume: Any, description: str) -> LocalSnapshot:
        snapshot = LocalSnapshot(
            ec2_backend=self,
            id=random_snapshot_id(),
            owner_id=self.account_id,
            volume_id=volume.id,
            volume_size=int(volume.size),
            description=description,
            encrypted=volume.encrypted,
            kms_key_id=volume.kms_key_id,
        )
        self.snapshots[snapshot.id] = snapshot
        return snapshot

    def _keep_disk(
        self,
        instance: LocalInstance,
        snapshot: LocalSnapshot,
        image: LocalImage | None,
        *,
        reboot: bool,
    ) -> None:
        layer = self.site.layer(snapshot.id)
        moment = threading.Event()
        if not reboot:
            # The response waits for this moment: later writes are not in the snapshot.
            self.site.moments.append(moment)

        def work() -> None:
            try:
                finish()
            finally:
                moment.set()

        finish = self._finishing(
            snapshot,
            [image] if image else [],
            lambda: instance.machine.commit(layer, moment.set),
        )
        instance.keep_disk(work, reboot=reboot)

    def _copy_layer(
        self,
        source: LocalSnapshot,
        description: str,
        *,
        encrypted: bool,
        images: Sequence[LocalImage],
    ) -> LocalSnapshot:
        if source.status != "completed":
            raise EC2ClientError("IncorrectState", f"Snapshot {source.id} is {source.status}")
        snapshot = LocalSnapshot(
            ec2_backend=self,
            id=random_snapshot_id(),
            owner_id=self.account_id,
            # A copy has an arbitrary volume id (API_CopySnapshot).
            volume_id="vol-ffffffff",
            volume_size=source.volume_size,
            description=description,
            encrypted=encrypted or source.encrypted,
            kms_key_id=self.default_kms_key_id if encrypted or source.encrypted else None,
        )
        self.snapshots[snapshot.id] = snapshot
        layer, copy = self.site.layer(source.id), self.site.layer(snapshot.id)

        def tag() -> int:
            self.site.engine.tag(layer, copy)
            return 0

        self.site.workers.submit(self._finishing(snapshot, images, tag))
        return snapshot

    def _finishing(
        self, snapshot: LocalSnapshot, images: Sequence[LocalImage], make: Callable[[], int]
    ) -> Callable[[], None]:
        """Return the work: call `make`, which returns the bytes it copied, then set the states."""
        delays = self.site.delays

        def work() -> None:
            try:
                copied = make()
            except Exception as error:
                log.exception("%s cannot be made", snapshot.id)
                self._conclude(str(error), [snapshot, *images])
                return
            snapshot.takes_s = delays.snapshot_s + delays.snapshot_s_per_gb * copied / 1e9
            left = snapshot.takes_s - (utcnow() - snapshot.start_time).total_seconds()
            delays.after(left, lambda: self._conclude("", [snapshot]))
            delays.after(left + delays.create_image_s, lambda: self._conclude("", images))

        return work

    def _conclude(self, problem: str, resources: Sequence[LocalSnapshot | LocalImage]) -> None:
        """Set the final state of resources: success, or failure if `problem` is not empty."""
        with self.site.lock:
            for resource in resources:
                if problem:
                    resource.fail(problem)
                else:
                    resource.succeed()
                is_snapshot = isinstance(resource, LocalSnapshot)
                if is_snapshot and resource.id not in self.snapshots:  # deleted meanwhile
                    self.site.workers.submit(self.site.forget_layer, resource.id)
            self.site.on_change()


def _not_found(snapshot_id: str) -> EC2ClientError:
    return EC2ClientError(
        "InvalidSnapshot.NotFound", f"The snapshot '{snapshot_id}' does not exist."
    )
