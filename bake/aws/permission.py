"""The permissions of the caller, found out without changing anything.

There are three ways to find out. A call of EC2 is made as a dry run (parameter `DryRun`): EC2
answers `DryRunOperation` if it would allow the call, and `UnauthorizedOperation` if not. A call of
another service that only reads is made. For the rest, IAM's policy simulator
(`policy_simulator.py`) is used, if the caller may use it. A call that is allowed only for resources
with the tag `bake:run` can be tried only on such a resource, because EC2 checks the permission
before it looks for the resource. An action that could not be tried is never reported as allowed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from bake.aws.client.errors import DENIED
from bake.aws.client.session import Cloud
from bake.aws.placement import Placement
from bake.aws.policy_simulator import as_list, simulate_policy
from bake.aws.tags import RUN, specifications
from bake.errors import CloudError
from bake.threads import together

PermissionOutcome = Literal["allowed", "missing", "not checked"]
Policy = Mapping[str, Any]
Params = dict[str, Any]

_NAME = "bake-doctor"
_TAGS = {RUN: _NAME}
# A valid public key, since EC2 would refuse an invalid one first. Its private key does not exist.
_PUBLIC_KEY = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGCzZ4iFK9CtzuiLfV8zAVnR+lG38iwCCnt89DRmA5I+"
_DRY_RUN = {"DryRunOperation"}
# Codes of a response about a missing resource: the caller has the permission.
_NOT_FOUND = {"ParameterNotFound", "NoSuchResourceException"}
_DENIED_ACTION = re.compile(r"not authorized to perform: (\S+)(?: on resource: (\S+))?")
_BATCH = 8
# Calls that only read, and need an image.
_WITH_IMAGE = {"DescribeImageAttribute", "DescribeImageReferences"}
# EC2 reads with these permissions of the caller what refers to an image.
_REFERENCES = (
    "imagebuilder:GetContainerRecipe",
    "imagebuilder:ListContainerRecipes",
    "imagebuilder:ListImageRecipes",
    "ssm:DescribeParameters",
    "ssm:GetParameters",
)
_HISTORY = "ListRequestedServiceQuotaChangeHistoryByQuota"


@dataclass(frozen=True)
class Permission:
    """The outcome for one action. `how` tells how it was found out, or why it was not."""

    action: str
    outcome: PermissionOutcome
    how: str


@dataclass(frozen=True)
class OwnResources:
    """The id of one resource of each kind with the tag `bake:run`; "" if there is none."""

    instance: str = ""
    interface: str = ""
    groups: tuple[str, ...] = ()  # of the interface
    volume: str = ""
    image: str = ""
    snapshot: str = ""
    group: str = ""
    key: str = ""
    spot_request: str = ""


def actions(policy: Policy) -> list[str]:
    """Return all actions that a policy allows, sorted."""
    return sorted({action for each in policy["Statement"] for action in as_list(each["Action"])})


def in_partition(policy: Policy, partition: str) -> Policy:
    """Return the policy with the ARNs of another part of AWS, such as aws-us-gov."""
    text = json.dumps(policy).replace('"arn:aws:', f'"arn:{partition}:')
    converted: Policy = json.loads(text)
    return converted


def statements(policy: Policy, missing: Iterable[str]) -> list[dict[str, Any]]:
    """Return the parts of the policy's statements that allow these actions."""
    wanted = set(missing)
    added = []
    for statement in policy["Statement"]:
        chosen = [action for action in as_list(statement["Action"]) if action in wanted]
        if chosen:
            added.append({**statement, "Action": chosen})
    return added


def permissions(
    cloud: Cloud,
    policy: Policy,
    *,
    image_id: str = "",
    placement: Placement | None = None,
) -> list[Permission]:
    """Return the permission for each action of the policy, sorted; nothing is changed.

    `image_id` and `placement` describe a machine that would be launched. Without them, the
    permission to launch is not tried.
    """
    wanted = set(actions(policy))
    tests = _reading_calls(cloud, wanted)
    own = _find_own_resources(cloud)
    tests |= _reference_calls(cloud, own.image or image_id)
    tests |= _dry_runs(cloud, own, image_id, placement)
    chosen = [(action, call) for action, call in tests.items() if action in wanted]
    found: dict[str, Permission] = {}
    for batch in _batches(chosen, _BATCH):
        for results in together(
            *(partial(_try, action, call, own.group) for action, call in batch)
        ):
            for result in results:
                _record(found, result)
    unknown = [a for a in sorted(wanted) if a not in found or found[a].outcome == "not checked"]
    for action, allowed in simulate_policy(cloud, policy, unknown).items():
        outcome: PermissionOutcome = "allowed" if allowed else "missing"
        _record(found, Permission(action, outcome, "by IAM's simulator"))
    nothing = "no resource to try it on"
    return [found.get(a) or Permission(a, "not checked", nothing) for a in sorted(wanted)]


def _record(found: dict[str, Permission], result: Permission) -> None:
    """Keep the strongest outcome of each action: missing, then allowed, then not asked."""
    order: list[PermissionOutcome] = ["not checked", "allowed", "missing"]
    before = found.get(result.action)
    if before is None or order.index(result.outcome) > order.index(before.outcome):
        found[result.action] = result


def _try(action: str, call: Callable[[], Any], group: str) -> list[Permission]:
    """Make a call; return what it shows about its action, or about an implied one (tagging)."""
    try:
        call()
    except CloudError as error:
        if error.code in _DRY_RUN:
            return [Permission(action, "allowed", "by a dry run")]
        if error.code in _NOT_FOUND:
            return [Permission(action, "allowed", "by a call")]
        if error.code not in DENIED:
            return [Permission(action, "not checked", error.cloud_words or error.message)]
        named = _DENIED_ACTION.search(error.reason)
        denied = named[1].rstrip(".,") if named else action
        resource = named[2] if named and named[2] else "security-group/"
        if action == denied == "ec2:RunInstances" and not group and "security-group/" in resource:
            # Without a group EC2 uses the default group of the VPC, which the policy leaves out.
            return [Permission(action, "not checked", "no security group to launch a machine with")]
        if denied == action:
            return [Permission(action, "missing", error.code)]
        hidden = Permission(action, "not checked", f"{denied} is denied before it")
        return [hidden, Permission(denied, "missing", f"{error.code}, for {action}")]
    return [Permission(action, "allowed", "by a call")]


# Calls that show a permission --------------------------------------------------------------------


def _reading_calls(cloud: Cloud, wanted: Iterable[str]) -> dict[str, Callable[[], Any]]:
    """Return the calls that only read: EC2's as dry runs, the others with a small result."""
    more: Mapping[str, Params] = {"DescribeLaunchTemplateVersions": {"Versions": ["$Latest"]}}
    calls: dict[str, Callable[[], Any]] = {}
    for action in wanted:
        operation = action.removeprefix("ec2:")
        reads = operation.startswith("Describe") and operation not in _WITH_IMAGE
        if reads or operation == "GetEbsDefaultKmsKeyId":
            calls[action] = partial(
                cloud.ec2_once, operation, DryRun=True, **more.get(operation, {})
            )
    path = f"/bake/{_NAME}"
    quota = {"ServiceCode": "ec2", "QuotaCode": "L-1216C47A"}
    product = {"ServiceCode": "AmazonEC2", "MaxResults": 1}
    return calls | {
        "servicequotas:GetServiceQuota": partial(cloud.quotas, "GetServiceQuota", **quota),
        f"servicequotas:{_HISTORY}": partial(cloud.quotas, _HISTORY, **quota),
        "pricing:GetProducts": partial(cloud.pricing, "GetProducts", **product),
        "ssm:GetParameter": partial(cloud.ssm, "GetParameter", Name=path),
        "ssm:GetParametersByPath": partial(cloud.ssm, "GetParametersByPath", Path=path),
    }


def _reference_calls(cloud: Cloud, image_id: str) -> dict[str, Callable[[], Any]]:
    """Return the call that shows whether everything that refers to an image can be read.

    It is not a dry run, which would not read anything. A denial names the missing permission.
    """
    if not image_id:
        return {}
    call = partial(
        cloud.ec2_once,
        "DescribeImageReferences",
        ImageIds=[image_id],
        IncludeAllResourceTypes=True,
    )
    return dict.fromkeys(("ec2:DescribeImageReferences", *_REFERENCES), call)


def _dry_runs(
    cloud: Cloud, own: OwnResources, image_id: str, placement: Placement | None
) -> dict[str, Callable[[], Any]]:
    """Return dry runs of the calls whose parameters are known."""
    tag = partial(specifications, _TAGS)
    calls: dict[str, Params] = {
        "ImportKeyPair": {
            "KeyName": _NAME,
            "PublicKeyMaterial": _PUBLIC_KEY,
            "TagSpecifications": tag("key-pair"),
        }
    }
    if placement:
        calls["CreateSecurityGroup"] = {
            "GroupName": _NAME,
            "Description": "bake",
            "VpcId": placement.vpc_id,
            "TagSpecifications": tag("security-group"),
        }
    if source := own.image or image_id:
        calls["CopyImage"] = {
            "Name": _NAME,
            "SourceImageId": source,
            "SourceRegion": cloud.region,
            "TagSpecifications": tag("image", "snapshot"),
        }
    if placement and image_id:
        interface = {"DeviceIndex": 0, "SubnetId": placement.subnet_id}
        interface |= {"Groups": [own.group]} if own.group else {}
        calls["RunInstances"] = {
            "ImageId": image_id,
            "InstanceType": placement.instance_type,
            "MinCount": 1,
            "MaxCount": 1,
            "NetworkInterfaces": [interface],
            **({"KeyName": own.key} if own.key else {}),
            "TagSpecifications": tag("instance", "volume", "network-interface"),
        }
    calls |= _calls_on_own(own, tag)
    return {
        f"ec2:{operation}": partial(cloud.ec2_once, operation, DryRun=True, **params)
        for operation, params in calls.items()
    }


def _calls_on_own(own: OwnResources, tag: Callable[..., list[Params]]) -> dict[str, Params]:
    calls: dict[str, Params] = {}
    if own.instance:
        for operation in ("Reboot", "Start", "Stop", "Terminate"):
            calls[f"{operation}Instances"] = {"InstanceIds": [own.instance]}
        calls["GetConsoleOutput"] = {"InstanceId": own.instance}
        made = {"Name": _NAME, "TagSpecifications": tag("image", "snapshot")}
        calls["CreateImage"] = {"InstanceId": own.instance, **made}
    if own.interface:
        calls["ModifyNetworkInterfaceAttribute"] = {
            "NetworkInterfaceId": own.interface,
            "Groups": list(own.groups),
        }
    if own.volume:
        calls["CreateSnapshot"] = {"VolumeId": own.volume, "TagSpecifications": tag("snapshot")}
        calls["DeleteVolume"] = {"VolumeId": own.volume}
    if own.image:
        image = {"ImageId": own.image}
        calls["DeregisterImage"] = image
        calls["DescribeImageAttribute"] = {**image, "Attribute": "launchPermission"}
        calls["ModifyImageAttribute"] = {**image, "ImdsSupport": {"Value": "v2.0"}}
    if own.snapshot:
        calls["DeleteSnapshot"] = {"SnapshotId": own.snapshot}
        disk = {"DeviceName": "/dev/sda1", "Ebs": {"SnapshotId": own.snapshot}}
        calls["RegisterImage"] = {
            "Name": _NAME,
            "RootDeviceName": "/dev/sda1",
            "BlockDeviceMappings": [disk],
            "TagSpecifications": tag("image"),
        }
    if own.group:
        rule = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22}
        rule |= {"IpRanges": [{"CidrIp": "192.0.2.1/32"}]}
        allowed = {"GroupId": own.group, "IpPermissions": [rule]}
        calls["AuthorizeSecurityGroupIngress"] = allowed
        calls["RevokeSecurityGroupEgress"] = allowed
        calls["RevokeSecurityGroupIngress"] = allowed
        calls["DeleteSecurityGroup"] = {"GroupId": own.group}
    if own.spot_request:
        calls["CancelSpotInstanceRequests"] = {"SpotInstanceRequestIds": [own.spot_request]}
    if own.key:
        calls["DeleteKeyPair"] = {"KeyName": own.key}
    return calls


def _find_own_resources(cloud: Cloud) -> OwnResources:
    tagged = [{"Name": "tag-key", "Values": [RUN]}]
    alive = {"Name": "instance-state-name", "Values": ["running", "stopped"]}

    def first(operation: str, key: str, **params: Any) -> Params:
        try:
            filters = params.pop("Filters", tagged)
            return next(iter(cloud.ec2(operation, Filters=filters, **params)[key]), {})
        except CloudError:
            return {}  # another call shows whether the permission is missing

    reservation, image, snapshot, group, key, spot_request = together(
        partial(first, "DescribeInstances", "Reservations", Filters=[*tagged, alive]),
        partial(first, "DescribeImages", "Images", Owners=["self"]),
        partial(first, "DescribeSnapshots", "Snapshots", OwnerIds=["self"]),
        partial(first, "DescribeSecurityGroups", "SecurityGroups"),
        partial(first, "DescribeKeyPairs", "KeyPairs"),
        partial(first, "DescribeSpotInstanceRequests", "SpotInstanceRequests"),
    )
    instance: Params = next(iter(reservation.get("Instances", ())), {})
    interface: Params = next(iter(instance.get("NetworkInterfaces", ())), {})
    disks = [each["Ebs"]["VolumeId"] for each in instance.get("BlockDeviceMappings", ())]
    return OwnResources(
        instance=instance.get("InstanceId", ""),
        interface=interface.get("NetworkInterfaceId", ""),
        groups=tuple(each["GroupId"] for each in interface.get("Groups", ())),
        volume=disks[0] if disks else "",
        image=image.get("ImageId", ""),
        snapshot=snapshot.get("SnapshotId", ""),
        group=group.get("GroupId", ""),
        key=key.get("KeyName", ""),
        spot_request=spot_request.get("SpotInstanceRequestId", ""),
    )


def _batches(all_of: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(all_of), size):
        yield all_of[start : start + size]
