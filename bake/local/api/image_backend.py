"""The images of one region: create, register, copy, describe and deregister them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from moto.ec2.exceptions import EC2ClientError, InvalidAMIIdError
from moto.ec2.utils import random_ami_id

from bake.local.api.filters import select
from bake.local.api.image import LocalImage, image_mappings, root_mapping
from bake.local.api.snapshot_backend import NO_DATA_DISKS, SnapshotBackend
from bake.local.api.volumes import check_root, invalid_mapping

if TYPE_CHECKING:
    from bake.local.api.instance import LocalInstance

# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateImage.html, parameter Name
_IMAGE_NAME = re.compile(r"[A-Za-z0-9()\[\] ./\-'@_]{3,128}")


class ImageBackend(SnapshotBackend):
    """Replaces moto's `AmiBackend`."""

    amis: dict[str, LocalImage]
    in_region: Callable[[str], ImageBackend]

    def usable_image(self, image_id: str | None) -> LocalImage:
        """Return the image. Raises EC2's error if no machine can be launched from it."""
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
        """Return the image. Raises AuthFailure if another account owns it."""
        image = self.image(image_id)
        if image.owner_id != self.account_id:
            raise EC2ClientError("AuthFailure", f"Not authorized for image:{image_id}")
        return image

    def new_image(self, name: str, **values: Any) -> LocalImage:
        """Make an image of this account. Raises EC2's error if the name is invalid or in use."""
        if not values.get("description", "").isascii():
            raise EC2ClientError(
                "InvalidParameterValue",
                "Value for parameter description is invalid. "
                "Character sets beyond ASCII are not supported.",
            )
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
        """Make an image of an instance, and its snapshot. Both are pending until it is saved."""
        instance: LocalInstance = self.get_instance(instance_id)
        if instance.state not in ("running", "stopped", "stopping"):
            raise EC2ClientError(
                "IncorrectState", f"The instance '{instance_id}' is {instance.state}"
            )
        source = self.amis.get(instance.image_id)
        root = self._root_volume(instance)
        _check_changes(block_device_mappings, instance.root_device_name, root)
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
        device_name = instance.root_device_name
        mapping = root_mapping(device_name, snapshot, volume_type=root.volume_type)
        image.block_device_mappings = image_mappings(block_device_mappings, [mapping])
        image.add_tags(dict(tag_specifications.get("image", {})))
        snapshot.add_tags(dict(tag_specifications.get("snapshot", {})))
        self._keep_disk(instance, snapshot, image, reboot=not no_reboot)
        return image

    def register_image(
        self, name: str | None = None, description: str | None = None, **options: Any
    ) -> LocalImage:
        """Make an image of an existing snapshot."""
        mappings = options.get("block_device_mappings") or []
        root_name = options.get("root_device_name") or "/dev/sda1"
        root: dict[str, Any] = next(
            (m["Ebs"] for m in mappings if m["DeviceName"] == root_name), {}
        )
        if "SnapshotId" not in root:
            raise invalid_mapping(f"No snapshot is mapped to the root device {root_name}")
        snapshot = self.get_snapshot(root["SnapshotId"])
        if snapshot.status != "completed":
            raise EC2ClientError("IncorrectState", f"Snapshot {snapshot.id} is {snapshot.status}")
        if "Encrypted" in root:
            raise invalid_mapping(
                f"the encrypted flag cannot be specified since device {root_name} has a snapshot "
                "specified."
            )
        root = {
            "VolumeSize": snapshot.volume_size,
            "VolumeType": "gp2",
            "DeleteOnTermination": True,
            "Encrypted": snapshot.encrypted,
            **root,
        }
        check_root(root, snapshot.volume_size)
        image = self.new_image(
            name or "",
            description=description or "",
            state="pending",
            root_device_name=root_name,
            block_device_mappings=[{"DeviceName": root_name, "Ebs": root}],
            architecture=options.get("architecture") or "x86_64",
            boot_mode=options.get("boot_mode"),
            tpm_support=options.get("tpm_support"),
            imds_support=options.get("imds_support"),
            ena_support=bool(options.get("ena_support")),
            sriov_net_support=options.get("sriov_net_support"),
            virtualization_type=options.get("virtualization_type") or "hvm",
        )
        image.add_tags(dict(options.get("tags", {}).get("image", {})))
        self.site.delays.after(
            self.site.delays.register_image_s, lambda: self._conclude("", [image])
        )
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
        """Copy an image of any region of this cloud, together with its snapshot."""
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
        """Return the matching images. moto ignores filters if ids are given, and deprecation."""
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
        return select(filters or {}, images)

    def deregister_image(
        self, ami_id: str, *, delete_snapshots: bool = False
    ) -> list[dict[str, str]]:
        """Deregister an image, and return the result of deleting each of its snapshots.

        Raises OperationNotPermitted for a protected image.
        """
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
        """Remove a public image and its snapshots, as its owner does after some time."""
        self._forget_image(image)
        for snapshot_id in image.snapshot_ids:
            self._forget_snapshot(self.get_snapshot(snapshot_id))

    def _forget_image(self, image: LocalImage) -> None:
        del self.amis[image.id]
        self.tags.pop(image.id, None)


def _may_launch(image: LocalImage, users: set[str]) -> bool:
    if image.public:
        return "all" in users or bool(users)
    return any(permission.get("UserId") in users for permission in image.launch_permissions)


def _check_changes(mappings: Sequence[dict[str, Any]], root_name: str, volume: Any) -> None:
    """Raise EC2's error for changes that CreateImage cannot make (parameter BlockDeviceMappings).

    https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_CreateImage.html
    """
    for mapping in mappings:
        name, ebs = mapping.get("DeviceName"), mapping.get("Ebs", {})
        if name != root_name:
            if ebs:
                raise EC2ClientError("UnsupportedOperation", f"{name}: {NO_DATA_DISKS}.")
            continue
        if "NoDevice" in mapping or "VirtualName" in mapping:
            raise invalid_mapping(f"The root device {name} cannot be left out or replaced")
        if int(ebs.get("VolumeSize", volume.size)) != int(volume.size):
            raise invalid_mapping(
                f"The size of the volume {volume.id} cannot be changed: {volume.size}GB"
            )
        if "Encrypted" in ebs:
            raise invalid_mapping(
                f"the encrypted flag cannot be specified since device {name} has a snapshot "
                "specified."
            )
        if "SnapshotId" in ebs:
            raise invalid_mapping("snapshotId cannot be modified on root device")
