"""Requests about images and snapshots. `ImageBackend` and `SnapshotBackend` execute them."""

from __future__ import annotations

from typing import Any

from moto.core.responses import ActionResult, EmptyResult
from moto.ec2.exceptions import EC2ClientError

from bake.local.api.image import now, timestamp
from bake.local.api.permissions import changed_permissions


class ImageResponse:
    """The requests that moto executes in another way than AWS's API reference."""

    def create_image(self: Any) -> ActionResult:
        self.error_on_dryrun()
        image = self.ec2_backend.create_image(
            self._get_param("InstanceId"),
            self._get_param("Name"),
            self._get_param("Description", ""),
            self._tags_for("image", "snapshot"),
            no_reboot=self._get_bool_param("NoReboot", False),
            block_device_mappings=self._get_param("BlockDeviceMappings", []),
        )
        return ActionResult({"ImageId": image.id})

    def register_image(self: Any) -> ActionResult:
        self.error_on_dryrun()
        image = self.ec2_backend.register_image(
            self._get_param("Name"),
            self._get_param("Description", ""),
            tags=self._tags_for("image"),
            root_device_name=self._get_param("RootDeviceName"),
            block_device_mappings=self._get_param("BlockDeviceMappings", []),
            architecture=self._get_param("Architecture"),
            boot_mode=self._get_param("BootMode"),
            tpm_support=self._get_param("TpmSupport"),
            imds_support=self._get_param("ImdsSupport"),
            ena_support=self._get_bool_param("EnaSupport", False),
            sriov_net_support=self._get_param("SriovNetSupport"),
            virtualization_type=self._get_param("VirtualizationType"),
        )
        return ActionResult({"ImageId": image.id})

    def copy_image(self: Any) -> ActionResult:
        self.error_on_dryrun()
        image = self.ec2_backend.copy_image(
            self._get_param("SourceImageId"),
            self._get_param("SourceRegion"),
            self._get_param("Name"),
            self._get_param("Description"),
            encrypted=self._get_bool_param("Encrypted", False),
            tags=self._tags_for("image", "snapshot"),
            copy_tags=self._get_bool_param("CopyImageTags", False),
        )
        return ActionResult({"ImageId": image.id})

    def describe_images(self: Any) -> ActionResult:
        self.error_on_dryrun()
        images = self.ec2_backend.describe_images(
            ami_ids=self._get_param("ImageIds", []),
            filters=self._filters_from_querystring(),
            exec_users=self._get_param("ExecutableUsers", []),
            owners=self._get_param("Owners", []),
            include_deprecated=self._get_bool_param("IncludeDeprecated", False),
            include_disabled=self._get_bool_param("IncludeDisabled", False),
        )
        return ActionResult({"Images": images})

    def deregister_image(self: Any) -> ActionResult:
        self.error_on_dryrun()
        results = self.ec2_backend.deregister_image(
            self._get_param("ImageId"),
            delete_snapshots=self._get_bool_param("DeleteAssociatedSnapshots", False),
        )
        return ActionResult({"Return": True, "DeleteSnapshotResults": results})

    def modify_image_attribute(self: Any) -> ActionResult:
        """Change one attribute. The earlier form names it as Attribute and Value."""
        self.error_on_dryrun()
        image = self.ec2_backend.own_image(self._get_param("ImageId"))
        request = self._get_params()
        attribute = request.get("Attribute", "")
        named = {attribute[:1].upper() + attribute[1:]: {"Value": request.get("Value")}}
        description = (request.get("Description") or named.get("Description") or {}).get("Value")
        support = (request.get("ImdsSupport") or named.get("ImdsSupport") or {}).get("Value")
        if description is not None:
            image.description = description
        elif support is not None:
            if support != "v2.0":
                raise EC2ClientError(
                    "InvalidParameterValue", f"Invalid value '{support}' for imdsSupport."
                )
            image.imds_support = support
        elif attribute in ("", "launchPermission"):
            image.share(changed_permissions(image.launch_permissions, request, "LaunchPermission"))
        else:
            raise EC2ClientError(
                "InvalidParameterCombination", f"The attribute {attribute} cannot be modified"
            )
        return EmptyResult()

    def describe_image_attribute(self: Any) -> ActionResult:
        self.error_on_dryrun()
        image = self.ec2_backend.own_image(self._get_param("ImageId"))
        attribute = self._get_param("Attribute")
        attributes: dict[str, Any] = {
            "description": {"Description": {"Value": image.description}},
            "kernel": {"KernelId": {}},
            "ramdisk": {"RamdiskId": {}},
            "launchPermission": {"LaunchPermissions": image.launch_permissions},
            "productCodes": {"ProductCodes": []},
            "sriovNetSupport": {"SriovNetSupport": {"Value": image.sriov_net_support}},
            "bootMode": {"BootMode": {"Value": image.boot_mode}},
            "tpmSupport": {"TpmSupport": {"Value": image.tpm_support}},
            "uefiData": {"UefiData": {}},
            "lastLaunchedTime": {"LastLaunchedTime": {"Value": image.last_launched_time}},
            "imdsSupport": {"ImdsSupport": {"Value": image.imds_support}},
            "deregistrationProtection": {
                "DeregistrationProtection": {"Value": image.deregistration_protection}
            },
        }
        if attribute not in attributes:
            # EC2 refuses blockDeviceMapping in this way: https://github.com/aws/aws-cli/issues/1083
            raise EC2ClientError(
                "AuthFailure", "Unauthorized attempt to access restricted resource"
            )
        return ActionResult({"ImageId": image.id, **attributes[attribute]})

    def enable_image_deprecation(self: Any) -> ActionResult:
        self.error_on_dryrun()
        image = self.ec2_backend.own_image(self._get_param("ImageId"))
        # "If you specify a value for seconds, Amazon EC2 rounds to the nearest minute."
        moment = self._get_param("DeprecateAt").replace(tzinfo=None, second=0, microsecond=0)
        if moment < now():
            raise EC2ClientError("InvalidParameterValue", "DeprecateAt is in the past")
        image.deprecation_time = timestamp(moment)
        return ActionResult({"Return": True})

    def disable_image_deprecation(self: Any) -> ActionResult:
        self.error_on_dryrun()
        self.ec2_backend.own_image(self._get_param("ImageId")).deprecation_time = None
        return ActionResult({"Return": True})

    def enable_image_deregistration_protection(self: Any) -> ActionResult:
        self.error_on_dryrun()
        cooldown = self._get_bool_param("WithCooldown", False)
        protection = "enabled-with-cooldown" if cooldown else "enabled-without-cooldown"
        image = self.ec2_backend.own_image(self._get_param("ImageId"))
        image.deregistration_protection = protection
        return ActionResult({"Return": protection})

    def disable_image_deregistration_protection(self: Any) -> ActionResult:
        self.error_on_dryrun()
        image = self.ec2_backend.own_image(self._get_param("ImageId"))
        image.deregistration_protection = "disabled"
        return ActionResult({"Return": "disabled"})

    # Snapshots -------------------------------------------------------------------------------

    def create_snapshot(self: Any) -> ActionResult:
        self._tags_for("snapshot")  # moto accepts tags for any resource type
        return super().create_snapshot()  # type: ignore[misc]

    def describe_snapshots(self: Any) -> ActionResult:
        snapshots = self.ec2_backend.describe_snapshots(
            snapshot_ids=self._get_param("SnapshotIds", []),
            filters=self._filters_from_querystring(),
            owners=self._get_param("OwnerIds", []),
        )
        return ActionResult({"Snapshots": snapshots})

    def modify_snapshot_attribute(self: Any) -> ActionResult:
        self.error_on_dryrun()
        request = self._get_params()
        snapshot = self.ec2_backend.own_snapshot(request["SnapshotId"])
        permissions = changed_permissions(
            snapshot.create_volume_permissions, request, "CreateVolumePermission"
        )
        if permissions and snapshot.encrypted:
            # https://docs.aws.amazon.com/ebs/latest/userguide/ebs-modifying-snapshot-permissions.html
            raise EC2ClientError(
                "OperationNotPermitted",
                "Encrypted snapshots with EBS default key cannot be shared",
            )
        snapshot.create_volume_permissions = permissions
        return EmptyResult()

    def describe_snapshot_attribute(self: Any) -> ActionResult:
        self.error_on_dryrun()
        snapshot = self.ec2_backend.own_snapshot(self._get_param("SnapshotId"))
        if self._get_param("Attribute") == "productCodes":
            return ActionResult({"SnapshotId": snapshot.id, "ProductCodes": []})
        permissions = snapshot.create_volume_permissions
        return ActionResult({"SnapshotId": snapshot.id, "CreateVolumePermissions": permissions})

    def reset_snapshot_attribute(self: Any) -> ActionResult:
        self.error_on_dryrun()
        self.ec2_backend.own_snapshot(self._get_param("SnapshotId")).create_volume_permissions = []
        return EmptyResult()

    def reset_image_attribute(self: Any) -> ActionResult:
        self.error_on_dryrun()
        self.ec2_backend.own_image(self._get_param("ImageId")).share([])
        return EmptyResult()
