"""EC2 in the local cloud: moto's, with real machines behind instances and layers behind images.

moto implements what is only data: networks, security groups, key pairs, tags, launch templates.
Its invented machines, images and snapshots are replaced here, following AWS's API reference
(https://docs.aws.amazon.com/AWSEC2/latest/APIReference/).
"""

from __future__ import annotations

import functools
import itertools
import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import moto.ec2.models.instances
import moto.ec2.urls
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import EC2Backend, ec2_backends
from moto.ec2.models.core import TaggedEC2Resource
from moto.ec2.utils import (
    filter_dict_attribute_mapping,
    random_spot_request_id,
)

from bake.local.api.capacity import check_instance_type, check_vcpus
from bake.local.api.image import LocalImage, image_mappings, now, timestamp
from bake.local.api.image_backend import ImageBackend
from bake.local.api.instance import LocalInstance
from bake.local.api.snapshot_backend import NO_DATA_DISKS
from bake.local.site import Site

log = logging.getLogger(__name__)

# Filters of DescribeInstances that moto lacks → the instance's attribute that is compared.
_MORE_FILTERS = {
    "client-token": "client_token",
    "instance-lifecycle": "lifecycle",
    "root-device-name": "root_device_name",
    "state-reason-code": "state_reason.code",
    "instance-state-code": "state_code",
    "spot-instance-request-id": "spot_instance_request_id",
}


@dataclass(eq=False, kw_only=True)
class SpotRequest(TaggedEC2Resource):  # type: ignore[misc]
    """The spot request that RunInstances makes for each spot instance."""

    ec2_backend: Any = field(repr=False)
    instance: LocalInstance
    price: str = ""
    interruption: str = "terminate"
    id: str = field(default_factory=random_spot_request_id)
    create_time: datetime = field(default_factory=now)

    type = "one-time"
    product_description = "Linux/UNIX"

    def set_options(self, spot_options: Mapping[str, Any]) -> None:
        self.price = spot_options.get("MaxPrice", "")
        self.interruption = spot_options.get("InstanceInterruptionBehavior", "terminate")

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
        """https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-request-status.html"""
        marked = self.instance.interrupted_at
        if self.state == "active":
            code = "marked-for-termination" if marked else "fulfilled"
        else:
            by_market = self.instance.state_reason.code.startswith("Server.Spot")
            code = f"instance-terminated-{'no-capacity' if by_market else 'by-user'}"
        return {"Code": code, "Message": "", "UpdateTime": marked or self.create_time}

    @property
    def launch_specification(self) -> dict[str, Any]:
        instance = self.instance
        return {"ImageId": instance.image_id, "InstanceType": instance.instance_type}


class LocalEC2Backend(ImageBackend, EC2Backend):  # type: ignore[misc]
    """EC2 in one region. `install` binds `site` before the first region is made."""

    def __init__(self, site: Site, region_name: str, account_id: str) -> None:
        self.site = site
        self.client_tokens: dict[str, tuple[str, str]] = {}
        super().__init__(region_name, account_id)
        # The key with which AWS encrypts volumes by default. Nothing is encrypted here: the key is
        # only shown where AWS shows it. The computer's own disk encryption protects the data.
        key = uuid.uuid5(uuid.NAMESPACE_URL, f"bake/{site.cloud_id}/{region_name}")
        self.default_kms_key_id = f"arn:{self.partition}:kms:{region_name}:{account_id}:key/{key}"

    @property
    def _url_module(self) -> Any:
        """The module of moto that contains the service's URLs."""
        return moto.ec2.urls

    def in_region(self, region: str) -> LocalEC2Backend:
        backend: LocalEC2Backend = ec2_backends[self.account_id][region]
        return backend

    def reset(self) -> None:
        raise EC2ClientError(
            "UnsupportedOperation", "The local cloud cannot be reset. End it: invoke local.down"
        )

    # Instances -------------------------------------------------------------------------------

    def run_instances(
        self,
        image_id: str,
        count: int,
        user_data: Any,
        security_group_names: list[str],
        **options: Any,
    ) -> Any:
        """Launch instances. Raises EC2's error if one cannot be launched; then none was made."""
        self._forget_long_gone()
        if options.get("launch_template"):
            template = self._get_template_from_args(options["launch_template"]).data
            image_id = image_id or template.get("ImageId")
            options = _with_template(options, template)
        image = self.usable_image(image_id)
        if options.get("key_name"):
            self.describe_key_pairs(key_names=[options["key_name"]])
        self._check_capacity(image, count, options)
        requested = options.pop("block_device_mappings", [])
        root = self._root_device(image, image_mappings(requested, image.block_device_mappings))
        requested_nics = options.get("nics") or []
        if not (security_group_names or options.get("security_group_ids") or requested_nics):
            options["security_group_ids"] = [self._default_group(options.get("subnet_id"))]
        if image.imds_support == "v2.0":
            # https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-IMDS-new-instances.html
            defaults = {"HttpTokens": "required", "HttpPutResponseHopLimit": 2}
            options["metadata_options"] = {**defaults, **(options.get("metadata_options") or {})}
        tags = options.get("tags", {})
        reservation = super().run_instances(
            image_id, count, user_data, security_group_names, block_device_mappings=[], **options
        )
        layer = self.site.layer(root["SnapshotId"])
        for instance in reservation.instances:
            _set_up_interfaces(instance, requested_nics, tags.get("network-interface", {}))
            self._attach_root(instance, image, root, tags.get("volume", {}))
            if options.get("instance_market_options"):
                self._request_spot(instance, tags.get("spot-instances-request", {}))
            instance.power_up(self.site, layer)
        image.last_launched_time = timestamp(now())
        return reservation

    def _forget_long_gone(self) -> None:
        for reservation in list(self.reservations.values()):
            if all(instance.is_long_gone() for instance in reservation.instances):
                del self.reservations[reservation.id]
        self.client_tokens = {
            token: (fingerprint, reservation_id)
            for token, (fingerprint, reservation_id) in self.client_tokens.items()
            if reservation_id in self.reservations
        }

    def _default_group(self, subnet_id: str | None) -> str:
        vpc_id = self.get_subnet(subnet_id).vpc_id if subnet_id else self.default_vpc.id
        return str(self.get_default_security_group(vpc_id).id)

    def modify_network_interface_attribute(
        self, eni_id: str, group_ids: list[str], *others: Any
    ) -> None:
        """Change the groups of a network interface.

        moto keeps groups of the instance besides those of its interface; EC2 does not.
        """
        super().modify_network_interface_attribute(eni_id, group_ids, *others)
        nic = self.get_network_interface(eni_id)
        if group_ids and nic.instance:
            nic.instance.security_groups = []

    def _delete_security_group(self, vpc_id: str | None, group_id: str) -> None:
        """Delete a group. Raises DependencyViolation if a machine is in it; moto does not check."""
        for nic in self.enis.values():
            if any(group.id == group_id for group in nic.group_set):
                raise EC2ClientError(
                    "DependencyViolation", f"resource {group_id} has a dependent object"
                )
        super()._delete_security_group(vpc_id, group_id)

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
            raise EC2ClientError("UnsupportedOperation", f"{others[0]}: {NO_DATA_DISKS}.")
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

    def _request_spot(self, instance: LocalInstance, tags: Mapping[str, str]) -> None:
        request = SpotRequest(ec2_backend=self, instance=instance)
        request.add_tags(dict(tags))
        self.spot_instance_requests[request.id] = request
        instance.spot_instance_request_id = request.id

    def spot_request_of(self, instance: LocalInstance) -> SpotRequest:
        request: SpotRequest = self.spot_instance_requests[instance.spot_instance_request_id]
        return request

    def attach_volume(self, *_: Any, **__: Any) -> Any:
        raise EC2ClientError("UnsupportedOperation", f"{NO_DATA_DISKS}.")


# The parameters of RunInstances that a launch template sets if the request does not contain them.
_TEMPLATE_PARAMETERS = {
    "key_name": "KeyName",
    "nics": "NetworkInterfaces",
    "block_device_mappings": "BlockDeviceMappings",
    "metadata_options": "MetadataOptions",
    "instance_initiated_shutdown_behavior": "InstanceInitiatedShutdownBehavior",
}


def _set_up_interfaces(
    instance: LocalInstance, requested: Sequence[Mapping[str, Any]], tags: Mapping[str, str]
) -> None:
    """Give the instance's interfaces what RunInstances requested; only a new one gets the tags."""
    for nic, specification in itertools.zip_longest(instance.network_interfaces, requested):
        wanted = specification or {}
        is_new = "NetworkInterfaceId" not in wanted
        if is_new:
            nic.add_tags(tags)
        nic.delete_on_termination = wanted.get("DeleteOnTermination", is_new)
        if wanted.get("AssociatePublicIpAddress") is False:
            instance.has_public_address = False


def _with_template(options: Mapping[str, Any], template: Mapping[str, Any]) -> dict[str, Any]:
    taken = {
        option: template[name] for option, name in _TEMPLATE_PARAMETERS.items() if name in template
    }
    if market := template.get("InstanceMarketOptions"):
        taken["instance_market_options"] = market["MarketType"]
    requested = {option: value for option, value in options.items() if value}
    if options.get("is_instance_type_default") and "InstanceType" in template:
        requested |= {"instance_type": template["InstanceType"], "is_instance_type_default": False}
    return {**options, **taken, **requested}


def install(site: Site) -> None:
    """Make moto use this backend. Call it once, before any region is made."""
    ec2_backends.backend = functools.partial(LocalEC2Backend, site)
    # moto's RunInstances makes instances of the class of this name.
    moto.ec2.models.instances.Instance = LocalInstance
    filter_dict_attribute_mapping.update(_MORE_FILTERS)
