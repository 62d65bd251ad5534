"""Launch instances in one region: check the whole request, then make everything, or nothing."""

from __future__ import annotations

import base64
import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from moto.core.types import Base64EncodedString
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.elastic_block_store import EBSBackend
from moto.ec2.models.instances import InstanceBackend

from bake.errors import LocalCloudError
from bake.local.api import user_data
from bake.local.api.image import now, timestamp
from bake.local.api.instance import LocalInstance
from bake.local.api.launch.checked import CheckedLaunches, Launch
from bake.local.api.launch.parameters import (
    Parameters,
    reservation_of,
    spot_options,
)
from bake.local.api.launch.spot_request import SpotRequest


class LaunchBackend(CheckedLaunches):
    """Replaces the launches of moto's `InstanceBackend`. The other methods of EC2 are moto's."""

    def launch(self: Any, request: Parameters) -> Any:
        """Launch instances and return their reservation.

        `request` has the form of RunInstances. Raises EC2's error if an instance cannot be
        launched; then none was made.
        """
        self._forget_long_gone()
        launch = self.checked_launch(request)
        with self._all_or_nothing():
            reservation = self._make_instances(launch)
            for instance in reservation.instances:
                self._complete(instance, launch)
        failure = self._key_failure(launch.root)
        for instance in reservation.instances:
            if failure:
                instance.fail_to_launch(failure)
            else:
                instance.power_up(self.site.layer(launch.root["SnapshotId"]))
        launch.image.last_launched_time = timestamp(now())
        return reservation

    def run_instances(self, *_: Any, **__: Any) -> Any:
        """Refuse moto's own launches, which do not pass through `launch`."""
        raise EC2ClientError("UnsupportedOperation", "The local cloud does not launch this way")

    def _key_failure(self: Any, root: Mapping[str, Any]) -> tuple[str, str, str] | None:
        """Return why an instance ends at once, if EBS cannot use the key of its root volume.

        EC2 accepts the launch: EBS uses the key later, and the instance is terminated with
        https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/troubleshooting-launch.html
        """
        default = self.default_kms_key_id
        key = root.get("KmsKeyId") or default
        if key in (default, default.rpartition("/")[2], "alias/aws/ebs"):
            return None
        code = "Client.InvalidKMSKey.InvalidState"
        return (code, "The KMS key provided is in an incorrect state", "")

    def spot_request_of(self: Any, instance: LocalInstance) -> SpotRequest:
        request: SpotRequest = self.spot_instance_requests[instance.spot_instance_request_id]
        return request

    # What is made ------------------------------------------------------------------------------

    def _make_instances(self: Any, launch: Launch) -> Any:
        parameters = launch.parameters
        options = dict(parameters.get("MetadataOptions", {}))
        if launch.image.imds_support == "v2.0":
            # https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/configuring-IMDS-new-instances.html
            options = {"HttpTokens": "required", "HttpPutResponseHopLimit": 2, **options}
        spot = spot_options(parameters) is not None
        return InstanceBackend.run_instances(
            self,
            launch.image.id,
            launch.count,
            _user_data(parameters.get("UserData")),
            [],
            instance_type=launch.instance_type,
            is_instance_type_default=False,
            placement=launch.zone,
            region_name=self.region_name,
            subnet_id=parameters.get("SubnetId"),
            key_name=parameters.get("KeyName"),
            security_group_ids=list(launch.group_ids),
            nics=[dict(each) for each in launch.interfaces],
            private_ip=parameters.get("PrivateIpAddress"),
            associate_public_ip=None,
            tags={"instance": launch.tags("instance")},
            ebs_optimized=bool(parameters.get("EbsOptimized")),
            disable_api_stop=bool(parameters.get("DisableApiStop")),
            disable_api_termination=bool(parameters.get("DisableApiTermination")),
            instance_market_options="spot" if spot else None,
            instance_initiated_shutdown_behavior=parameters.get(
                "InstanceInitiatedShutdownBehavior"
            ),
            hibernation_options={},
            monitoring_state="enabled"
            if parameters.get("Monitoring", {}).get("Enabled")
            else "disabled",
            metadata_options=options,
            client_token=parameters.get("ClientToken"),
            block_device_mappings=[],
        )

    def _complete(self: Any, instance: LocalInstance, launch: Launch) -> None:
        """Give a new instance its interfaces' attributes, root volume, profile and machine."""
        _set_up_interfaces(instance, launch.interfaces, launch.tags("network-interface"))
        self._attach_root(instance, launch)
        options = spot_options(launch.parameters)
        if options is not None:
            request = SpotRequest(ec2_backend=self, instance=instance)
            request.set_options(options)
            request.add_tags(launch.tags("spot-instances-request"))
            self.spot_instance_requests[request.id] = request
            instance.spot_instance_request_id = request.id
        instance.capacity_reservation_id = reservation_of(launch.parameters)
        if profile := launch.parameters.get("IamInstanceProfile"):
            self.associate_iam_instance_profile(
                instance.id,
                iam_instance_profile_name=profile.get("Name"),
                iam_instance_profile_arn=profile.get("Arn"),
            )
        try:
            instance.claim_machine(self.site)
        except LocalCloudError as error:
            raise EC2ClientError("InstanceLimitExceeded", error.message) from error

    def _attach_root(self: Any, instance: LocalInstance, launch: Launch) -> None:
        root = launch.root
        volume = self.create_volume(
            size=int(root["VolumeSize"]),
            zone_name=instance.placement.zone,
            snapshot_id=root["SnapshotId"],
            encrypted=root["Encrypted"],
            kms_key_id=root.get("KmsKeyId"),
            volume_type=root["VolumeType"],
            iops=root.get("Iops"),
            throughput=root.get("Throughput"),
        )
        volume.add_tags(launch.tags("volume"))
        EBSBackend.attach_volume(
            self,
            volume.id,
            instance.id,
            launch.image.root_device_name,
            root["DeleteOnTermination"],
        )

    @contextlib.contextmanager
    def _all_or_nothing(self: Any) -> Iterator[None]:
        """Remove everything that was made within this context if it ends with an error."""
        tables = (
            self.reservations,
            self.enis,
            self.volumes,
            self.spot_instance_requests,
            self.iam_instance_profile_associations,
            self.site.machines,
        )
        before = [set(table) for table in tables]
        try:
            yield
        except BaseException:
            for table, known in zip(tables, before, strict=True):
                for name in set(table) - known:
                    made = table.pop(name)
                    for instance in getattr(made, "instances", ()):
                        self.tags.pop(instance.id, None)
                    self.tags.pop(name, None)
            present = self.all_instances()
            for interface in self.enis.values():
                if interface.instance and interface.instance not in present:
                    interface.instance.detach_eni(interface)
            raise

    def _forget_long_gone(self: Any) -> None:
        for reservation in list(self.reservations.values()):
            if all(instance.is_long_gone() for instance in reservation.instances):
                del self.reservations[reservation.id]
        self.client_tokens = {
            token: (fingerprint, reservation_id)
            for token, (fingerprint, reservation_id) in self.client_tokens.items()
            if reservation_id in self.reservations
        }


def _user_data(encoded: str | None) -> Base64EncodedString | None:
    data = user_data.decoded(encoded)
    return Base64EncodedString.from_encoded_bytes(base64.b64encode(data)) if data else None


def _set_up_interfaces(
    instance: LocalInstance, requested: Sequence[Mapping[str, Any]], tags: Mapping[str, str]
) -> None:
    """Give the instance's interfaces what was requested; only a new one gets the tags."""
    for nic, specification in itertools.zip_longest(instance.network_interfaces, requested):
        wanted = specification or {}
        is_new = "NetworkInterfaceId" not in wanted
        if is_new:
            nic.add_tags(tags)
        nic.delete_on_termination = wanted.get("DeleteOnTermination", is_new)
        if wanted.get("AssociatePublicIpAddress") is False:
            instance.has_public_address = False
