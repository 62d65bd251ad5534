"""The launch that a request describes in one region: what it names is found, or it is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moto.ec2.exceptions import EC2ClientError
from moto.ec2.utils import filter_iam_instance_profiles
from moto.iam.exceptions import NotFoundException
from moto.ssm.models import ssm_backends

from bake.local.api.capacity import check_instance_type, check_vcpus
from bake.local.api.capacity_reservations import check_reservation
from bake.local.api.image import LocalImage
from bake.local.api.image_backend import ImageBackend
from bake.local.api.launch.checks import check_parameters, root_device
from bake.local.api.launch.parameters import Parameters, spot_options, tags_of, with_template
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


class CheckedLaunches(ImageBackend):
    """The checks that need the resources of a region: subnets, groups, images, quotas …"""

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
        self.check_quota(launch.instance_type, launch.count, spot=spot)
        self._check_profile(parameters.get("IamInstanceProfile", {}))
        check_reservation(self, parameters, zone)
        return launch

    def check_quota(self: Any, instance_type: str, count: int, *, spot: bool) -> None:
        """Raise EC2's error if that many more instances need more vCPUs than the quota allows."""
        alive = [
            instance
            for instance in self.all_instances()
            if instance.state in ("pending", "running", "stopping")
        ]
        check_vcpus(instance_type, count, spot=spot, running=alive)

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
