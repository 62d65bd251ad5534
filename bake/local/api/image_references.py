"""DescribeImageReferences in the local cloud: what refers to an image, as far as the cloud has it.

The local cloud does not offer Image Builder, so no recipe refers to an image. Source: EC2 User
Guide, "Identify your resources referencing specified AMIs".
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError
from moto.ssm.models import ssm_backends

_TYPES = (
    "ec2:Instance",
    "ec2:LaunchTemplate",
    "ssm:Parameter",
    "imagebuilder:ImageRecipe",
    "imagebuilder:ContainerRecipe",
)
_STATES = ("pending", "running", "shutting-down", "terminated", "stopping", "stopped")
_VERSIONS = 10
_MOST_IMAGES = 10


class ImageReferences:
    """The request for the resources that refer to images."""

    def describe_image_references(self: Any) -> ActionResult:
        self.error_on_dryrun()
        image_ids = self._get_param("ImageIds", [])
        if not 1 <= len(image_ids) <= _MOST_IMAGES:
            raise EC2ClientError("InvalidParameterValue", "ImageIds must have 1 to 10 items.")
        requested = {
            each["ResourceType"]: {
                option["OptionName"]: option["OptionValues"]
                for option in each.get("ResourceTypeOptions", ())
            }
            for each in self._get_param("ResourceTypes", [])
        }
        if self._get_bool_param("IncludeAllResourceTypes", False):
            requested = {kind: requested.get(kind, {}) for kind in _TYPES}
        if not requested:
            raise EC2ClientError(
                "MissingParameter", "IncludeAllResourceTypes or ResourceTypes must be specified."
            )
        found = [
            {"ImageId": image_id, "ResourceType": kind, "Arn": arn}
            for kind, options in requested.items()
            for image_id, arn in self._references(kind, options)
            if image_id in image_ids
        ]
        return ActionResult({"ImageReferences": found})

    def _references(
        self: Any, kind: str, options: dict[str, Sequence[str]]
    ) -> Iterator[tuple[str, str]]:
        ec2, where = self.ec2_backend, f"{self.region}:{self.current_account}"
        arn_of = f"arn:{ec2.partition}"
        if kind == "ec2:Instance":
            states = options.get("state-name", _STATES)
            for instance in ec2.all_instances():
                if instance.state in states:
                    yield instance.image_id, f"{arn_of}:ec2:{where}:instance/{instance.id}"
        elif kind == "ec2:LaunchTemplate":
            depth = int(options.get("version-depth", [str(_VERSIONS)])[0])
            for template in ec2.launch_templates.values():
                arn = f"{arn_of}:ec2:{where}:launch-template/{template.id}"
                for image_id in {each.data.get("ImageId") for each in template.versions[-depth:]}:
                    yield image_id, arn
        elif kind == "ssm:Parameter":
            parameters = ssm_backends[self.current_account][self.region]._parameters
            for name, versions in parameters.items():
                newest = versions[-1]
                if newest.parameter_type != "SecureString":
                    for value in newest.value.split(","):
                        yield value, f"{arn_of}:ssm:{where}:parameter/{name.removeprefix('/')}"
