"""Commands of the AWS CLI that a person can paste into a shell, to remove or to show a resource."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Literal

from bake.aws.tags import RUN

# Characters that the CLI's shorthand syntax (`Name=…,Values=…`) takes without quotation marks.
_PLAIN_VALUE = re.compile(r"[\w./:@*-]+")

Resource = Literal[
    "spot request",
    "image",
    "machine",
    "volume",
    "security group",
    "key pair",
    "snapshot",
    "lease",
]
Listed = Literal["image", "machine", "security group", "snapshot"]

# The service, the operation and the parameter of the AWS CLI that remove a resource of this kind.
_REMOVALS: dict[Resource, tuple[str, str, str]] = {
    "spot request": ("ec2", "cancel-spot-instance-requests", "spot_instance_request_ids"),
    "image": ("ec2", "deregister-image", "image_id"),
    "machine": ("ec2", "terminate-instances", "instance_ids"),
    "volume": ("ec2", "delete-volume", "volume_id"),
    "security group": ("ec2", "delete-security-group", "group_id"),
    "key pair": ("ec2", "delete-key-pair", "key_name"),
    "snapshot": ("ec2", "delete-snapshot", "snapshot_id"),
    "lease": ("ssm", "delete-parameter", "name"),
}

# The operation that lists a kind of resource, where its answer holds the ids, and fixed parameters.
_LISTS: dict[Listed, tuple[str, str, dict[str, str]]] = {
    "image": ("describe-images", "Images[].ImageId", {"owners": "self"}),
    "machine": ("describe-instances", "Reservations[].Instances[].InstanceId", {}),
    "security group": ("describe-security-groups", "SecurityGroups[].GroupId", {}),
    "snapshot": ("describe-snapshots", "Snapshots[].SnapshotId", {"owner_ids": "self"}),
}


class Substitution(str):
    """A shell substitution, `$(…)`: `aws_command` does not quote it."""


def aws_command(
    service: str, operation: str, *, region: str, **parameters: str | Sequence[str] | bool
) -> str:
    """Return the `aws` command for one operation, quoted for the shell.

    `snapshot_id="snap-1"` becomes `--snapshot-id snap-1`. A sequence becomes several values after
    one option, True an option without a value; a parameter that is False is left out.
    """
    words = ["aws", service, operation, "--region", region]
    for name, value in parameters.items():
        if value is False:
            continue
        words.append(f"--{name.replace('_', '-')}")
        if isinstance(value, str):
            words.append(value)
        elif value is not True:
            words += value
    return " ".join(word if isinstance(word, Substitution) else shlex.quote(word) for word in words)


def removal_command(
    kind: Resource, resource_id: str, *, region: str, with_snapshots: bool = False
) -> str:
    """Return the command that removes a resource. The id of a key pair or of a lease is its name.

    `with_snapshots` deletes the snapshots of an image, too.
    """
    service, operation, parameter = _REMOVALS[kind]
    return aws_command(
        service,
        operation,
        region=region,
        delete_associated_snapshots=with_snapshots,
        **{parameter: resource_id},
    )


def filters(values: Mapping[str, str]) -> list[str]:
    """Return the values of the CLI's option `--filters`, in its shorthand syntax."""
    return [f"Name={name},Values={_shorthand(value)}" for name, value in values.items()]


def run_resources(
    kind: Listed, run_id: str, *, region: str, also: Mapping[str, str] | None = None
) -> Substitution:
    """Return a shell substitution for the ids of all resources of one kind with this run's tag.

    `also` are further filters, by EC2's names.
    """
    operation, query, parameters = _LISTS[kind]
    command = aws_command(
        "ec2",
        operation,
        region=region,
        filters=filters({f"tag:{RUN}": run_id, **(also or {})}),
        query=query,
        output="text",
        **parameters,
    )
    return Substitution(f"$({command})")


def _shorthand(value: str) -> str:
    if _PLAIN_VALUE.fullmatch(value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
