"""Launch instances in one region: check the whole request, then make everything, or nothing."""

from __future__ import annotations

import base64
import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moto.core.types import Base64EncodedString
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models.elastic_block_store import EBSBackend
from moto.ec2.models.instances import InstanceBackend
from moto.ec2.utils import filter_iam_instance_profiles
from moto.iam.exceptions import NotFoundException
from moto.ssm.models import ssm_backends

from bake.errors import LocalCloudError
from bake.local.api import user_data
from bake.local.api.capacity import check_instance_type, check_vcpus
from bake.local.api.capacity_reservations import check_reservation
from bake.local.api.image import LocalImage, now, timestamp
from bake.local.api.image_backend import ImageBackend
from bake.local.api.instance import LocalInstance
from bake.local.api.launch.checks import check_parameters, root_device
from bake.local.api.launch.parameters import (
    Parameters,
    reservation_of,
    spot_options,
    tags_of,
    with_template,
)
from bake.local.api.launch.spot_request import SpotRequest
from bake.local.api.request_checks import IN_A_PARAMETER, invalid_value
from bake.local.api.volumes import check_root

DEFAULT_TYPE = "m1.small"  # RunInstances, parameter InstanceType


@dataclass(frozen=True)
class Launch:
    """A checked launch: it can be made as it is."""

    parameters: Parameters
    image: LocalImage
    root: Mapping[str, Any]
    zone: str
    group_ids: Sequence[str]
    template: Any = None  # the version of the launch template, in moto's form

    @property
    def count(self) -> int:
        return int(self.parameters["MaxCount"])

    @property
    def instance_type(self) -> str:
        return str(self.parameters.get("InstanceType") or DEFAULT_TYPE)

    @property
    def interfaces(self) -> Sequence[Mapping[str, Any]]:
        interfaces: Sequence[Mapping[str, Any]] = self.parameters.get("NetworkInterfaces", ())
        return interfaces

    def tags(self, kind: str) -> dict[str, str]:
        tags = tags_of(self.parameters).get(kind, {})
        if kind == "instance" and self.template:
            tags |= {
                "aws:ec2launchtemplate:id": self.template.template.id,
                "aws:ec2launchtemplate:version": str(self.template.number),
            }
        return tags


class LaunchBackend(ImageBackend):
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

    # The checks --------------------------------------------------------------------------------

    def checked_launch(self: Any, request: Parameters) -> Launch:
        """Return the launch that a request describes. Raises EC2's error if it is not possible."""
        template = None
        if request.get("LaunchTemplate"):
            template = self.template_version(request["LaunchTemplate"])
        parameters = with_template(request, template.data if template else {})
        check_parameters(parameters)
        image = self.usable_image(self._image_id(parameters))
        if parameters.get("KeyName"):
            self.describe_key_pairs(key_names=[parameters["KeyName"]])
        subnet = self._subnet(parameters)
        zone = self._zone(parameters, subnet)
        spot = spot_options(parameters) is not None
        launch = Launch(
            parameters=parameters,
            image=image,
            root=self._root(image, parameters.get("BlockDeviceMappings", ())),
            zone=zone,
            group_ids=self._group_ids(parameters, subnet),
            template=template,
        )
        check_instance_type(
            launch.instance_type,
            region=self.region_name,
            zone=zone,
            architecture=image.architecture,
        )
        alive = [
            instance
            for instance in self.all_instances()
            if instance.state in ("pending", "running", "stopping")
        ]
        check_vcpus(launch.instance_type, launch.count, spot=spot, running=alive)
        self._check_profile(parameters.get("IamInstanceProfile", {}))
        check_reservation(self, parameters, zone)
        return launch

    def template_version(self: Any, named: Mapping[str, Any]) -> Any:
        """Return the version of a launch template that a request names, in moto's form."""
        if named.get("LaunchTemplateId"):
            found = self.describe_launch_templates(template_ids=[named["LaunchTemplateId"]])
        else:
            found = self.describe_launch_templates(template_names=[named["LaunchTemplateName"]])
        template, version = found[0], str(named.get("Version") or "$Default")
        if version.lower() == "$latest":
            return template.latest_version()
        if version.lower() == "$default":
            return template.default_version()
        for known in template.versions:
            if str(known.number) == version:
                return known
        raise EC2ClientError(
            "InvalidLaunchTemplateId.VersionNotFound",
            f"Could not find the specified version {version} for the launch template with ID "
            f"{template.id}.",
        )

    def _image_id(self: Any, parameters: Parameters) -> str:
        """Return the image's id, which may be in a parameter: resolve:ssm:NAME[:VERSION]."""
        image_id = str(parameters.get("ImageId") or "")
        if not image_id:
            raise EC2ClientError(
                "MissingParameter", "The request must contain the parameter ImageId"
            )
        if not image_id.startswith(IN_A_PARAMETER):
            return image_id
        name = image_id.removeprefix(IN_A_PARAMETER)
        parameter = ssm_backends[self.account_id][self.region_name].get_parameter(name)
        if parameter is None:
            raise invalid_value("ImageId", image_id, f"The parameter {name} does not exist.")
        return str(parameter.value)

    def _subnet(self: Any, parameters: Parameters) -> Any:
        """Return the subnet that a launch names, or None."""
        for each in (parameters, *parameters.get("NetworkInterfaces", ())):
            if each.get("NetworkInterfaceId"):
                interface = self.get_network_interface(each["NetworkInterfaceId"])
                if interface.instance:
                    raise EC2ClientError(
                        "InvalidNetworkInterface.InUse",
                        f"Interface: [{interface.id}] in use.",
                    )
                return interface.subnet
            if each.get("SubnetId"):
                return self.get_subnet(each["SubnetId"])
        if self.default_vpc is None:
            raise EC2ClientError("VPCIdNotSpecified", "No default VPC for this user")
        return None

    def _zone(self: Any, parameters: Parameters, subnet: Any) -> str:
        placement = parameters.get("Placement", {})
        zones = self.describe_availability_zones()
        requested = placement.get("AvailabilityZone")
        if by_id := placement.get("AvailabilityZoneId"):
            requested = next((zone.name for zone in zones if zone.zone_id == by_id), by_id)
        if requested and requested not in [zone.name for zone in zones]:
            raise EC2ClientError(
                "InvalidParameterValue", f"Invalid availability zone: [{requested}]"
            )
        if subnet and requested not in (None, subnet.availability_zone):
            raise invalid_value(
                "AvailabilityZone",
                requested,
                f"The subnet {subnet.id} is in {subnet.availability_zone}.",
            )
        own: str = subnet.availability_zone if subnet else ""
        return requested or own or f"{self.region_name}a"

    def _group_ids(self: Any, parameters: Parameters, subnet: Any) -> list[str]:
        """Return the ids of the security groups that are not named by a network interface."""
        vpc_id = subnet.vpc_id if subnet else self.default_vpc.id
        group_ids = list(parameters.get("SecurityGroupIds", ()))
        interfaces = parameters.get("NetworkInterfaces", ())
        for name in parameters.get("SecurityGroups", ()):
            group = self.get_security_group_by_name_or_id(name, vpc_id)
            if group is None:
                raise EC2ClientError(
                    "InvalidGroup.NotFound",
                    f"The security group '{name}' does not exist in default VPC '{vpc_id}'",
                )
            group_ids.append(group.id)
        named = [id for each in interfaces for id in each.get("Groups", ())]
        self.check_groups([*group_ids, *named], vpc_id)
        if not group_ids and not interfaces:
            group_ids = [self.get_default_security_group(vpc_id).id]
        return group_ids

    def check_groups(self: Any, group_ids: Sequence[str], vpc_id: str) -> None:
        """Raise EC2's error if a security group does not exist in this network."""
        for group_id in group_ids:
            group = self.get_security_group_from_id(group_id)
            if group is None:
                raise EC2ClientError(
                    "InvalidGroup.NotFound", f"The security group '{group_id}' does not exist"
                )
            if group.vpc_id != vpc_id:
                raise EC2ClientError(
                    "InvalidParameter",
                    f"Security group {group_id} and the subnet belong to different networks.",
                )

    def _root(
        self: Any, image: LocalImage, mappings: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        root = root_device(image, mappings)
        snapshot = self.get_snapshot(root["SnapshotId"])
        if snapshot.status != "completed":
            raise EC2ClientError("IncorrectState", f"Snapshot {snapshot.id} is {snapshot.status}")
        root.setdefault("VolumeSize", snapshot.volume_size)
        root["Encrypted"] = bool(root.get("Encrypted") or snapshot.encrypted)
        check_root(root, snapshot.volume_size)
        return root

    def _check_profile(self: Any, profile: Mapping[str, str]) -> None:
        for member, value in profile.items():
            names = dict.fromkeys(("iam_instance_profile_arn", "iam_instance_profile_name"))
            names[f"iam_instance_profile_{member.lower()}"] = value
            try:
                filter_iam_instance_profiles(self.account_id, self.partition, **names)
            except NotFoundException:
                raise invalid_value(
                    f"iamInstanceProfile.{member.lower()}",
                    value,
                    f"Invalid IAM Instance Profile {'ARN' if member == 'Arn' else 'name'}",
                ) from None

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
