"""Which permissions the caller has, asked without changing anything.

Three ways, the surest first. EC2's dry runs: `DryRunOperation` where the call would be allowed,
`UnauthorizedOperation` where not (every operation's `DryRun`). What only looks is called. And
IAM's policy simulator, for those who may ask it (`simulator.py`). A call that is allowed only on
what carries our tag can be tried only on such a thing: EC2 looks at the permission before it looks
for the thing, and refuses one that is not there. What cannot be asked is never said to be allowed.
"""

from __future__ import annotations

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

Outcome = Literal["allowed", "missing", "not asked"]
Policy = Mapping[str, Any]
Params = dict[str, Any]

_NAME = "bake-doctor"
_TAGS = {RUN: _NAME}
# A public key that nobody has the other half of: it has to be one, or EC2 refuses that first.
_PUBLIC_KEY = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGCzZ4iFK9CtzuiLfV8zAVnR+lG38iwCCnt89DRmA5I+"
_DRY = {"DryRunOperation"}
# The answer of who was let in, and has asked for what is not there.
_NOT_THERE = {"ParameterNotFound", "NoSuchResourceException"}
_NAMED = re.compile(r"not authorized to perform: (\S+)(?: on resource: (\S+))?")
_AT_ONCE = 8
_HISTORY = "ListRequestedServiceQuotaChangeHistoryByQuota"


@dataclass(frozen=True)
class Permission:
    """`how` it was found out, or why it could not be."""

    action: str
    outcome: Outcome
    how: str


@dataclass(frozen=True)
class Ours:
    """One of each kind of what carries our tag; "" where there is none."""

    instance: str = ""
    interface: str = ""
    groups: tuple[str, ...] = ()  # that the interface is in
    volume: str = ""
    image: str = ""
    snapshot: str = ""
    group: str = ""
    key: str = ""
    spot_request: str = ""


def actions(policy: Policy) -> list[str]:
    """All that a policy allows, each once."""
    return sorted({action for each in policy["Statement"] for action in as_list(each["Action"])})


def statements(policy: Policy, missing: Iterable[str]) -> list[dict[str, Any]]:
    """What has to be added, so that these actions are allowed: the policy's own statements."""
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
    """Each action of the policy, in their order; nothing is changed.

    `image_id` and `placement` are what a machine would be started from, and where; "" and None
    where that is not known, and then it is not asked whether one may be.
    """
    wanted = set(actions(policy))
    questions = _looks(cloud, wanted)
    ours = _ours(cloud)
    questions |= _dry_runs(cloud, ours, image_id, placement)
    asked = [(action, ask) for action, ask in questions.items() if action in wanted]
    found: dict[str, Permission] = {}
    for batch in _batches(asked, _AT_ONCE):
        for answers in together(
            *(partial(_answer, action, ask, ours.group) for action, ask in batch)
        ):
            for answer in answers:
                _note(found, answer)
    unknown = [a for a in sorted(wanted) if a not in found or found[a].outcome == "not asked"]
    for action, allowed in simulate_policy(cloud, policy, unknown).items():
        outcome: Outcome = "allowed" if allowed else "missing"
        _note(found, Permission(action, outcome, "by IAM's simulator"))
    nothing = "nothing here to try it on"
    return [found.get(a) or Permission(a, "not asked", nothing) for a in sorted(wanted)]


def _note(found: dict[str, Permission], answer: Permission) -> None:
    """A refusal counts more than what was allowed, and that more than what could not be asked."""
    order: list[Outcome] = ["not asked", "allowed", "missing"]
    before = found.get(answer.action)
    if before is None or order.index(answer.outcome) > order.index(before.outcome):
        found[answer.action] = answer


def _answer(action: str, ask: Callable[[], Any], group: str) -> list[Permission]:
    """What one call says of its own action, or of another that it implies, as of tagging."""
    try:
        ask()
    except CloudError as error:
        if error.code in _DRY:
            return [Permission(action, "allowed", "by a dry run")]
        if error.code in _NOT_THERE:
            return [Permission(action, "allowed", "asked")]
        if error.code not in DENIED:
            said = ": ".join(part for part in (error.code, error.reason) if part)
            return [Permission(action, "not asked", said or error.message)]
        named = _NAMED.search(error.reason)
        refused = named[1].rstrip(".,") if named else action
        on = named[2] if named and named[2] else "security-group/"
        if action == refused == "ec2:RunInstances" and not group and "security-group/" in on:
            # EC2 takes the network's own group then, and that is one which the policy leaves out.
            return [Permission(action, "not asked", "no group of ours to start one behind")]
        if refused == action:
            return [Permission(action, "missing", error.code)]
        waits = Permission(action, "not asked", f"{refused} is refused before it")
        return [waits, Permission(refused, "missing", f"{error.code}, for {action}")]
    return [Permission(action, "allowed", "asked")]


# Questions ---------------------------------------------------------------------------------------


def _looks(cloud: Cloud, wanted: Iterable[str]) -> dict[str, Callable[[], Any]]:
    """What only looks: EC2's by dry runs, the other services' by asking for as little as can be."""
    more: Mapping[str, Params] = {"DescribeLaunchTemplateVersions": {"Versions": ["$Latest"]}}
    questions: dict[str, Callable[[], Any]] = {}
    for action in wanted:
        operation = action.removeprefix("ec2:")
        if operation.startswith("Describe") and operation != "DescribeImageAttribute":
            questions[action] = partial(
                cloud.ec2_once, operation, DryRun=True, **more.get(operation, {})
            )
    path = f"/bake/{_NAME}"
    quota = {"ServiceCode": "ec2", "QuotaCode": "L-1216C47A"}
    product = {"ServiceCode": "AmazonEC2", "MaxResults": 1}
    return questions | {
        "servicequotas:GetServiceQuota": partial(cloud.quotas, "GetServiceQuota", **quota),
        f"servicequotas:{_HISTORY}": partial(cloud.quotas, _HISTORY, **quota),
        "pricing:GetProducts": partial(cloud.pricing, "GetProducts", **product),
        "ssm:GetParameter": partial(cloud.ssm, "GetParameter", Name=path),
        "ssm:GetParametersByPath": partial(cloud.ssm, "GetParametersByPath", Path=path),
    }


def _dry_runs(
    cloud: Cloud, ours: Ours, image_id: str, placement: Placement | None
) -> dict[str, Callable[[], Any]]:
    """Those for which there is something to try them on."""
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
    if source := ours.image or image_id:
        calls["CopyImage"] = {
            "Name": _NAME,
            "SourceImageId": source,
            "SourceRegion": cloud.region,
            "TagSpecifications": tag("image", "snapshot"),
        }
    if placement and image_id:
        interface = {"DeviceIndex": 0, "SubnetId": placement.subnet_id}
        interface |= {"Groups": [ours.group]} if ours.group else {}
        calls["RunInstances"] = {
            "ImageId": image_id,
            "InstanceType": placement.instance_type,
            "MinCount": 1,
            "MaxCount": 1,
            "NetworkInterfaces": [interface],
            **({"KeyName": ours.key} if ours.key else {}),
            "TagSpecifications": tag("instance", "volume", "network-interface"),
        }
    calls |= _on_ours(ours, tag)
    return {
        f"ec2:{operation}": partial(cloud.ec2_once, operation, DryRun=True, **params)
        for operation, params in calls.items()
    }


def _on_ours(ours: Ours, tag: Callable[..., list[Params]]) -> dict[str, Params]:
    calls: dict[str, Params] = {}
    if ours.instance:
        for operation in ("Reboot", "Start", "Stop", "Terminate"):
            calls[f"{operation}Instances"] = {"InstanceIds": [ours.instance]}
        calls["GetConsoleOutput"] = {"InstanceId": ours.instance}
        made = {"Name": _NAME, "TagSpecifications": tag("image", "snapshot")}
        calls["CreateImage"] = {"InstanceId": ours.instance, **made}
    if ours.interface:
        calls["ModifyNetworkInterfaceAttribute"] = {
            "NetworkInterfaceId": ours.interface,
            "Groups": list(ours.groups),
        }
    if ours.volume:
        calls["CreateSnapshot"] = {"VolumeId": ours.volume, "TagSpecifications": tag("snapshot")}
        calls["DeleteVolume"] = {"VolumeId": ours.volume}
    if ours.image:
        image = {"ImageId": ours.image}
        calls["DeregisterImage"] = image
        calls["DescribeImageAttribute"] = {**image, "Attribute": "launchPermission"}
        calls["ModifyImageAttribute"] = {**image, "ImdsSupport": {"Value": "v2.0"}}
    if ours.snapshot:
        calls["DeleteSnapshot"] = {"SnapshotId": ours.snapshot}
        disk = {"DeviceName": "/dev/sda1", "Ebs": {"SnapshotId": ours.snapshot}}
        calls["RegisterImage"] = {
            "Name": _NAME,
            "RootDeviceName": "/dev/sda1",
            "BlockDeviceMappings": [disk],
            "TagSpecifications": tag("image"),
        }
    if ours.group:
        let_in = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22}
        let_in |= {"IpRanges": [{"CidrIp": "192.0.2.1/32"}]}
        calls["AuthorizeSecurityGroupIngress"] = {
            "GroupId": ours.group,
            "IpPermissions": [let_in],
        }
        calls["DeleteSecurityGroup"] = {"GroupId": ours.group}
    if ours.spot_request:
        calls["CancelSpotInstanceRequests"] = {"SpotInstanceRequestIds": [ours.spot_request]}
    if ours.key:
        calls["DeleteKeyPair"] = {"KeyName": ours.key}
    return calls


def _ours(cloud: Cloud) -> Ours:
    tagged = [{"Name": "tag-key", "Values": [RUN]}]
    alive = {"Name": "instance-state-name", "Values": ["running", "stopped"]}

    def first(operation: str, key: str, **params: Any) -> Params:
        try:
            filters = params.pop("Filters", tagged)
            return next(iter(cloud.ec2(operation, Filters=filters, **params)[key]), {})
        except CloudError:
            return {}  # it is asked about in its own place

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
    return Ours(
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
