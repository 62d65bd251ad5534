"""EC2 requests and responses, where moto's implementation differs from AWS's API reference.

Source: https://docs.aws.amazon.com/AWSEC2/latest/APIReference/
"""

from __future__ import annotations

import logging
from typing import Any, ClassVar

from botocore.model import OperationModel, OperationNotFoundError
from moto.core.exceptions import ServiceException
from moto.core.responses import ActionResult
from moto.core.serialize import return_if_not_empty
from moto.core.types import Base64EncodedString
from moto.core.utils import get_service_model, utcnow
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import ec2_backends
from moto.ec2.responses import EC2Response

from bake.errors import LocalCloudError
from bake.local.api.capacity_reservations import CapacityReservations
from bake.local.api.image import now, timestamp
from bake.local.api.image_references import ImageReferences
from bake.local.api.launch.fleets import Fleets
from bake.local.api.launch.response import LaunchResponse
from bake.local.api.pages import page
from bake.local.api.price_list import SpotPrices
from bake.local.api.request_checks import check_request

log = logging.getLogger(__name__)

CONSOLE_BYTES = 64 * 1024  # GetConsoleOutput returns the last 64 KB of the console


class LocalEC2Response(
    LaunchResponse,
    Fleets,
    SpotPrices,
    CapacityReservations,
    ImageReferences,
    EC2Response,  # type: ignore[misc]
):
    """One request to EC2, and its response."""

    RESPONSE_KEY_PATH_TO_TRANSFORMER: ClassVar[dict[str, Any]] = {
        **EC2Response.RESPONSE_KEY_PATH_TO_TRANSFORMER,
        # EC2 leaves these members out if they are empty.
        "Instance.StateReason": lambda reason: reason if reason and reason.code else None,
        "Instance.HibernationOptions": return_if_not_empty,
        "Association.PublicDnsName": lambda _: "",
    }

    def call_action(self) -> Any:
        """Respond to every request: what fails here is an EC2 error, not an HTTP error.

        Nothing of Python is shown to the client. EC2 does not refuse a request with InternalError
        if the request is at fault, and clients repeat requests that are refused with it.
        """
        try:
            self._check()
            return super().call_action()
        except ServiceException as error:
            return self.serialized(ActionResult(error))
        except NotImplementedError as error:
            return self._error("UnsupportedOperation", f"Not in the local cloud: {error}")
        except LocalCloudError as error:
            log.exception("%s failed", self._get_action())
            return self._error("InternalError", error.message)
        except Exception:
            action = self._get_action()
            log.exception("%s failed", action)
            return self._error(
                "UnsupportedOperation",
                f"The local cloud cannot answer this request of {action}: its log has the reason",
            )

    def _check(self) -> None:
        """Raise EC2's error for a region or a value that does not exist."""
        if self.region not in ec2_backends[self.current_account].regions:
            raise EC2ClientError(
                "AuthFailure", f"Credential should be scoped to a valid region, not '{self.region}'"
            )
        if self._operation is not None:
            check_request(self._operation, self.params)

    @property
    def _operation(self) -> OperationModel | None:
        """The model of the operation, or None if EC2 has no such operation."""
        model = get_service_model(self.boto3_service_name)
        try:
            return model.operation_model(self._get_action())
        except OperationNotFoundError:
            return None

    def serialized(self, action_result: ActionResult) -> Any:
        return super().serialized(page(self._get_action(), self.params, action_result))

    def _error(self, code: str, message: str) -> Any:
        return self.serialized(ActionResult(EC2ClientError(code, message)))

    # The account ------------------------------------------------------------------------------

    def get_ebs_default_kms_key_id(self) -> ActionResult:
        """Return the alias of the key that AWS manages: the account has no other default key."""
        self.error_on_dryrun()
        return ActionResult({"KmsKeyId": "alias/aws/ebs"})

    # Instances -------------------------------------------------------------------------------

    def stop_instances(self) -> ActionResult:
        if not self._get_bool_param("Force", False):
            return super().stop_instances()
        self.error_on_dryrun()
        stopped = [
            {
                "InstanceId": instance.id,
                "PreviousState": instance.stop(force=True),
                "CurrentState": {"Code": 64, "Name": "stopping"},
            }
            for instance in self.ec2_backend.get_multi_instances_by_id(
                self._get_param("InstanceIds", [])
            )
        ]
        return ActionResult({"StoppingInstances": stopped})

    def modify_instance_attribute(self) -> ActionResult:
        behaviour = self._get_param("InstanceInitiatedShutdownBehavior.Value")
        if behaviour is None:
            return super().modify_instance_attribute()
        self.error_on_dryrun()
        self.ec2_backend.modify_instance_attribute(
            self._get_param("InstanceId"), "instance_initiated_shutdown_behavior", behaviour
        )
        return ActionResult(None)

    def get_console_output(self) -> ActionResult:
        instance = self.ec2_backend.get_instance(self._get_param("InstanceId"))
        output = instance.console()[-CONSOLE_BYTES:].decode(errors="replace")
        return ActionResult(
            {
                "InstanceId": instance.id,
                "Timestamp": utcnow(),
                "Output": Base64EncodedString.from_raw_string(output),
            }
        )

    # Images ----------------------------------------------------------------------------------

    def create_image(self) -> ActionResult:
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

    def register_image(self) -> ActionResult:
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

    def copy_image(self) -> ActionResult:
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

    def describe_images(self) -> ActionResult:
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

    def deregister_image(self) -> ActionResult:
        self.error_on_dryrun()
        results = self.ec2_backend.deregister_image(
            self._get_param("ImageId"),
            delete_snapshots=self._get_bool_param("DeleteAssociatedSnapshots", False),
        )
        return ActionResult({"Return": True, "DeleteSnapshotResults": results})

    def modify_image_attribute(self) -> ActionResult:
        image = self.ec2_backend.own_image(self._get_param("ImageId"))
        support = self._get_param("ImdsSupport.Value")
        description = self._get_param("Description.Value")
        if support is None and description is None:
            return super().modify_image_attribute()
        self.error_on_dryrun()
        if support is not None:
            image.imds_support = support
        if description is not None:
            image.description = description
        return ActionResult(None)

    def describe_image_attribute(self) -> ActionResult:
        image = self.ec2_backend.image(self._get_param("ImageId"))
        attributes = {
            "imdsSupport": {"ImdsSupport": {"Value": image.imds_support}},
            "bootMode": {"BootMode": {"Value": image.boot_mode}},
            "deregistrationProtection": {
                "DeregistrationProtection": {"Value": image.deregistration_protection}
            },
            "description": {"Description": {"Value": image.description}},
        }
        attribute = self._get_param("Attribute")
        if attribute not in attributes:
            return super().describe_image_attribute()
        return ActionResult({"ImageId": image.id, **attributes[attribute]})

    def enable_image_deprecation(self) -> ActionResult:
        self.error_on_dryrun()
        image = self.ec2_backend.own_image(self._get_param("ImageId"))
        # "If you specify a value for seconds, Amazon EC2 rounds to the nearest minute."
        moment = self._get_param("DeprecateAt").replace(tzinfo=None, second=0, microsecond=0)
        if moment < now():
            raise EC2ClientError("InvalidParameterValue", "DeprecateAt is in the past")
        image.deprecation_time = timestamp(moment)
        return ActionResult({"Return": True})

    def disable_image_deprecation(self) -> ActionResult:
        self.error_on_dryrun()
        self.ec2_backend.own_image(self._get_param("ImageId")).deprecation_time = None
        return ActionResult({"Return": True})

    def enable_image_deregistration_protection(self) -> ActionResult:
        self.error_on_dryrun()
        cooldown = self._get_bool_param("WithCooldown", False)
        protection = "enabled-with-cooldown" if cooldown else "enabled-without-cooldown"
        image = self.ec2_backend.own_image(self._get_param("ImageId"))
        image.deregistration_protection = protection
        return ActionResult({"Return": protection})

    def disable_image_deregistration_protection(self) -> ActionResult:
        self.error_on_dryrun()
        image = self.ec2_backend.own_image(self._get_param("ImageId"))
        image.deregistration_protection = "disabled"
        return ActionResult({"Return": "disabled"})

    # Snapshots -------------------------------------------------------------------------------

    def create_snapshot(self) -> ActionResult:
        self._tags_for("snapshot")  # moto accepts tags for any resource type
        return super().create_snapshot()

    def describe_snapshots(self) -> ActionResult:
        snapshots = self.ec2_backend.describe_snapshots(
            snapshot_ids=self._get_param("SnapshotIds", []),
            filters=self._filters_from_querystring(),
            owners=self._get_param("OwnerIds", []),
        )
        return ActionResult({"Snapshots": snapshots})

    def _tags_for(self, *resource_types: str) -> dict[str, dict[str, str]]:
        tags: dict[str, dict[str, str]] = self._parse_tag_specification()
        for resource_type in tags:
            if resource_type not in resource_types:
                raise EC2ClientError(
                    "InvalidParameterValue",
                    f"'{resource_type}' is not a valid taggable resource type for this operation.",
                )
        return tags
