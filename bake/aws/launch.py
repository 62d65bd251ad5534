"""What is asked of RunInstances: one way for builders and for machines that stay."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from bake.aws.client.commands import aws_command, run_resources
from bake.aws.client.errors import TRANSIENT, was_refused
from bake.aws.client.retry import retry
from bake.aws.client.session import Cloud
from bake.aws.client.undo import undo
from bake.aws.client.wait import poll
from bake.aws.machine import Machine, OnState, machines_of_run, terminate_all, wait_until_running
from bake.aws.placement import Placement, first_with_capacity
from bake.aws.tags import AT_END, Run, Tags, specifications
from bake.errors import CloudError

OnNoCapacity = Callable[[Placement, CloudError], None]

# Asked again with the same token, and so never done twice. What is not found was made a moment ago
# by this run (the image, where it is of a checkpoint), and is not everywhere known yet.
_NOT_KNOWN = {"InvalidAMIID.NotFound", "InvalidGroup.NotFound", "InvalidKeyPair.NotFound"}
_ASK_AGAIN = TRANSIENT | _NOT_KNOWN
# How long a new instance may be missing where EC2 lists a run's.
_LISTED_S = 30.0
# Five minutes: EC2 lets few requests at a time pass for each operation (Developer Guide, "Request
# throttling"), and fifty bakes may ask at once.
_ATTEMPTS = 18


@dataclass(frozen=True)
class LaunchSpec:
    """A machine to be had: `disk_gb` is the size of its root volume, the image's or larger.

    `stays` is what sets a launched machine apart from a builder: when it is powered off from
    inside it is stopped and keeps its disk (unless `at_end` says that it is terminated), where a
    builder ends and leaves nothing. What EC2 will do then is in its tag `bake:at-end`. `number` is
    which of the run's machines it is: a token that was used gives the machine of then, even if that
    has ended.
    """

    image_id: str
    root_device_name: str
    disk_gb: int
    key_name: str
    security_group_id: str
    user_data: str
    tags: Tags
    stays: bool = False
    number: int = 1
    at_end: Literal["stop", "terminate"] = "stop"
    public_address: bool = True
    instance_profile: str = ""  # its name, or its ARN


def run_machine(
    cloud: Cloud,
    run: Run,
    order: LaunchSpec,
    placements: Sequence[Placement],
    *,
    on_state: OnState = lambda state: None,
    on_no_capacity: OnNoCapacity = lambda placement, error: None,
) -> Machine:
    """A running machine in the first placement that has room; terminated when it does not come up.

    Each is asked once: where there is no room the next one is the answer, also where EC2 finds that
    out only after it has taken the machine on. Raises CapacityError, or MachineError with AWS's
    reason when it ends while starting.
    """
    instance_id = ""

    def start(placement: Placement) -> Machine:
        nonlocal instance_id
        instance_id = ""
        on_state(f"asking for {placement}")
        instance_id = _start(cloud, run, order, placement)
        return wait_until_running(cloud, instance_id, on_state=on_state)

    try:
        return first_with_capacity(placements, start, on_no_capacity=on_no_capacity)
    except BaseException as error:
        # Also without an id: a call that was cut off may have taken effect.
        remove_machine(
            cloud, run, instance_id, unknown_for_s=0 if was_refused(error) else _LISTED_S
        )
        raise


def _start(cloud: Cloud, run: Run, order: LaunchSpec, placement: Placement) -> str:
    request = _request(run, order, placement)
    ask = partial(cloud.ec2_once, "RunInstances", **request)
    answer = retry(ask, cloud.clock, codes=_ASK_AGAIN, attempts=_ATTEMPTS)
    instance_id: str = answer.the_first("Instances")["InstanceId"]
    return instance_id


def _request(run: Run, order: LaunchSpec, placement: Placement) -> dict[str, Any]:
    tagged = ["instance", "volume", "network-interface"]
    how: dict[str, Any] = {}
    if placement.market == "spot":
        tagged.append("spot-instances-request")
        # One-time: a persistent request would start the machine again behind our back.
        options = {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}
        how = {"InstanceMarketOptions": {"MarketType": "spot", "SpotOptions": options}}
    if reserved := placement.reservation:
        target = {"CapacityReservationId": reserved.reservation_id}
        how["CapacityReservationSpecification"] = {"CapacityReservationTarget": target}
        if reserved.block:
            how["InstanceMarketOptions"] = {"MarketType": "capacity-block"}
    # A one-time spot machine cannot be stopped, and EC2 refuses a request that says it should.
    at_shutdown = order.at_end
    if not order.stays or placement.market == "spot":
        at_shutdown = "terminate"
    tags = order.tags | ({AT_END: at_shutdown} if order.stays else {})
    return {
        "ImageId": order.image_id,
        "InstanceType": placement.instance_type,
        "MinCount": 1,
        "MaxCount": 1,
        # At most 64 characters. The same for a repeated request, another for another placement.
        "ClientToken": _token(run, order, placement),
        "KeyName": order.key_name,
        "UserData": order.user_data,
        "InstanceInitiatedShutdownBehavior": at_shutdown,
        "MetadataOptions": {
            "HttpEndpoint": "enabled",
            "HttpTokens": "required",
            # Containers on a person's machine are one hop further away; none run on a builder.
            "HttpPutResponseHopLimit": 2 if order.stays else 1,
        },
        "NetworkInterfaces": [
            {
                "DeviceIndex": 0,
                "SubnetId": placement.subnet_id,
                "Groups": [order.security_group_id],
                "AssociatePublicIpAddress": order.public_address,
                "DeleteOnTermination": True,
            }
        ],
        "BlockDeviceMappings": [
            {
                "DeviceName": order.root_device_name,
                "Ebs": {
                    "VolumeSize": order.disk_gb,
                    "VolumeType": "gp3",
                    "Encrypted": True,
                    "DeleteOnTermination": True,
                },
            }
        ],
        "TagSpecifications": specifications(tags, *tagged),
        **_profile(order.instance_profile),
        **how,
    }


def _profile(name: str) -> dict[str, Any]:
    kind = "Arn" if name.startswith("arn:") else "Name"
    return {"IamInstanceProfile": {kind: name}} if name else {}


def _token(run: Run, order: LaunchSpec, placement: Placement) -> str:
    return hashlib.sha256(f"{run.id} {order.number} {placement}".encode()).hexdigest()


def remove_machine(
    cloud: Cloud, run: Run, instance_id: str = "", *, unknown_for_s: float = 0, wait: bool = True
) -> None:
    """Terminate a machine, or without an id all machines of the run. Never raises.

    `unknown_for_s`: for so long EC2 may not list a new machine yet. With `wait` False, return as
    soon as EC2 has accepted the request.
    """
    which = instance_id or run_resources("instance", run.id, region=cloud.region)
    command = aws_command("ec2", "terminate-instances", region=cloud.region, instance_ids=which)
    with undo(cloud.leftovers, f"machine {instance_id or f'of run {run.id}'}", command):
        found = [instance_id] if instance_id else None
        look = partial(_ids_of, cloud, run)
        ids = found or poll(look, timeout_s=unknown_for_s, clock=cloud.clock) or []
        terminate_all(cloud, ids, wait=wait)


def _ids_of(cloud: Cloud, run: Run) -> list[str] | None:
    return [machine.instance_id for machine in machines_of_run(cloud, run.id)] or None
