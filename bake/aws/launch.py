"""Launching a machine with RunInstances, for builders and for machines that stay."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from bake.aws.client.commands import removal_command, run_resources
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

# Retried with the same token, so that only one machine starts. What is not found was
# created a moment ago by this run; some of EC2's servers do not know it yet.
_NOT_KNOWN = {"InvalidAMIID.NotFound", "InvalidGroup.NotFound", "InvalidKeyPair.NotFound"}
_RETRIED = TRANSIENT | _NOT_KNOWN
# For this time EC2 may not yet list a new instance.
_LISTED_S = 30.0
# About five minutes: EC2 throttles each operation (Developer Guide, "Request throttling"), and many
# bakes may start a machine at the same time.
_ATTEMPTS = 18


@dataclass(frozen=True)
class LaunchSpec:
    """The properties of a machine to launch.

    `disk_gb` is the size of the root volume, at least that of the image. `stays` is True for a
    launched machine and False for a builder: after a power-off from inside, a machine that stays is
    stopped and keeps its disk (or is terminated, with `at_end`), and a builder is terminated. The
    tag `bake:at-end` records what EC2 will do. `number` counts the run's machines: each needs its
    own token, because EC2 answers a used token with the earlier machine, even if it has ended.
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
    spec: LaunchSpec,
    placements: Sequence[Placement],
    *,
    on_state: OnState = lambda state: None,
    on_no_capacity: OnNoCapacity = lambda placement, error: None,
) -> Machine:
    """Launch a machine in the first placement that has capacity, and wait until it is running.

    Each placement is tried once. If it has no capacity, the next one is tried, even if EC2 finds
    that out only after it has accepted the request. When this raises, the machine is terminated.
    CapacityError if no placement has capacity, MachineError with AWS's reason if the machine ends
    while starting.
    """
    instance_id = ""

    def start(placement: Placement) -> Machine:
        nonlocal instance_id
        instance_id = ""
        on_state(f"requesting {placement}")
        instance_id = _start(cloud, run, spec, placement)
        return wait_until_running(cloud, instance_id, on_state=on_state)

    def refused(placement: Placement, error: CloudError) -> None:
        if instance_id:  # it was accepted, and has ended or stopped while it was pending
            remove_machine(cloud, run, instance_id, wait=False)
        on_no_capacity(placement, error)

    try:
        return first_with_capacity(placements, start, on_no_capacity=refused)
    except BaseException as error:
        # Needed even without an id: an interrupted call may have had its effect.
        remove_machine(
            cloud, run, instance_id, unknown_for_s=0 if was_refused(error) else _LISTED_S
        )
        raise


def _start(cloud: Cloud, run: Run, spec: LaunchSpec, placement: Placement) -> str:
    request = _request(run, spec, placement)
    call = partial(cloud.ec2_once, "RunInstances", **request)
    response = retry(call, cloud.clock, codes=_RETRIED, attempts=_ATTEMPTS)
    instance_id: str = response.first("Instances")["InstanceId"]
    return instance_id


def _request(run: Run, spec: LaunchSpec, placement: Placement) -> dict[str, Any]:
    # A one-time spot machine cannot be stopped, and EC2 refuses a request to do so.
    at_shutdown = spec.at_end
    if not spec.stays or placement.market == "spot":
        at_shutdown = "terminate"
    tags = spec.tags | ({AT_END: at_shutdown} if spec.stays else {})
    tagged = ["instance", "volume", "network-interface"]
    if placement.market == "spot":
        tagged.append("spot-instances-request")
    return {
        "ImageId": spec.image_id,
        "InstanceType": placement.instance_type,
        "MinCount": 1,
        "MaxCount": 1,
        # At most 64 characters: the same for a repeated request, different for each placement.
        "ClientToken": _token(run, spec, placement),
        "KeyName": spec.key_name,
        "UserData": spec.user_data,
        "InstanceInitiatedShutdownBehavior": at_shutdown,
        "MetadataOptions": {
            "HttpEndpoint": "enabled",
            "HttpTokens": "required",
            # Containers, which only a machine that stays runs, are one hop further away.
            "HttpPutResponseHopLimit": 2 if spec.stays else 1,
        },
        "NetworkInterfaces": [
            {
                "DeviceIndex": 0,
                "SubnetId": placement.subnet_id,
                "Groups": [spec.security_group_id],
                "AssociatePublicIpAddress": spec.public_address,
                "DeleteOnTermination": True,
            }
        ],
        "BlockDeviceMappings": [
            {
                "DeviceName": spec.root_device_name,
                "Ebs": {
                    "VolumeSize": spec.disk_gb,
                    "VolumeType": "gp3",
                    "Encrypted": True,
                    "DeleteOnTermination": True,
                },
            }
        ],
        "TagSpecifications": specifications(tags, *tagged),
        **_profile(spec.instance_profile),
        **_purchase(spec, placement),
    }


def _purchase(spec: LaunchSpec, placement: Placement) -> dict[str, Any]:
    """Return the request parameters for the market and the reservation of a placement.

    A builder leaves the open capacity reservations of the account to the machines for which they
    were made. A launched machine may use one, as with any other EC2 client.
    """
    purchase: dict[str, Any] = {}
    if placement.market == "spot":
        # One-time, because a persistent request would start the machine again by itself.
        options = {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"}
        purchase = {"InstanceMarketOptions": {"MarketType": "spot", "SpotOptions": options}}
    if reserved := placement.reservation:
        target = {"CapacityReservationId": reserved.reservation_id}
        purchase["CapacityReservationSpecification"] = {"CapacityReservationTarget": target}
        if reserved.block:
            purchase["InstanceMarketOptions"] = {"MarketType": "capacity-block"}
    elif not spec.stays and placement.market == "on-demand":  # a spot machine never uses one
        purchase["CapacityReservationSpecification"] = {"CapacityReservationPreference": "none"}
    return purchase


def _profile(name: str) -> dict[str, Any]:
    kind = "Arn" if name.startswith("arn:") else "Name"
    return {"IamInstanceProfile": {kind: name}} if name else {}


def _token(run: Run, spec: LaunchSpec, placement: Placement) -> str:
    return hashlib.sha256(f"{run.id} {spec.number} {placement}".encode()).hexdigest()


def remove_machine(
    cloud: Cloud, run: Run, instance_id: str = "", *, unknown_for_s: float = 0, wait: bool = True
) -> None:
    """Terminate a machine, or all machines of the run if `instance_id` is empty. Never raises.

    `unknown_for_s` is the time in which EC2 may not yet list a new machine. If `wait` is False,
    return as soon as EC2 has accepted the request.
    """
    which = instance_id or run_resources("machine", run.id, region=cloud.region)
    command = removal_command("machine", which, region=cloud.region)
    with undo(cloud.leftovers, f"machine {instance_id or f'of run {run.id}'}", command):
        found = [instance_id] if instance_id else None
        look = partial(_ids_of, cloud, run)
        ids = found or poll(look, timeout_s=unknown_for_s, clock=cloud.clock) or []
        terminate_all(cloud, ids, wait=wait)


def _ids_of(cloud: Cloud, run: Run) -> list[str] | None:
    return [machine.instance_id for machine in machines_of_run(cloud, run.id)] or None
