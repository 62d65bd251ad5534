"""The images and snapshots of the local cloud, with real layers behind them.

They have the members that AWS's API reference lists for `Image` and `Snapshot`, and can be saved
and restored. moto's own snapshots are invented: 15 GB for each image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, ClassVar

from moto.core.utils import utcnow
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.core import TaggedEC2Resource


def now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None, microsecond=0)


def timestamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")


@dataclass(frozen=True)
class ImageStateReason:
    code: str
    message: str


@dataclass(eq=False, kw_only=True)
class LocalSnapshot(TaggedEC2Resource):  # type: ignore[misc]
    """A snapshot. Its layer has the snapshot's id as its name, and exists once it is completed."""

    ec2_backend: Any = field(repr=False)
    id: str
    owner_id: str
    volume_id: str
    volume_size: int
    description: str = ""
    status: str = "pending"
    state_message: str = ""
    encrypted: bool = False
    kms_key_id: str | None = None
    start_time: datetime = field(default_factory=utcnow)
    completion_time: datetime | None = None
    storage_tier: str = "standard"
    create_volume_permissions: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.takes_s = 0.0

    @property
    def snapshot_id(self) -> str:
        return str(self.id)

    @property
    def progress(self) -> str:
        """The part of the snapshot's expected duration that has passed, in percent."""
        if self.status == "completed" or not self.takes_s:
            return "100%" if self.status == "completed" else "0%"
        passed = (utcnow() - self.start_time).total_seconds()
        return f"{min(99, int(100 * passed / self.takes_s))}%"

    @property
    def volume(self) -> LocalSnapshot:
        """The snapshot itself: moto reads its size here, and the real volume may be deleted."""
        return self

    @property
    def size(self) -> int:
        return self.volume_size

    def get_filter_value(self, filter_name: str, method_name: str | None = None) -> Any:
        return _filter_value(self, filter_name, {}, method_name)

    def succeed(self) -> None:
        self.status, self.completion_time = "completed", now()

    def fail(self, message: str) -> None:
        self.status, self.state_message = "error", message


@dataclass(eq=False, kw_only=True)
class LocalImage(TaggedEC2Resource):  # type: ignore[misc]
    """An image. Its root device's snapshot is the layer that a machine boots from."""

    ec2_backend: Any = field(repr=False)
    id: str
    owner_id: str
    name: str
    root_device_name: str
    block_device_mappings: list[dict[str, Any]]
    description: str = ""
    state: str = "pending"
    state_reason: ImageStateReason | None = None
    architecture: str = "x86_64"
    image_owner_alias: str | None = None
    public: bool = False
    creation_date: datetime = field(default_factory=now)
    deprecation_time: str | None = None
    deregistration_protection: str = "disabled"
    imds_support: str | None = None
    boot_mode: str | None = None
    tpm_support: str | None = None
    ena_support: bool = True
    virtualization_type: str = "hvm"
    sriov_net_support: str | None = "simple"
    source_instance_id: str | None = None
    source_image_id: str | None = None
    source_image_region: str | None = None
    last_launched_time: str | None = None
    launch_permissions: list[dict[str, str]] = field(default_factory=list)

    root_device_type = "ebs"
    image_type = "machine"
    hypervisor = "xen"
    platform = None
    platform_details = "Linux/UNIX"
    usage_operation = "RunInstances"
    kernel_id = None
    product_codes: ClassVar[frozenset[str]] = frozenset()

    @property
    def image_location(self) -> str:
        return f"{self.owner_id}/{self.name}"

    @property
    def sriov(self) -> str | None:
        """moto's name for it, in DescribeImageAttribute."""
        return self.sriov_net_support

    @property
    def snapshot_ids(self) -> list[str]:
        return self._ebs("SnapshotId")

    def _ebs(self, member: str) -> list[Any]:
        """Return a member of each mapping that has it."""
        devices = (mapping.get("Ebs", {}) for mapping in self.block_device_mappings)
        return [device[member] for device in devices if member in device]

    @property
    def root_device(self) -> dict[str, Any]:
        """The Ebs part of the root device's mapping."""
        for mapping in self.block_device_mappings:
            if mapping["DeviceName"] == self.root_device_name:
                ebs: dict[str, Any] = mapping["Ebs"]
                return ebs
        raise EC2ClientError(
            "InvalidBlockDeviceMapping",
            f"{self.id} has no mapping for {self.root_device_name}",
        )

    def share(self, permissions: list[dict[str, str]]) -> None:
        """Set who may launch instances from the image."""
        self.launch_permissions = permissions
        self.public = {"Group": "all"} in permissions

    def is_deprecated(self) -> bool:
        return self.deprecation_time is not None and self.deprecation_time <= timestamp(now())

    def get_filter_value(self, filter_name: str, method_name: str | None = None) -> Any:
        special = {
            "image-id": self.id,
            "is-public": self.public,
            "owner-alias": self.image_owner_alias or "",
            "block-device-mapping.snapshot-id": self.snapshot_ids,
            "block-device-mapping.device-name": [
                mapping["DeviceName"] for mapping in self.block_device_mappings
            ],
            "block-device-mapping.volume-size": self._ebs("VolumeSize"),
            "block-device-mapping.volume-type": self._ebs("VolumeType"),
            "block-device-mapping.encrypted": self._ebs("Encrypted"),
            "block-device-mapping.delete-on-termination": self._ebs("DeleteOnTermination"),
            "state-reason-code": self.state_reason.code if self.state_reason else "",
            "state-reason-message": self.state_reason.message if self.state_reason else "",
        }
        return _filter_value(self, filter_name, special, method_name)

    def succeed(self) -> None:
        self.state = "available"

    def fail(self, message: str) -> None:
        self.state, self.state_reason = "failed", ImageStateReason("Client.InternalError", message)


def _filter_value(
    resource: TaggedEC2Resource, name: str, special: dict[str, Any], method_name: str | None
) -> Any:
    if name in special:
        return special[name]
    attribute = name.replace("-", "_")
    if name.startswith("tag") or not hasattr(resource, attribute):
        return TaggedEC2Resource.get_filter_value(resource, name, method_name)
    return getattr(resource, attribute)


def root_mapping(device_name: str, snapshot: LocalSnapshot, *, volume_type: str) -> dict[str, Any]:
    """Return the block device mapping of a new image whose root volume is this snapshot."""
    ebs = {
        "SnapshotId": snapshot.id,
        "VolumeSize": snapshot.volume_size,
        "VolumeType": volume_type,
        "DeleteOnTermination": True,
        "Encrypted": snapshot.encrypted,
    }
    return {"DeviceName": device_name, "Ebs": ebs}


def image_mappings(
    requested: Sequence[dict[str, Any]], inherited: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Return the inherited block device mappings with the requested changes, as RunInstances."""
    merged = {mapping["DeviceName"]: dict(mapping) for mapping in inherited}
    for mapping in requested:
        name = mapping["DeviceName"]
        if "NoDevice" in mapping:
            merged.pop(name, None)
        elif "VirtualName" in mapping:
            merged[name] = {"DeviceName": name, "VirtualName": mapping["VirtualName"]}
        elif "Ebs" in mapping:
            ebs = {**merged.get(name, {}).get("Ebs", {}), **mapping["Ebs"]}
            merged[name] = {"DeviceName": name, "Ebs": ebs}
    return list(merged.values())


def document(resource: LocalImage | LocalSnapshot) -> dict[str, Any]:
    """Return the resource and its tags as values that JSON can represent."""
    values = {
        item.name: getattr(resource, item.name)
        for item in fields(resource)
        if item.name != "ec2_backend"
    }
    for name, value in values.items():
        if isinstance(value, datetime):
            values[name] = value.isoformat()
        elif isinstance(value, ImageStateReason):
            values[name] = [value.code, value.message]
    return {**values, "tags": dict(resource.ec2_backend.tags.get(resource.id, {}))}


def restore(kind: type, backend: Any, values: dict[str, Any]) -> Any:
    """Return the resource that `document` saved, as a resource of that backend."""
    values = dict(values)
    tags = values.pop("tags")
    for name in ("creation_date", "start_time", "completion_time"):
        if values.get(name):
            values[name] = datetime.fromisoformat(values[name])
    if values.get("state_reason"):
        values["state_reason"] = ImageStateReason(*values["state_reason"])
    resource = kind(ec2_backend=backend, **values)
    resource.add_tags(tags)
    return resource
