"""The resources of this account that refer to an image, which its removal would break.

EC2's own answer (DescribeImageReferences) covers SSM parameters and Image Builder recipes, and
resource types that AWS adds later. Of a launch template it reads only the ten newest versions (EC2
User Guide, "How AMI reference checks work"), but an Auto Scaling group may use any version. So all
versions are read here, too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from bake.aws.client.session import Cloud, filters_for
from bake.errors import CloudError

# The states of a machine that uses its image. Without them EC2 also reports terminated machines.
ALIVE = ("pending", "running", "stopping", "stopped", "shutting-down")
_KINDS = {
    "ec2:Instance": "the machine",
    "ec2:LaunchTemplate": "the launch template",
    "ssm:Parameter": "the SSM parameter",
    "imagebuilder:ImageRecipe": "the Image Builder recipe",
    "imagebuilder:ContainerRecipe": "the Image Builder container recipe",
}
# DescribeImageReferences: "Maximum number of 10 items".
_IDS = 10
# DescribeLaunchTemplates and DescribeLaunchTemplateVersions: "between 1 and 200".
_PAGE = 200
# EC2's codes for an operation that a region does not have.
_NOT_OFFERED = {"InvalidAction", "UnsupportedOperation"}


def find_references(cloud: Cloud, image_ids: Collection[str]) -> dict[str, str] | None:
    """Return what uses each image according to EC2, by id; unused images are left out.

    None if this region does not offer the operation. CloudError if EC2 refuses it, for example
    because a permission to read one type of resource is missing.
    """
    states = {"OptionName": "state-name", "OptionValues": list(ALIVE)}
    request = {
        "IncludeAllResourceTypes": True,
        "ResourceTypes": [{"ResourceType": "ec2:Instance", "ResourceTypeOptions": [states]}],
    }
    ids, users = sorted(image_ids), dict[str, str]()
    try:
        for first in range(0, len(ids), _IDS):
            some = {"ImageIds": ids[first : first + _IDS], **request}
            for found in cloud.pages("DescribeImageReferences", "ImageReferences", **some):
                users[found["ImageId"]] = _describe(found["ResourceType"], found["Arn"])
    except CloudError as error:
        if error.code in _NOT_OFFERED:
            return None
        raise
    return users


def _describe(resource_type: str, arn: str) -> str:
    """Return a phrase such as `the SSM parameter team/image`."""
    name = arn.split(":", 5)[-1].partition("/")[2] or arn
    return f"{_KINDS.get(resource_type, f'the resource ({resource_type})')} {name}"


def find_machines_of(cloud: Cloud, image_ids: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield image id and machine, for each machine in the account that has not terminated."""
    filters = filters_for({"instance-state-name": ALIVE})
    for reservation in cloud.pages("DescribeInstances", "Reservations", Filters=filters):
        for instance in reservation.get("Instances", []):
            if instance.get("ImageId") in image_ids:
                yield instance["ImageId"], instance["InstanceId"]


def find_templates_of(cloud: Cloud, image_ids: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield image id and launch template, for each version of each template that names an image."""
    size = {"MaxResults": _PAGE}
    for template in cloud.pages("DescribeLaunchTemplates", "LaunchTemplates", **size):
        versions = {"LaunchTemplateId": template["LaunchTemplateId"], **size}
        name = template.get("LaunchTemplateName", template["LaunchTemplateId"])
        for version in cloud.pages(
            "DescribeLaunchTemplateVersions", "LaunchTemplateVersions", **versions
        ):
            image_id = version.get("LaunchTemplateData", {}).get("ImageId")
            if image_id in image_ids:
                number = version.get("VersionNumber", "?")
                yield image_id, f"the launch template {name} (version {number})"
