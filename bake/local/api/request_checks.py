"""Refuse requests whose values EC2's API reference does not allow, whatever the operation.

botocore's model of EC2 is that reference: it contains each parameter's type, allowed values, range
and, in its documentation, the names of filters. The codes are in "Error codes for the Amazon EC2
API", https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from botocore.model import OperationModel, Shape
from moto.ec2.exceptions import EC2ClientError

# The type of an id in the model → how EC2 names it in an error, and the id's prefix.
_IDS = {
    "ImageId": ("InvalidAMIID", "ami"),
    "InstanceId": ("InvalidInstanceID", "i"),
    "SnapshotId": ("InvalidSnapshotID", "snap"),
    "VolumeId": ("InvalidVolumeID", "vol"),
    "SecurityGroupId": ("InvalidGroupId", "sg"),
    "SubnetId": ("InvalidSubnetID", "subnet"),
    "NetworkInterfaceId": ("InvalidNetworkInterfaceId", "eni"),
    "VpcId": ("InvalidVpcID", "vpc"),
    "LaunchTemplateId": ("InvalidLaunchTemplateId", "lt"),
}
IN_A_PARAMETER = "resolve:ssm:"  # begins an image id that is the name of an SSM parameter

# Types whose values are checked where they are used, with a code of their own.
_CHECKED_ELSEWHERE = {"InstanceType", "ImageNameRequest"}
_CODES = {"VolumeType": "UnknownVolumeType"}

# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Tags.html, "Tag restrictions"
MOST_TAGS, LONGEST_TAG_KEY, LONGEST_TAG_VALUE = 50, 128, 256

_FILTER = re.compile(r"<li>\s*<p>\s*<code>([^<]+)</code>")
# "This value can be between 5 and 1000", which the model has as numbers for some operations only.
FEWEST_RESULTS, MOST_RESULTS = 5, 1000


def check_request(operation: OperationModel, parameters: Mapping[str, Any]) -> None:
    """Raise EC2's error for the first value that the operation's model does not allow."""
    if operation.input_shape is None:
        return
    for name, shape, value in _values(operation.name, operation.input_shape, parameters):
        if shape.name == "TagList":
            check_tags([tag.get("Key") for tag in value], [tag.get("Value") for tag in value])
        elif shape.type_name == "string":
            _check_string(name, shape, value)
        elif shape.type_name in ("integer", "long", "float", "double"):
            _check_number(name, shape, value)
    _check_filters(operation, parameters)
    _check_page(operation, parameters)


def _values(name: str, shape: Shape, value: Any) -> Iterator[tuple[str, Shape, Any]]:
    """Yield each value of a request with its shape and its parameter's name."""
    yield name, shape, value
    if shape.type_name == "structure" and isinstance(value, Mapping):
        for key, member in shape.members.items():
            if value.get(key) is not None:
                yield from _values(key, member, value[key])
    elif shape.type_name == "list" and isinstance(value, Sequence):
        for each in value:
            yield from _values(name, shape.member, each)


def invalid_value(name: str, value: Any, why: str = "") -> EC2ClientError:
    """Return EC2's error for the value of one parameter."""
    parameter = name[:1].lower() + name[1:]
    message = f"Value ({value}) for parameter {parameter} is invalid. {why}".strip()
    return EC2ClientError("InvalidParameterValue", message)


def _check_string(name: str, shape: Shape, value: str) -> None:
    kind = shape.name.partition("With")[0].removesuffix("ForResolver")
    if value and kind in _IDS and not value.startswith(IN_A_PARAMETER):
        code, prefix = _IDS[kind]
        if not re.fullmatch(rf"{prefix}-(?:[0-9a-f]{{8}}|[0-9a-f]{{17}})", value):
            raise EC2ClientError(
                f"{code}.Malformed", f'Invalid id: "{value}" (expecting "{prefix}-...")'
            )
    if shape.name in _CHECKED_ELSEWHERE:
        return
    allowed = getattr(shape, "enum", None)
    if value and allowed and value not in allowed:
        error = invalid_value(name, value, f"The allowed values are {', '.join(allowed)}.")
        raise EC2ClientError(_CODES.get(shape.name, error.code), error.message)
    if len(value) > shape.metadata.get("max", len(value)):
        raise invalid_value(name, value, f"Its maximum length is {shape.metadata['max']}.")


def _check_number(name: str, shape: Shape, value: float) -> None:
    least, most = shape.metadata.get("min"), shape.metadata.get("max")
    if (least is not None and value < least) or (most is not None and value > most):
        raise invalid_value(name, value, f"Expecting a value from {least} to {most}.")


def check_tags(keys: Sequence[str | None], values: Sequence[str | None] = ()) -> None:
    """Raise EC2's error for the tags of one resource if they break its restrictions."""
    for key in keys:
        if not key:
            raise EC2ClientError("InvalidParameterValue", "Tag key cannot be null or empty")
        if key.lower().startswith("aws:"):
            raise EC2ClientError(
                "InvalidParameterValue",
                f"Value ( {key} ) for parameter key is invalid. "
                "Tag keys starting with 'aws:' are reserved for internal use",
            )
        if len(key) > LONGEST_TAG_KEY:
            raise EC2ClientError(
                "InvalidParameterValue",
                f"Tag key exceeds the maximum length of {LONGEST_TAG_KEY} characters",
            )
        if keys.count(key) > 1:
            raise EC2ClientError("InvalidParameterValue", f"Duplicate tag key '{key}' specified.")
    if any(len(value or "") > LONGEST_TAG_VALUE for value in values):
        raise EC2ClientError(
            "InvalidParameterValue",
            f"Tag value exceeds the maximum length of {LONGEST_TAG_VALUE} characters",
        )
    if len(keys) > MOST_TAGS:
        raise EC2ClientError(
            "TagLimitExceeded", "The maximum number of Tags for a resource has been reached."
        )


def _check_filters(operation: OperationModel, parameters: Mapping[str, Any]) -> None:
    member = operation.input_shape.members.get("Filters")
    known = _filters(member.documentation) if member else frozenset()
    for each in parameters.get("Filters") or ():
        name = str(each.get("Name"))
        # EC2 still accepts earlier names: isDefault for is-default, and tag-value.
        today = re.sub("[A-Z]", lambda letter: f"-{letter[0].lower()}", name)
        if known and not {today, name.partition(":")[0]} & {*known, "tag", "tag-value"}:
            raise EC2ClientError("InvalidParameterValue", f"The filter '{name}' is invalid")


@cache
def _filters(documentation: str) -> frozenset[str]:
    """Return the names of filters that the documentation of an operation lists."""
    return frozenset(_FILTER.findall(documentation))


def _check_page(operation: OperationModel, parameters: Mapping[str, Any]) -> None:
    size = parameters.get("MaxResults")
    if size is None:
        return
    member = operation.input_shape.members["MaxResults"]
    limits = member.metadata or {"min": 1}
    if operation.name in ("DescribeInstances", "DescribeTags"):
        limits = {"min": FEWEST_RESULTS, "max": MOST_RESULTS}
    if size < limits.get("min", 1) or size > limits.get("max", size):
        raise EC2ClientError(
            "InvalidParameterValue",
            f"Value ( {size} ) for parameter maxResults is invalid. "
            f"Expecting a value from {limits.get('min', 1)} to {limits.get('max', MOST_RESULTS)}.",
        )
    if "IDs parameter in the same request" in member.documentation:
        for name, shape in operation.input_shape.members.items():
            if name.endswith("Ids") and shape.type_name == "list" and parameters.get(name):
                kind = name.removesuffix("Ids").lower()
                raise EC2ClientError(
                    "InvalidParameterCombination",
                    f"The parameter {kind}sSet cannot be used with the parameter maxResults",
                )
