"""The local cloud's EC2: moto's, with real machines behind instances and real layers behind images.

moto keeps the books of everything that is only books (networks, groups, key pairs, tags, launch
templates). What it makes up about machines, images and snapshots is replaced here, by AWS's API
reference (https://docs.aws.amazon.com/AWSEC2/latest/APIReference/).
"""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import moto.ec2.models.instances
import moto.ec2.urls
from moto.ec2.exceptions import EC2ClientError, InvalidAMIIdError, InvalidSnapshotIdError
from moto.ec2.models import EC2Backend
from moto.ec2.models.core import TaggedEC2Resource
from moto.ec2.utils import (
    filter_dict_attribute_mapping,
    generic_filter,
    random_ami_id,
    random_snapshot_id,
    random_spot_request_id,
)

from bake.local.capacity import check_instance_type, check_vcpus
from bake.local.image import LocalImage, LocalSnapshot, image_mappings, now, timestamp
from bake.local.instance import LocalInstance
from bake.local.site import Site

log = logging.getLogger(__name__)

# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateImage.html, parameter Name
_IMAGE_NAME = re.compile(r"[A-Za-z0-9()\[\] ./\-'@_]{3,128}")

_NO_DATA_DISKS = "The machines of the local cloud have one disk, their root device"

# moto's RunInstances makes instances of this class; these are the ones with a machine.
moto.ec2.models.instances.Instance = LocalInstance
filter_dict_attribute_mapping.update(
    {
        "client-token": "client_token",
        "instance-lifecycle": "lifecycle",
        "root-device-name": "root_device_name",
        "state-reason-code": "state_reason.code",
        "instance-state-code": "state_code",
        "spot-instance-request-id": "spot_instance_request_id",
    }
)


@dataclass(eq=False, kw_only=True)
class SpotRequest(TaggedEC2Resource):  # type: ignore[misc]
    """What RunInstances with a spot market leaves behind: one request for each instance."""

    ec2_backend: Any = field(repr=False)
    instance: LocalInstance
    price: str
    interruption: str
    id: str = field(default_factory=random_spot_request_id)
    create_time: datetime = field(default_factory=now)

    type = "one-time"
    product_description = "Linux/UNIX"

    @property
    def spot_instance_request_id(self) -> str:
        return self.id

    @property
    def spot_price(self) -> str:
        return self.price

    @property
    def instance_id(self) -> str:
        return str(self.instance.id)

    @property
    def instance_interruption_behavior(self) -> str:
        return self.interruption

    @property
    def state(self) -> str:
        return "closed" if self.instance.state == "terminated" else "active"

    @property
    def status(self) -> dict[str, Any]:
        code = "fulfilled" if self.state == "active" else "instance-terminated-by-user"
        return {"Code": code, "Message": "", "UpdateTime": self.create_time}

    @property
    def launch_specification(self) -> dict[str, Any]:
        instance = self.instance
        return {"ImageId": instance.image_id, "InstanceType": instance.instance_type}


class LocalEC2Backend(EC2Backend):  # type: ignore[misc]
    """EC2 in one region. `site` is bound before the first region is made (see `server.py`)."""

    def __init__(self, site: Site, region_name: str, account_id: str) -> None:
        self.site = site
        self.client_tokens: dict[str, tuple[str, str]] = {}
        super().__init__(region_name, account_id)
        # The key with which AWS encrypts volumes unless told another. Nothing is encrypted here:
        # it is shown where AWS shows it, and the computer's own disk encryption is what protects.
        key = uuid.uuid5(uuid.NAMESPACE_URL, f"bake/{site.cloud_id}/{region_name}")
        self.default_kms_key_id = f"arn:aws:kms:{region_name}:{account_id}:key/{key}"

    @property
    def _url_module(self) -> Any:
        """moto finds a service's addresses beside its backend's module."""
        return moto.ec2.urls

    def reset(self) -> None:
        raise EC2ClientError("UnsupportedOperation", "The local cloud is not reset: take it down")

    # Instances -------------------------------------------------------------------------------

    def run_instances(
        self,
        image_id: str,
        count: int,
        user_data: Any,
        security_group_names: list[str],
        **options: Any,
    ) -> Any:
        """Raises what EC2 answers when an instance cannot be had; nothing has been made then."""
        if options.get("launch_template") and not image_id:
            image_id = self._get_template_from_args(options["launch_template"]).image_id
        image = self.usable_image(image_id)
        if options.get("key_name"):
            self.describe_key_pairs(key_names=[options["key_name"]])
        self._check_capacity(image, count, options)
        requested = options.pop("block_device_mappings", [])
        devices = image_mappings(requested, image.block_device_mappings)
        root = self._root_device(image, devices)
        market = options.get("instance_market_options") or {}
        if image.imds_support == "v2.0":
            asked = options.get("metadata_options") or {}
            options["metadata_options"] = {
                "HttpTokens": "required",
                "HttpPutResponseHopLimit": 2,
                **asked,
            }
        tags = options.get("tags", {})
        reservation = super().run_instances(
            image_id, count, user_data, security_group_names, block_device_mappings=[], **options
        )
        layer = self.site.layer(root["SnapshotId"])
        for instance in reservation.instances:
            self._attach_root(instance, image, root, tags.get("volume", {}))
            if instance.lifecycle == "spot":
                self._request_spot(instance, market, tags.get("spot-instances-request", {}))
            instance.power_up(self.site, layer)
        image.last_launched_time = timestamp(now())
        return reservation

    def _check_capacity(self, image: LocalImage, count: int, options: Mapping[str, Any]) -> None:
        zone = options.get("placement")
        if not zone and options.get("subnet_id"):
            zone = self.get_subnet(options["subnet_id"]).availability_zone
        instance_type = options["instance_type"]
        check_instance_type(
            instance_type, region=self.region_name, zone=zone, architecture=image.architecture
        )
        alive = [
            instance
            for instance in self.all_instances()
            if instance.state in ("pending", "running", "stopping")
        ]
        spot = bool(options.get("instance_market_options"))
        check_vcpus(instance_type, count, spot=spot, running=alive)

    def _root_device(
        self, image: LocalImage, devices: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        others = [d["DeviceName"] for d in devices if d["DeviceName"] != image.root_device_name]
        if others:
            raise EC2ClientError("UnsupportedOperation", f"{others[0]}: {_NO_DATA_DISKS}.")
        root = {"VolumeType": "gp2", "DeleteOnTermination": True, **devices[0]["Ebs"]}
        snapshot = self.get_snapshot(root["SnapshotId"])
        if snapshot.status != "completed":
            raise EC2ClientError("IncorrectState", f"Snapshot {snapshot.id} is {snapshot.status}")
        size = int(root.setdefault("VolumeSize", snapshot.volume_size))
        if size < snapshot.volume_size:
            raise EC2ClientError(
                "InvalidBlockDeviceMapping",
                f"Volume of size {size}GB is smaller than snapshot '{snapshot.id}', "
                f"expect size >= {snapshot.volume_size}GB",
            )
        return root

    def _attach_root(
        self,
        instance: LocalInstance,
        image: LocalImage,
        root: Mapping[str, Any],
        tags: Mapping[str, str],
    ) -> None:
        encrypted = bool(root.get("Encrypted") or root.get("KmsKeyId"))
        volume = self.create_volume(
            size=int(root["VolumeSize"]),
            zone_name=instance.placement.zone,
            snapshot_id=root["SnapshotId"],
            encrypted=encrypted,
            kms_key_id=root.get("KmsKeyId"),
            volume_type=root["VolumeType"],
            iops=root.get("Iops"),
            throughput=root.get("Throughput"),
        )
        volume.add_tags(tags)
        super().attach_volume(
            volume.id, instance.id, image.root_device_name, root["DeleteOnTermination"]
        )

    def _request_spot(self, instance: LocalInstance, market: Any, tags: Mapping[str, str]) -> None:
        spot = market.get("SpotOptions", {}) if isinstance(market, dict) else {}
        request = SpotRequest(
            ec2_backend=self,
            instance=instance,
            price=spot.get("MaxPrice", ""),
            interruption=spot.get("InstanceInterruptionBehavior", "terminate"),
        )
        request.add_tags(dict(tags))
        self.spot_instance_requests[request.id] = request
        instance.spot_instance_request_id = request.id

    def attach_volume(self, *_: Any, **__: Any) -> Any:
        raise EC2ClientError("UnsupportedOperation", f"{_NO_DATA_DISKS}.")

    # Images ----------------------------------------------------------------------------------

    def usable_image(self, image_id: str | None) -> LocalImage:
        """The image, when a machine can be started of it; else EC2's answer."""
        image = self.image(image_id or "")
        if image.state != "available":
            raise EC2ClientError(
                "InvalidAMIID.Unavailable", f"The image ID '{image.id}' is {image.state}"
            )
        return image

    def image(self, image_id: str) -> LocalImage:
        image: LocalImage | None = self.amis.get(image_id)
        if image is None:
            raise InvalidAMIIdError(image_id)
        return image

    def own_image(self, image_id: str) -> LocalImage:
        """The image, when it is this account's to change."""
        image = self.image(image_id)
        if image.owner_id != self.account_id:
            raise EC2ClientError("AuthFailure", f"Not authorized for image:{image_id}")
        return image

    def new_image(self, name: str, **values: Any) -> LocalImage:
        """An image of this account under a name that is free."""
        if not _IMAGE_NAME.fullmatch(name or ""):
            raise EC2ClientError(
                "InvalidAMIName.Malformed",
                "AMI names must be between 3 and 128 characters long, and may contain letters, "
                "numbers, '(', ')', '.', '-', '/', '_', '@', '[', ']', ' ' and \"'\"",
            )
        for other in self.amis.values():
            if other.owner_id == self.account_id and other.name == name:
                raise EC2ClientError(
                    "InvalidAMIName.Duplicate",
                    f"AMI name {name} is already in use by AMI {other.id}",
                )
        values = {"owner_id": self.account_id, **values}
        image = LocalImage(ec2_backend=self, id=random_ami_id(), name=name, **values)
        self.amis[image.id] = image
        return image

    def create_image(
        self,
        instance_id: str,
        name: str,
        description: str,
        tag_specifications: Mapping[str, Mapping[str, str]],
        *,
        no_reboot: bool = False,
        block_device_mappings: Sequence[dict[str, Any]] = (),
    ) -> LocalImage:
        """An image of an instance, and its snapshot; both pending until the layer is kept."""
        instance: LocalInstance = self.get_instance(instance_id)
        if instance.state not in ("running", "stopped", "stopping"):
            raise EC2ClientError(
                "IncorrectState", f"The instance '{instance_id}' is {instance.state}"
            )
        source = self.amis.get(instance.image_id)
        root = self._root_volume(instance)
        image = self.new_image(
            name,
            description=description,
            root_device_name=instance.root_device_name,
            block_device_mappings=[],
            architecture=instance.architecture,
            boot_mode=source.boot_mode if source else None,
            imds_support=source.imds_support if source else None,
            source_instance_id=instance.id,
            source_image_id=instance.image_id,
            source_image_region=self.region_name,
        )
        snapshot = self._new_snapshot(root, f"Created by CreateImage({instance.id}) for {image.id}")
        mapping = {
            "DeviceName": instance.root_device_name,
            "Ebs": {
                "SnapshotId": snapshot.id,
                "VolumeSize": root.size,
                "VolumeType": root.volume_type,
                "DeleteOnTermination": True,
                "Encrypted": root.encrypted,
            },
        }
        image.block_device_mappings = image_mappings(block_device_mappings, [mapping])
        image.add_tags(dict(tag_specifications.get("image", {})))
        snapshot.add_tags(dict(tag_specifications.get("snapshot", {})))
        self._keep_disk(instance, snapshot, image, reboot=not no_reboot)
        return image

    def register_image(
        self, name: str | None = None, description: str | None = None, **options: Any
    ) -> LocalImage:
        """An image of a snapshot that is there already."""
        mappings = options.get("block_device_mappings") or []
        root_name = options.get("root_device_name") or "/dev/sda1"
        root = next((m["Ebs"] for m in mappings if m["DeviceName"] == root_name), {})
        if "SnapshotId" not in root:
            raise EC2ClientError(
                "InvalidBlockDeviceMapping", f"No snapshot is mapped to the root device {root_name}"
            )
        snapshot = self.get_snapshot(root["SnapshotId"])
        if snapshot.status != "completed":
            raise EC2ClientError("IncorrectState", f"Snapshot {snapshot.id} is {snapshot.status}")
        root = {
            "VolumeSize": snapshot.volume_size,
            "VolumeType": "gp2",
            "DeleteOnTermination": True,
            "Encrypted": snapshot.encrypted,
            **root,
        }
        image = self.new_image(
            name or "",
            description=description or "",
            state="available",
            root_device_name=root_name,
            block_device_mappings=[{"DeviceName": root_name, "Ebs": root}],
            architecture=options.get("architecture") or "x86_64",
            boot_mode=options.get("boot_mode"),
            tpm_support=options.get("tpm_support"),
            imds_support=options.get("imds_support"),
            ena_support=bool(options.get("ena_support")),
            virtualization_type=options.get("virtualization_type") or "hvm",
        )
        image.add_tags(dict(options.get("tags", {}).get("image", {})))
        return image

    def copy_image(
        self,
        source_image_id: str,
        source_region: str,
        name: str | None = None,
        description: str | None = None,
        *,
        encrypted: bool = False,
        tags: Mapping[str, Mapping[str, str]] | None = None,
        copy_tags: bool = False,
    ) -> LocalImage:
        """A copy with a snapshot of its own, of any region of this cloud."""
        backend = self.in_region(source_region)
        source = backend.usable_image(source_image_id)
        original = backend.get_snapshot(source.root_device["SnapshotId"])
        image = self.new_image(
            name or source.name,
            description=description or source.description,
            root_device_name=source.root_device_name,
            block_device_mappings=[],
            architecture=source.architecture,
            boot_mode=source.boot_mode,
            imds_support=source.imds_support,
            ena_support=source.ena_support,
            source_image_id=source.id,
            source_image_region=source_region,
        )
        snapshot = self._copy_layer(
            original,
            f"Copied for DestinationAmi {image.id} from SourceAmi {source.id}",
            encrypted=encrypted,
            images=[image],
        )
        ebs = {**source.root_device, "SnapshotId": snapshot.id, "Encrypted": snapshot.encrypted}
        image.block_device_mappings = [{"DeviceName": image.root_device_name, "Ebs": ebs}]
        if copy_tags:
            image.add_tags(dict(backend.tags.get(source.id, {})))
        image.add_tags(dict((tags or {}).get("image", {})))
        snapshot.add_tags(dict((tags or {}).get("snapshot", {})))
        return image

    def in_region(self, region: str) -> LocalEC2Backend:
        backend: LocalEC2Backend = moto.ec2.models.ec2_backends[self.account_id][region]
        return backend

    def describe_images(
        self,
        ami_ids: Sequence[str] | None = None,
        filters: Mapping[str, Any] | None = None,
        exec_users: Sequence[str] | None = None,
        owners: Sequence[str] | None = None,
        *,
        include_deprecated: bool = True,
        include_disabled: bool = True,
    ) -> list[LocalImage]:
        """moto's own takes no filters beside ids, and knows no deprecation."""
        for image_id in ami_ids or []:
            self.image(image_id)
        images = [image for image in self.amis.values() if not ami_ids or image.id in ami_ids]
        mine = self.account_id
        images = [
            image
            for image in images
            if image.owner_id == mine or (include_deprecated or not image.is_deprecated())
        ]
        if not include_disabled:
            images = [image for image in images if image.state != "disabled"]
        if owners:
            wanted = {mine if owner == "self" else owner for owner in owners}
            images = [i for i in images if i.owner_id in wanted or i.image_owner_alias in wanted]
        if exec_users:
            users = {mine if user == "self" else user for user in exec_users}
            images = [image for image in images if _may_launch(image, users)]
        return list(generic_filter(dict(filters or {}), images))

    def deregister_image(
        self, ami_id: str, *, delete_snapshots: bool = False
    ) -> list[dict[str, str]]:
        """Raises OperationNotPermitted for a protected image. Returns what became of snapshots."""
        image = self.own_image(ami_id)
        if image.deregistration_protection != "disabled":
            raise EC2ClientError(
                "OperationNotPermitted", f"The image {ami_id} is protected against deregistration"
            )
        self._forget_image(image)
        if not delete_snapshots:
            return []
        results = []
        for snapshot_id in image.snapshot_ids:
            try:
                self.delete_snapshot(snapshot_id)
                code = "success"
            except EC2ClientError as error:
                in_use = error.code == "InvalidSnapshot.InUse"
                code = "skipped" if in_use else "client-error"
            results.append({"SnapshotId": snapshot_id, "ReturnCode": code})
        return results

    def withdraw(self, image: LocalImage) -> None:
        """Remove a public image and its snapshots, as its maker does in time."""
        self._forget_image(image)
        for snapshot_id in image.snapshot_ids:
            self._forget_snapshot(self.get_snapshot(snapshot_id))

    def _forget_image(self, image: LocalImage) -> None:
        del self.amis[image.id]
        self.tags.pop(image.id, None)

    # Snapshots -------------------------------------------------------------------------------

    def create_snapshot(
        self,
        volume_id: str,
        description: str,
        owner_id: str | None = None,
        from_ami: str | None = None,
    ) -> LocalSnapshot:
        """A snapshot of a machine's disk as it is at its turn; the machine stands still for it."""
        volume = self.get_volume(volume_id)
        instance = volume.attachment.instance if volume.attachment else None
        if instance is None and not volume.snapshot_id:
            raise EC2ClientError("UnsupportedOperation", f"{volume_id} is empty. {_NO_DATA_DISKS}.")
        if instance is None:
            # A root volume that outlived its machine: what was written is gone with the machine.
            raise EC2ClientError(
                "IncorrectState", f"The local cloud keeps no data of {volume_id}: it is detached"
            )
        snapshot = self._new_snapshot(volume, description or "")
        self._keep_disk(instance, snapshot, None, reboot=False)
        return snapshot

    def copy_snapshot(
        self, source_snapshot_id: str, source_region: str, description: str, kms_key_id: str | None
    ) -> LocalSnapshot:
        source = self.in_region(source_region).get_snapshot(source_snapshot_id)
        return self._copy_layer(source, description or "", encrypted=bool(kms_key_id), images=[])

    def get_snapshot(self, snapshot_id: str) -> LocalSnapshot:
        snapshot: LocalSnapshot | None = self.snapshots.get(snapshot_id)
        if snapshot is None:
            raise InvalidSnapshotIdError()
        return snapshot

    def describe_snapshots(
        self,
        snapshot_ids: Sequence[str] | None = None,
        filters: Any = None,
        owners: Sequence[str] | None = None,
    ) -> list[LocalSnapshot]:
        """This account's alone: nobody shares the snapshots of public images."""
        mine = [s for s in self.snapshots.values() if s.owner_id == self.account_id]
        known = {snapshot.id for snapshot in mine}
        for snapshot_id in snapshot_ids or []:
            if snapshot_id not in known:
                raise EC2ClientError(
                    "InvalidSnapshot.NotFound", f"The snapshot '{snapshot_id}' does not exist."
                )
        if owners and not {"self", self.account_id} & set(owners):
            return []
        wanted = [s for s in mine if not snapshot_ids or s.id in snapshot_ids]
        return list(generic_filter(filters or {}, wanted))

    def delete_snapshot(self, snapshot_id: str) -> LocalSnapshot:
        snapshot = self.get_snapshot(snapshot_id)
        if snapshot.owner_id != self.account_id:
            raise InvalidSnapshotIdError()
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
        work = self._finishing(
            snapshot, [image] if image else [], lambda: instance.machine.commit(layer)
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
        work = self._finishing(snapshot, images, lambda: self.site.engine.tag(layer, copy))
        self.site.workers.submit(work)
        return snapshot

    def _finishing(
        self, snapshot: LocalSnapshot, images: Sequence[LocalImage], make: Callable[[], None]
    ) -> Callable[[], None]:
        """`make`, and then the states that say how it went."""

        def work() -> None:
            try:
                make()
                problem = ""
            except Exception as error:
                log.exception("%s cannot be made", snapshot.id)
                problem = str(error)
            with self.site.lock:
                for resource in [snapshot, *images]:
                    if problem:
                        resource.fail(problem)
                    elif isinstance(resource, LocalSnapshot):
                        resource.complete()
                    else:
                        resource.succeed()
                if snapshot.id not in self.snapshots:  # deleted meanwhile
                    self.site.workers.submit(self.site.forget_layer, snapshot.id)
                self.site.on_change()

        return work


def _may_launch(image: LocalImage, users: set[str]) -> bool:
    if image.is_public:
        return "all" in users or bool(users)
    return any(permission.get("UserId") in users for permission in image.launch_permissions)
