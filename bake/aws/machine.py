"""Machines (EC2 instances): listing, starting, stopping and terminating them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from types import MappingProxyType
from typing import Any

from bake.aws.client.commands import aws_command
from bake.aws.client.errors import DENIED, hint_for
from bake.aws.client.session import Cloud, filters_for
from bake.aws.client.wait import MINUTE, poll, wait_until
from bake.aws.placement import Market
from bake.aws.security_group import remove_security_groups
from bake.aws.tags import (
    EXPIRES,
    NAME,
    RECIPE,
    RUN,
    USED_BY,
    VIA,
    Tags,
    parse_time,
    read,
    specifications,
)
from bake.errors import CloudError, LostError, MachineError, RequestError

OnState = Callable[[str], None]

# The largest GPU machines take minutes to start, and longer to release their GPUs.
_START_S = 15 * MINUTE
_END_S = 30 * MINUTE
# How long a new instance may be unknown to some of EC2's servers.
_KNOWN_S = 2 * MINUTE
_ALIVE = ["pending", "running", "stopping", "stopped", "shutting-down"]
_NOT_FOUND = {"InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed"}
# Codes of reasons that another machine may not meet (API reference, "StateReason"). Others, such as
# a quota or a missing snapshot, would stop another machine as well.
_WORTH_ANOTHER_MACHINE = {
    "Server.InsufficientInstanceCapacity",
    "Server.InternalError",
    "Server.ScheduledStop",
    "Server.SpotInstanceShutdown",
    "Server.SpotInstanceTermination",
    "Client.UserInitiatedShutdown",
}
# A machine in these states never runs again; the values are those of `never` below.
_ENDED: Mapping[str, float] = MappingProxyType({"shutting-down": 0.0, "terminated": 0.0})
_OTHER_REGION = "A machine is found only in its own region: --region us-west-2, for example"
# States of a machine that no longer works.
GONE = frozenset({"stopping", "stopped", "shutting-down", "terminated"})


@dataclass(frozen=True)
class Machine:
    """An instance as EC2 describes it; `address` is its public address, or None.

    `reason` and `reason_code` are AWS's explanation of the last change of state, if it gives one.
    `root_volume_id` is "" until the volume exists. `network_interface_id` is the id of the first
    interface; it is "" before the start and after the end. A `prepaid` machine runs in a Capacity
    Block, which is paid for in advance.
    """

    instance_id: str
    name: str
    state: str
    instance_type: str
    zone: str
    market: Market
    address: str | None
    launched_at: datetime
    image_id: str
    key_name: str | None
    reason_code: str
    reason: str
    tags: Tags
    root_volume_id: str = ""
    network_interface_id: str = ""
    prepaid: bool = False

    @property
    def run_id(self) -> str:
        return self.tags.get(RUN, "")

    @property
    def recipe(self) -> str:
        return self.tags.get(RECIPE, "")

    @property
    def used_by(self) -> str | None:
        """The command that started it for itself, `bake` or `bench`; None for a user's machine."""
        return self.tags.get(USED_BY) or ("bake" if EXPIRES in self.tags else None)

    @property
    def expires_at(self) -> datetime | None:
        """The time from which `reap` may remove it; None for a launched machine, which stays."""
        return parse_time(self.tags.get(EXPIRES, ""))


def machines(cloud: Cloud) -> list[Machine]:
    """Return all machines with the tag `bake:run` that are not terminated, the newest first."""
    filters = filters_for({"tag-key": RUN, "instance-state-name": _ALIVE})
    found = [_machine(instance) for instance in _instances(cloud, Filters=filters)]
    return sorted(found, key=lambda machine: machine.launched_at, reverse=True)


def machines_of_run(cloud: Cloud, run_id: str) -> list[Machine]:
    filters = filters_for({f"tag:{RUN}": run_id, "instance-state-name": _ALIVE})
    return [_machine(instance) for instance in _instances(cloud, Filters=filters)]


def find_machine(cloud: Cloud, instance_id: str) -> Machine | None:
    """Return a machine; None if EC2 does not know it yet, or no longer (an hour after its end)."""
    try:
        return next(map(_machine, _instances(cloud, InstanceIds=[instance_id])), None)
    except CloudError as error:
        if error.code in _NOT_FOUND:
            return None
        raise


def lost_error(
    cloud: Cloud, machine: Machine, states: Collection[str] = GONE, *, doing: str = ""
) -> LostError | None:
    """Return the error if a machine that was running is lost; None if it works or is unknown.

    `doing` completes the message, as in "while booting".
    """
    try:
        current = find_machine(cloud, machine.instance_id)
    except CloudError:  # after several retries; the next call may succeed
        return None
    return _lost(current, doing) if current and current.state in states else None


# EC2's most frequent StateReason codes; the complete list is in DescribeInstances' StateReason.
_ENDED_BY = {
    "Client.UserInitiatedShutdown": "was shut down by a user",
    "Client.InstanceInitiatedShutdown": "shut itself down",
    "Server.SpotInstanceShutdown": "was stopped by the spot market",
    "Server.SpotInstanceTermination": "was terminated by the spot market",
    "Server.ScheduledStop": "was stopped for a scheduled retirement",
}


def _lost(machine: Machine, doing: str = "") -> LostError:
    what = _ENDED_BY.get(machine.reason_code, f"was lost (its state is {machine.state})")
    return LostError(
        f"{machine.instance_id} ({machine.instance_type} in {machine.zone}, {machine.market}) "
        f"{what}{f' while {doing}' if doing else ''}",
        hint=hint_for(machine.reason_code, machine.reason)
        or "AWS's message contains the reason. Run the same command again",
        code=machine.reason_code,
        reason=machine.reason,
    )


def start(cloud: Cloud, instance_id: str, *, on_state: OnState = lambda state: None) -> Machine:
    """Start a stopped machine again, and wait until it is running. It usually has a new address."""
    cloud.ec2("StartInstances", InstanceIds=[instance_id])
    # A machine that cannot start (its disk's KMS key is disabled) is stopped again.
    never = {**_ENDED, "stopping": _KNOWN_S, "stopped": _KNOWN_S}
    return wait_until_running(cloud, instance_id, on_state=on_state, never=never)


def stop(cloud: Cloud, instance_id: str, *, on_state: OnState = lambda state: None) -> Machine:
    """Stop a machine, and wait until it is stopped. AWS continues to charge for its disk.

    MachineError for a spot machine: bake's spot requests are one-time, so it cannot be stopped.
    """
    machine = find_machine(cloud, instance_id)
    if machine is None:
        raise _unknown(cloud, instance_id)
    if machine.market == "spot":
        raise MachineError(
            f"{machine.name or instance_id} is a one-time spot machine, which EC2 cannot stop",
            hint=f"Terminate it instead: invoke terminate {machine.name or instance_id}",
        )
    cloud.ec2("StopInstances", InstanceIds=[instance_id])
    return _wait_until(
        cloud,
        instance_id,
        {"stopped"},
        doing="stopping",
        timeout_s=_END_S,
        never=_ENDED,
        on_state=on_state,
    )


def terminate(cloud: Cloud, instance_id: str, *, on_state: OnState = lambda state: None) -> None:
    """Terminate a machine, which deletes its disk, and delete the security group of its run."""
    machine = find_machine(cloud, instance_id)
    if machine is None:
        raise _unknown(cloud, instance_id)
    terminate_all(cloud, [instance_id], on_state=on_state)
    if machine.run_id:
        remove_security_groups(cloud, machine.run_id)


def tag(cloud: Cloud, instance_id: str, tags: Tags) -> None:
    """Set these tags of a machine; they replace tags with the same keys."""
    [specification] = specifications(tags, "instance")
    cloud.ec2("CreateTags", Resources=[instance_id], Tags=specification["Tags"])


def terminate_all(
    cloud: Cloud,
    instance_ids: Collection[str],
    *,
    on_state: OnState = lambda state: None,
    unknown_for_s: float = _KNOWN_S,
    wait: bool = True,
) -> None:
    """Terminate machines and wait until all are terminated. Ignore machines that do not exist.

    `unknown_for_s` is the time in which EC2 may not yet know a machine that was just started. If
    `wait` is False, return as soon as EC2 has accepted the request, which cannot be cancelled any
    more ("TerminateInstances", API reference).
    """
    for instance_id in instance_ids:
        poll(
            partial(_request_termination, cloud, instance_id),
            timeout_s=unknown_for_s,
            clock=cloud.clock,
        )
    for instance_id in instance_ids if wait else ():
        wait_until(
            partial(_is_gone, cloud, instance_id, on_state),
            what=f"{instance_id} is still being terminated",
            timeout_s=_END_S,
            clock=cloud.clock,
            failure=MachineError,
        )


def _request_termination(cloud: Cloud, instance_id: str) -> bool | None:
    try:
        cloud.ec2("TerminateInstances", InstanceIds=[instance_id])
    except CloudError as error:
        if error.code in _NOT_FOUND:
            return None
        # A terminated machine loses its tags, so a policy that requires them denies the request.
        machine = find_machine(cloud, instance_id) if error.code in DENIED else None
        if machine is None or machine.state != "terminated":
            raise
    return True


def wait_until_running(
    cloud: Cloud,
    instance_id: str,
    *,
    on_state: OnState = lambda state: None,
    never: Mapping[str, float] = MappingProxyType({"stopping": 0.0, "stopped": 0.0, **_ENDED}),
) -> Machine:
    """Wait until a machine is running and has its public address, if it gets one.

    `never` maps each state that ends the wait (MachineError with AWS's reason) to the seconds in
    which it may be an outdated response.
    """
    return _wait_until(
        cloud,
        instance_id,
        {"running"},
        doing="starting",
        timeout_s=_START_S,
        never=never,
        on_state=on_state,
    )


def console_output(cloud: Cloud, instance_id: str) -> str:
    """Return the machine's console output; "" if EC2 has none or refuses.

    Never raises, because it is called after another error. Machines on Nitro have the latest
    output, others have the output of a time shortly after the start.
    """
    for latest in ({"Latest": True}, {}):
        try:
            output = cloud.ec2("GetConsoleOutput", InstanceId=instance_id, **latest).get("Output")
        except CloudError:
            continue
        if output:
            return str(output)
    return ""


def _wait_until(
    cloud: Cloud,
    instance_id: str,
    wanted: Collection[str],
    *,
    doing: str,
    timeout_s: float,
    never: Mapping[str, float],
    on_state: OnState,
) -> Machine:
    began = cloud.clock.now()

    def probe() -> Machine | None:
        machine = find_machine(cloud, instance_id)
        if machine is None:  # some of EC2's servers do not know it yet
            return None
        on_state(machine.state)
        if cloud.clock.now() - began >= never.get(machine.state, math.inf):
            if machine.reason_code in _WORTH_ANOTHER_MACHINE:
                raise _lost(machine, doing)
            raise MachineError(
                f"{instance_id} ({machine.instance_type} in {machine.zone}) went into the state "
                f"{machine.state} while {doing}",
                hint=hint_for(machine.reason_code, machine.reason)
                or "AWS's message contains the reason. Run the same command again, or with "
                "another instance type or zone",
                code=machine.reason_code,
                reason=machine.reason,
            )
        reachable = machine.address or VIA in machine.tags or machine.state != "running"
        if machine.state in wanted and reachable:
            return machine
        return None

    return wait_until(
        probe,
        what=f"{instance_id} is still {doing}",
        timeout_s=timeout_s,
        clock=cloud.clock,
        failure=MachineError,
        hint="See its state: "
        + aws_command("ec2", "describe-instances", region=cloud.region, instance_ids=instance_id),
    )


def _is_gone(cloud: Cloud, instance_id: str, on_state: OnState) -> bool | None:
    machine = find_machine(cloud, instance_id)
    state = machine.state if machine else "terminated"
    on_state(state)
    return True if state == "terminated" else None


def _unknown(cloud: Cloud, instance_id: str) -> MachineError:
    return MachineError(
        f"Machine {instance_id} not found in {cloud.region}",
        hint=f"`invoke machines --region {cloud.region}` lists the machines",
    )


def _instances(cloud: Cloud, **params: Any) -> Iterator[dict[str, Any]]:
    for reservation in cloud.pages("DescribeInstances", "Reservations", **params):
        yield from reservation["Instances"]


def _machine(instance: dict[str, Any]) -> Machine:
    tags = read(instance.get("Tags"))
    volumes = {
        mapping["DeviceName"]: mapping["Ebs"]["VolumeId"]
        for mapping in instance.get("BlockDeviceMappings", [])
        if "Ebs" in mapping
    }
    interfaces = {
        each["Attachment"]["DeviceIndex"]: each["NetworkInterfaceId"]
        for each in instance.get("NetworkInterfaces", [])
        if "Attachment" in each
    }
    # StateReason is missing before the first change of state; StateTransitionReason replaces it.
    reason = instance.get("StateReason", {})
    return Machine(
        instance_id=instance["InstanceId"],
        name=tags.get(NAME, ""),
        state=instance["State"]["Name"],
        instance_type=instance["InstanceType"],
        zone=instance["Placement"]["AvailabilityZone"],
        market="spot" if instance.get("InstanceLifecycle") == "spot" else "on-demand",
        address=instance.get("PublicIpAddress") or None,
        launched_at=instance["LaunchTime"],
        image_id=instance["ImageId"],
        key_name=instance.get("KeyName"),
        reason_code=reason.get("Code", ""),
        reason=reason.get("Message") or instance.get("StateTransitionReason", ""),
        tags=tags,
        root_volume_id=volumes.get(instance.get("RootDeviceName", ""), ""),
        prepaid=instance.get("InstanceLifecycle") == "capacity-block",
        network_interface_id=interfaces.get(0, ""),
    )


def find_own_machine(cloud: Cloud, name_or_id: str | None) -> Machine:
    """Return the machine with this id or name; with None, the user's only machine of the region.

    A machine that a bake or a bench uses is returned only for its id or name. RequestError, with a
    list of the machines, if none of them fits, or more than one.
    """
    [found] = find_own_machines(cloud, [] if name_or_id is None else [name_or_id])
    return found


def find_own_machines(cloud: Cloud, names_or_ids: Sequence[str]) -> list[Machine]:
    """Return the machines with these ids or names, each once; without any, the user's only one.

    As for `find_own_machine`, which has the same errors.
    """
    known = machines(cloud)
    found = [_named(cloud, known, name) for name in names_or_ids] or [_only(cloud, known)]
    return list({machine.instance_id: machine for machine in found}.values())


def _named(cloud: Cloud, known: Sequence[Machine], name_or_id: str) -> Machine:
    fitting = [m for m in known if name_or_id in (m.instance_id, m.name)]
    if len(fitting) > 1:
        raise _several(cloud, fitting)
    if not fitting:
        raise RequestError(
            f"Machine {name_or_id} not found in {cloud.region}",
            details=_lines(known),
            hint=_OTHER_REGION,
        )
    return fitting[0]


def _only(cloud: Cloud, known: Sequence[Machine]) -> Machine:
    own = [machine for machine in known if machine.used_by is None]
    if len(own) > 1:
        raise _several(cloud, own)
    if not own and known:
        raise RequestError(
            f"You have no machines in {cloud.region}, except those that a bake or a bench uses",
            details=_lines(known),
            hint="Give the id or the name of one of them, or another region: --region us-west-2, "
            "for example",
        )
    if not own:
        raise RequestError(f"You have no machines in {cloud.region}", hint=_OTHER_REGION)
    return own[0]


def _several(cloud: Cloud, fitting: Sequence[Machine]) -> RequestError:
    return RequestError(
        f"More than one machine matches in {cloud.region}",
        details=_lines(fitting),
        hint="Give the id or the name of one of them",
    )


def _lines(listed: Sequence[Machine]) -> list[str]:
    return [
        f"{machine.instance_id}  {machine.name} ({machine.state}"
        + (f", used by a {machine.used_by})" if machine.used_by else ")")
        for machine in listed
    ]
