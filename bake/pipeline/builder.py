"""The builder: the machine on which a bake happens, and everything that belongs to it."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from time import monotonic

from bake import files
from bake.aws.checkpoint import Checkpoint
from bake.aws.client.caller import caller_cidr
from bake.aws.key_pair import key_pair
from bake.aws.launch import LaunchSpec, remove_machine, run_machine
from bake.aws.machine import Machine
from bake.aws.placement import Placement
from bake.aws.price import prices
from bake.aws.security_group import (
    create_security_group,
    leave_security_group,
    remove_security_groups,
)
from bake.aws.tags import LOGIN_USER, rfc3339
from bake.aws.user_data import user_data
from bake.errors import (
    BakeError,
    CloudError,
    FileError,
    RequestError,
    StageError,
    VerificationError,
)
from bake.machine import ssh_config
from bake.machine.boot import wait_until_reached
from bake.machine.key_store import KnownHostKey, key_path, remove_key, save_host_keys, save_key
from bake.pipeline.checkpoints import StartPoints, start_image
from bake.pipeline.job import Job
from bake.plan.forecast import BUILDER
from bake.ssh import keys
from bake.ssh.connection import Connection
from bake.threads import held_back


@dataclass(frozen=True)
class Builder:
    """A machine that answers to SSH.

    `start` is the checkpoint that it was started from, None for the base image. `seconds` is the
    time from the launch to the first SSH connection. `shut` ends all access to the machine, so that
    its removal need not wait until it has terminated.
    """

    machine: Machine
    connection: Connection
    start: Checkpoint | None
    seconds: float
    shut: Callable[[], None]


@dataclass(frozen=True)
class OnFailure:
    """The options for a machine on which a stage or the proof fails.

    `keep` leaves it running until its own timer ends it. `shell` opens a shell on it first. `again`
    is the command that bakes again with `keep`, if the caller knows it.
    """

    keep: bool = False
    shell: bool = False
    again: str = ""

    @property
    def gives_access(self) -> bool:
        return self.keep or self.shell


@dataclass(frozen=True)
class _Keys:
    """The login key of the run, and the host key of its machine."""

    login: keys.KeyPair
    host: keys.KeyPair


@contextmanager
def running_builder(
    job: Job, points: StartPoints, on_failure: OnFailure, *, number: int = 1
) -> Iterator[Builder]:
    """A builder that answers to SSH; it is removed afterwards with everything that belongs to it.

    `number` counts the run's machines, of which earlier ones were lost. If a stage or the proof
    fails and `on_failure.keep` is set, the machine stays, and the error says how to reach it.
    """
    if on_failure.gives_access:
        files.make_folder(files.home(), mode=0o700)  # for the key: before a machine is started
    both = _Keys(keys.generate(), keys.generate())
    # `kept` holds what stays if the machine is kept: its removal, and that of its group.
    stack, kept = ExitStack(), ExitStack()
    stack.push(kept)
    machine: Machine | None = None
    began, stays = monotonic(), False
    try:
        with job.progress.step(BUILDER), job.timeline.step("start", "Builder") as set_detail:
            with start_image(job, points) as (image_id, start):
                pair = key_pair(job.cloud, job.run, both.login.public_openssh)
                key_name = stack.enter_context(pair)
                group_id, machine = _launch(job, image_id, key_name, both.host, kept, number)
            set_detail(machine.instance_id)
            _record_machine(job, machine, start)
            connection = stack.enter_context(_connect(job, machine, both))
        shut = partial(_shut, job, machine, group_id, kept)
        yield Builder(machine, connection, start, monotonic() - began, shut)
    except (StageError, VerificationError) as error:
        if not on_failure.gives_access:
            error.details += (f"To look at the machine, keep it: {_again(job, on_failure)}",)
        elif machine:
            try:
                _give_access(job, machine, both, on_failure, error)
            except (FileError, RequestError) as problem:
                error.details += (f"The machine cannot be kept: {problem.message}",)
            else:
                if on_failure.keep:
                    kept.pop_all()
                    stays = True
        raise
    finally:
        title = "Leaving the builder up" if stays else "Removing the builder"
        with held_back(), job.console.step(title):
            stack.close()
            if not stays:
                job.timeline.machine_ended()


def _again(job: Job, on_failure: OnFailure) -> str:
    """Return the command that bakes again, and keeps the machine if that fails."""
    stand_in = " --stand-in" if job.context.payload.name == "stand-in" else ""
    command = f"invoke bake {job.name}{stand_in} --keep-on-failure {job.context.here}".rstrip()
    return on_failure.again or job.console.complete(command)


def _launch(
    job: Job,
    image_id: str,
    key_name: str,
    host_key: keys.KeyPair,
    stack: ExitStack,
    number: int,
) -> tuple[str, Machine]:
    """Launch a machine; return its security group and it. The removal of both is put on `stack`."""
    cloud, console, run, checked = job.cloud, job.console, job.run, job.preflight
    cidr = caller_cidr()
    with console.step("Builder") as step:
        group_id = create_security_group(
            cloud,
            run,
            run.temporary(),
            vpc_id=checked.placements[0].vpc_id,
            cidr=cidr,
            port=job.context.ssh_port,
        )
        stack.callback(remove_security_groups, cloud, run.id, {group_id})
        spec = LaunchSpec(
            image_id=image_id,
            root_device_name=checked.base_image.root_device_name,
            disk_gb=job.recipe.builder.disk_gb,
            key_name=key_name,
            security_group_id=group_id,
            user_data=user_data(host_key, run.expires_at),
            tags=run.temporary() | {LOGIN_USER: job.plan.resolved.os_image.ssh_user},
            number=number,
        )
        machine = run_machine(
            cloud,
            run,
            spec,
            _placements_of(checked.placements, number),
            on_state=step.update,
            on_no_capacity=lambda place, error: console.warn(f"{place}: {error.code}"),
        )
        stack.callback(remove_machine, cloud, run, machine.instance_id)
        step.done(f"{machine.instance_id}, {machine.instance_type} in {machine.zone}")
    return group_id, machine


def _connect(job: Job, machine: Machine, both: _Keys) -> Connection:
    """Wait until the machine answers to SSH, and return the connection."""
    with job.console.step("SSH") as step:
        connection = wait_until_reached(
            job.cloud,
            machine,
            port=job.context.ssh_port,
            private_key=both.login.private_openssh,
            host_key=both.host,
            timeout_s=job.context.boot_timeout_s,
            on_wait=step.update,
        )
        step.done(str(connection))
    return connection


def _shut(job: Job, machine: Machine, group_id: str, stack: ExitStack) -> None:
    """Take the machine out of its security group, so that the group can be removed at once."""
    try:
        leave_security_group(job.cloud, machine.network_interface_id, group_id)
    except CloudError as error:
        job.console.warn(f"{group_id} will be removed after the builder: {error.full_message}")
        return
    stack.pop_all()
    stack.callback(remove_machine, job.cloud, job.run, machine.instance_id, wait=False)


def _record_machine(job: Job, machine: Machine, start: Checkpoint | None) -> None:
    """Add the machine and its price to the timeline, while it boots."""
    place = Placement(machine.instance_type, machine.zone, "", "", machine.market)
    job.timeline.machine_began(
        instance_id=machine.instance_id,
        instance_type=machine.instance_type,
        zone=machine.zone,
        market=machine.market,
        checkpoint=start.snapshot_id if start else None,
        usd_per_hour=prices(job.cloud, [place])[place],
    )


def _placements_of(placements: Sequence[Placement], number: int) -> Sequence[Placement]:
    """Return the placements in the order in which machine `number` of the run tries them.

    If spot machines were lost, the next machine begins with the next placement. Pure.
    """
    first = (number - 1) % len(placements)
    if placements[0].market == "on-demand":
        first = 0
    return (*placements[first:], *placements[:first])


def _give_access(
    job: Job, machine: Machine, both: _Keys, on_failure: OnFailure, error: BakeError
) -> None:
    """Open a shell on the machine that failed, or add to the error how to reach the machine."""
    cloud, console, here = job.cloud, job.console, job.context.here
    key = key_path(cloud.account_id, cloud.region, f"bake-{job.run.id}")
    save_key(key, both.login.private_openssh)
    save_host_keys(machine.instance_id, KnownHostKey(both.host.public_openssh))
    command = ssh_config.ssh_command(cloud, machine, ssh_port=job.context.ssh_port)
    if on_failure.shell:
        console.failure(error)
        console.note(f"A shell on {machine.instance_id}; the bake ends when you leave it.")
        subprocess.call(command)
    if on_failure.keep:
        ends = rfc3339(job.run.expires_at) if job.run.expires_at else "never"
        error.details += (
            f"The machine keeps running, and costing money, until {ends}. Connect or terminate:",
            console.complete(f"invoke connect {machine.instance_id} {here}".rstrip()),
            console.complete(f"invoke terminate {machine.instance_id} {here}".rstrip()),
            shlex.join(command),
        )
    else:
        remove_key(key)
        ssh_config.forget_machine(machine.instance_id)
