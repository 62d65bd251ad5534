"""EC2 in the local cloud: moto's, with real machines behind instances and layers behind images.

moto implements what is only data: networks, security groups, key pairs, tags, launch templates.
Its invented machines, images and snapshots are replaced here, following AWS's API reference
(https://docs.aws.amazon.com/AWSEC2/latest/APIReference/).
"""

from __future__ import annotations

import functools
import uuid
from typing import Any

import moto.ec2.models.instances
import moto.ec2.urls
import moto.ec2.utils
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import EC2Backend, ec2_backends
from moto.ec2.utils import filter_dict_attribute_mapping

from bake.local.api.filters import matches
from bake.local.api.instance import LocalInstance
from bake.local.api.launch.backend import LaunchBackend
from bake.local.api.region import exists
from bake.local.api.request_checks import invalid_value
from bake.local.api.snapshot_backend import NO_DATA_DISKS
from bake.local.site import Site

# Filters of DescribeInstances that moto lacks → the instance's attribute that is compared.
_MORE_FILTERS = {
    "client-token": "client_token",
    "instance-lifecycle": "lifecycle",
    "root-device-name": "root_device_name",
    "state-reason-code": "state_reason.code",
    "instance-state-code": "state_code",
    "spot-instance-request-id": "spot_instance_request_id",
}


class LocalEC2Backend(LaunchBackend, EC2Backend):  # type: ignore[misc]
    """EC2 in one region. `install` binds `site` before the first region is made."""

    def __init__(self, site: Site, region_name: str, account_id: str) -> None:
        self.site = site
        self.client_tokens: dict[str, tuple[str, str]] = {}
        # Operation and client token → the first request's parameters, and the response to it.
        self.responses: dict[tuple[str, str], tuple[str, Any]] = {}
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
        """Return another region. Raises EC2's error if it does not exist."""
        if not exists(region):
            raise invalid_value("SourceRegion", region)
        backend: LocalEC2Backend = ec2_backends[self.account_id][region]
        return backend

    def reset(self) -> None:
        raise EC2ClientError(
            "UnsupportedOperation", "The local cloud cannot be reset. End it: invoke local.down"
        )

    # Instances -------------------------------------------------------------------------------

    def modify_network_interface_attribute(
        self, eni_id: str, group_ids: list[str], *others: Any
    ) -> None:
        """Change the groups of a network interface.

        moto keeps groups of the instance besides those of its interface; EC2 does not.
        """
        super().modify_network_interface_attribute(eni_id, group_ids, *others)
        nic = self.get_network_interface(eni_id)
        if group_ids and nic.instance:
            nic.instance.security_groups = [
                self.get_security_group_from_id(group_id) for group_id in group_ids
            ]

    def _delete_security_group(self, vpc_id: str | None, group_id: str) -> None:
        """Delete a group. Raises DependencyViolation if a machine is in it; moto does not check."""
        for nic in self.enis.values():
            if any(group.id == group_id for group in nic.group_set):
                raise EC2ClientError(
                    "DependencyViolation", f"resource {group_id} has a dependent object"
                )
        super()._delete_security_group(vpc_id, group_id)

    def attach_volume(self, *_: Any, **__: Any) -> Any:
        raise EC2ClientError("UnsupportedOperation", f"{NO_DATA_DISKS}.")


def install(site: Site) -> None:
    """Make moto use this backend. Call it once, before any region is made."""
    ec2_backends.backend = functools.partial(LocalEC2Backend, site)
    # moto's RunInstances makes instances of the class of this name.
    moto.ec2.models.instances.Instance = LocalInstance
    filter_dict_attribute_mapping.update(_MORE_FILTERS)
    # moto compares the values of an instance without wildcards.
    moto.ec2.utils.instance_value_in_filter_values = matches
