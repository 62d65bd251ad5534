"""Requests about existing instances: their power, their attributes and their console."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from moto.core.responses import ActionResult, EmptyResult
from moto.core.types import Base64EncodedString
from moto.core.utils import utcnow
from moto.ec2.exceptions import EC2ClientError

from bake.local.api import user_data
from bake.local.api.capacity import check_instance_type
from bake.local.api.filters import matches
from bake.local.api.instance import LocalInstance
from bake.local.api.request_checks import invalid_value

CONSOLE_BYTES = 64 * 1024  # GetConsoleOutput returns the last 64 KB of the console

# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_ModifyInstanceAttribute.html
_ONLY_WHILE_STOPPED = (
    "InstanceType",
    "Kernel",
    "Ramdisk",
    "UserData",
    "EbsOptimized",
    "EnaSupport",
    "SriovNetSupport",
)
_FLAGS = {
    "DisableApiTermination": "disable_api_termination",
    "DisableApiStop": "disable_api_stop",
    "EbsOptimized": "ebs_optimized",
    "SourceDestCheck": "source_dest_check",
}

_STATUS_FILTERS: dict[str, Callable[[LocalInstance], Any]] = {
    "availability-zone": lambda instance: instance.placement.zone,
    "instance-state-code": lambda instance: instance.state_code,
    "instance-state-name": lambda instance: instance.state,
    "instance-status.status": lambda instance: instance.instance_status["Status"],
    "system-status.status": lambda instance: instance.system_status["Status"],
}


class InstanceResponse:
    """A request that names several instances changes all of them, or none."""

    def describe_instances(self: Any) -> ActionResult:
        self.error_on_dryrun()
        filters, ids = self._filters_from_querystring(), self._get_param("InstanceIds", [])
        if ids:
            # moto cannot find an instance that a request names twice.
            named = list(dict.fromkeys(ids))
            found = self.ec2_backend.get_reservations_by_instance_ids(named, filters=filters)
        else:
            found = self.ec2_backend.describe_instances(filters=filters)
        return ActionResult({"Reservations": found})

    def describe_instance_status(self: Any) -> ActionResult:
        self.error_on_dryrun()
        ids = self._get_param("InstanceIds", [])
        instances = self.ec2_backend.get_multi_instances_by_id(list(dict.fromkeys(ids)))
        if not ids:
            instances = self.ec2_backend.all_instances()
        if not self._get_bool_param("IncludeAllInstances", False):
            instances = [each for each in instances if each.state == "running"]
        for name, wanted in self._filters_from_querystring().items():
            if name not in _STATUS_FILTERS:
                raise NotImplementedError(f"the filter {name} of DescribeInstanceStatus")
            value = _STATUS_FILTERS[name]
            instances = [each for each in instances if matches(value(each), wanted)]
        return ActionResult({"InstanceStatuses": [_status(each) for each in instances]})

    def start_instances(self: Any) -> ActionResult:
        for instance in self._named():
            if instance.state == "stopped":
                spot = instance.lifecycle == "spot"
                self.ec2_backend.check_quota(instance.instance_type, 1, spot=spot)
        changes = self._change("started", lambda instance: instance.start())
        return ActionResult({"StartingInstances": changes})

    def stop_instances(self: Any) -> ActionResult:
        force = self._get_bool_param("Force", False)
        for instance in self._named():
            if instance.disable_api_stop:
                raise EC2ClientError(
                    "OperationNotPermitted",
                    f"The instance '{instance.id}' may not be stopped. Modify its "
                    "'disableApiStop' instance attribute and try again.",
                )
            if instance.lifecycle == "spot":
                raise EC2ClientError(
                    "UnsupportedOperation",
                    f"You can't stop the Spot Instance '{instance.id}' because it is associated "
                    "with a one-time Spot Instance request.",
                )
        changes = self._change("stopped", lambda instance: instance.stop(force=force))
        return ActionResult({"StoppingInstances": changes})

    def reboot_instances(self: Any) -> ActionResult:
        self._change("rebooted", lambda instance: instance.reboot())
        return EmptyResult()

    def terminate_instances(self: Any) -> ActionResult:
        for instance in self._named():
            if instance.disable_api_termination:
                raise EC2ClientError(
                    "OperationNotPermitted",
                    f"The instance '{instance.id}' may not be terminated. Modify its "
                    "'disableApiTermination' instance attribute and try again.",
                )
        changes = self._change("terminated", lambda instance: instance.terminate())
        return ActionResult({"TerminatingInstances": changes})

    def _named(self: Any) -> Sequence[LocalInstance]:
        ids = self._get_param("InstanceIds", [])
        if not ids:
            raise EC2ClientError("InvalidParameterCombination", "No instances specified")
        named: Sequence[LocalInstance] = self.ec2_backend.get_multi_instances_by_id(ids)
        return named

    def _change(self: Any, what: str, change: Any) -> list[dict[str, Any]]:
        """Change each instance. Return its states before and after, in the API's form."""
        self.error_on_dryrun()
        instances = self._named()
        for instance in instances:
            instance.check_can_be(what)
        changes = []
        for instance in instances:
            before = {"Code": instance.state_code, "Name": instance.state}
            change(instance)
            after = {"Code": instance.state_code, "Name": instance.state}
            changes.append(
                {"InstanceId": instance.id, "PreviousState": before, "CurrentState": after}
            )
        return changes

    # Attributes --------------------------------------------------------------------------------

    def modify_instance_attribute(self: Any) -> ActionResult:
        self.error_on_dryrun()
        instance: LocalInstance = self.ec2_backend.get_instance(self._get_param("InstanceId"))
        changed = _attributes(self._get_params())
        for name in changed:
            if name in _ONLY_WHILE_STOPPED and instance.state != "stopped":
                raise EC2ClientError(
                    "IncorrectInstanceState",
                    f"The instance '{instance.id}' is not in the 'stopped' state.",
                )
        for name, value in changed.items():
            self._set_attribute(instance, name, value)
        return EmptyResult()

    def _set_attribute(self: Any, instance: LocalInstance, name: str, value: Any) -> None:
        if name in _FLAGS:
            setattr(instance, _FLAGS[name], value in (True, "true", "True"))
        elif name == "InstanceType":
            check_instance_type(
                value,
                region=self.region,
                zone=instance.placement.zone,
                architecture=instance.architecture,
            )
            instance.instance_type = value
        elif name == "UserData":
            # A member of type blob is decoded already; the value of `Attribute` is a string.
            data = value if isinstance(value, bytes) else user_data.decoded(value)
            instance.set_user_data(user_data.checked(data))
        elif name == "InstanceInitiatedShutdownBehavior":
            if value not in ("stop", "terminate"):
                raise invalid_value(name, value)
            instance.instance_initiated_shutdown_behavior = value
        elif name == "Groups":
            [interface] = instance.network_interfaces
            self.ec2_backend.check_groups(value, interface.subnet.vpc_id)
            self.ec2_backend.modify_network_interface_attribute(interface.id, value)
        elif name == "BlockDeviceMappings":
            _set_deletion(instance, value)
        else:
            raise EC2ClientError(
                "UnsupportedOperation", f"The local cloud cannot change the attribute {name}"
            )

    def get_console_output(self: Any) -> ActionResult:
        instance = self.ec2_backend.get_instance(self._get_param("InstanceId"))
        output = instance.console()[-CONSOLE_BYTES:].decode(errors="replace")
        return ActionResult(
            {
                "InstanceId": instance.id,
                "Timestamp": utcnow(),
                "Output": Base64EncodedString.from_raw_string(output),
            }
        )


def _status(instance: LocalInstance) -> dict[str, Any]:
    return {
        "InstanceId": instance.id,
        "AvailabilityZone": instance.placement.zone,
        "InstanceState": {"Code": instance.state_code, "Name": instance.state},
        "InstanceStatus": instance.instance_status,
        "SystemStatus": instance.system_status,
    }


def _attributes(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes that a request of ModifyInstanceAttribute changes.

    It names one attribute as `Attribute` and `Value`, or each by a member of its own.
    """
    if attribute := request.get("Attribute"):
        return {attribute[:1].upper() + attribute[1:]: request.get("Value")}
    changed = {}
    for name, value in request.items():
        if name in ("InstanceId", "DryRun"):
            continue
        changed[name] = value["Value"] if isinstance(value, dict) and "Value" in value else value
    return changed


def _set_deletion(instance: LocalInstance, mappings: Sequence[Mapping[str, Any]]) -> None:
    for mapping in mappings:
        device = instance.block_device_mapping.get(mapping.get("DeviceName"))
        if device is None:
            raise EC2ClientError(
                "InvalidInstanceAttributeValue",
                f"No device is currently mapped at {mapping.get('DeviceName')}",
            )
        kept = device.delete_on_termination
        device.delete_on_termination = mapping.get("Ebs", {}).get("DeleteOnTermination", kept)
