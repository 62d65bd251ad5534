"""The machine on which a bake happens, with all that belongs to it and goes with it."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from time import monotonic

from bake import catalog
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
from bake.errors import BakeError, CloudError, StageError, VerificationError
from bake.machine import ssh_config
from bake.machine.boot import wait_until_reached
from bake.machine.key_store import forget_key, key_path, know_host, save_key
from bake.pipeline.checkpoints import StartPoints, start_image
from bake.pipeline.job import Context, Job
from bake.pipeline.preflight import PreflightResult
from bake.ssh import keys
from bake.ssh.connection import Connection
from bake.threads import held_back


@dataclass(frozen=True)
class Builder:
    """`start` is the checkpoint that it was started from; None: the base image.

    `seconds` is how long it took until it answered. `shut` is for when nobody has to reach it any
    more: its security group goes, so that its removal need not wait for its end.
    """

    machine: Machine
    connection: Connection
    start: Checkpoint | None
    seconds: float
    shut: Callable[[], None]


@dataclass(frozen=True)
class OnFailure:
    """What happens to the machine when a stage or the proof fails: left up, or looked at first."""

    keep: bool = False
    shell: bool = False


@contextmanager
def a_builder(
    context: Context, job: Job, points: StartPoints, on_failure: OnFailure, *, number: int = 1
) -> Iterator[Builder]:
    """The run's machine, reached; it and all that belongs to it are gone afterwards.

    `number` is which of the run's machines it is, where others were lost.

    Unless a stage or the proof fails and it is to be kept: then it stays until its own timer ends
    it, and how to reach it is said.
    """
    cloud, console, run = context.cloud, context.console, job.run
    login, host_key = keys.generate(), keys.generate()
    stack, kept = ExitStack(), ExitStack()
    stack.push(kept)
    machine: Machine | None = None
    began, stays = monotonic(), False
    try:
        with job.timeline.step("start", "Builder") as noted:
            with start_image(context, job, points) as (image_id, start):
                key_name = stack.enter_context(key_pair(cloud, run, login.public_openssh))
                group_id, machine = _start(context, job, image_id, key_name, host_key, kept, number)
            noted(machine.instance_id)
            _note(context, job, machine, start)
            with console.step("SSH") as step:
                connection = wait_until_reached(
                    cloud,
                    machine,
                    port=context.ssh_port,
                    private_key=login.private_openssh,
                    host_key=host_key,
                    timeout_s=context.boot_timeout_s,
                    on_wait=step.update,
                )
                stack.enter_context(connection)
                step.done(str(connection))
        shut = partial(_shut, context, job, machine, group_id, kept)
        yield Builder(machine, connection, start, monotonic() - began, shut)
    except (StageError, VerificationError) as error:
        if machine and (on_failure.keep or on_failure.shell):
            _look(context, job, machine, login, host_key, on_failure, error)
            if on_failure.keep:
                kept.pop_all()
                stays = True
        raise
    finally:
        title = "Leaving the builder up" if stays else "Removing the builder"
        with held_back(), console.step(title):
            stack.close()
            if not stays:
                job.timeline.machine_ended()


def _start(
    context: Context,
    job: Job,
    image_id: str,
    key_name: str,
    host_key: keys.KeyPair,
    stack: ExitStack,
    number: int,
) -> tuple[str, Machine]:
    """A running machine, and its group; the removal of both is on the stack."""
    cloud, console, run, ground = context.cloud, context.console, job.run, job.ground
    cidr = caller_cidr()
    with console.step("Builder") as step:
        group_id = create_security_group(
            cloud,
            run,
            run.temporary(),
            vpc_id=ground.placements[0].vpc_id,
            cidr=cidr,
            port=context.ssh_port,
        )
        stack.callback(remove_security_groups, cloud, run.id, {group_id})
        order = LaunchSpec(
            image_id=image_id,
            root_device_name=ground.base_image.root_device_name,
            disk_gb=job.recipe.builder.disk_gb,
            key_name=key_name,
            security_group_id=group_id,
            user_data=user_data(host_key, run.expires_at),
            tags=run.temporary() | {LOGIN_USER: catalog.load().os_image(job.recipe.base).ssh_user},
            number=number,
        )
        machine = run_machine(
            cloud,
            run,
            order,
            _placements(ground, number),
            on_state=step.update,
            on_no_capacity=lambda place, error: console.warn(f"{place}: {error.code}"),
        )
        stack.callback(remove_machine, cloud, run, machine.instance_id)
        step.done(f"{machine.instance_id}, {machine.instance_type} in {machine.zone}")
    return group_id, machine


def _shut(context: Context, job: Job, machine: Machine, group_id: str, stack: ExitStack) -> None:
    cloud = context.cloud
    try:
        leave_security_group(cloud, machine.network_interface_id, group_id)
    except CloudError as error:
        said = ": ".join(filter(None, (error.code, error.reason)))
        context.console.warn(f"{group_id} goes later, after the builder: {error.message}: {said}")
        return
    stack.pop_all()
    stack.callback(remove_machine, cloud, job.run, machine.instance_id, wait=False)


def _note(context: Context, job: Job, machine: Machine, start: Checkpoint | None) -> None:
    """On record, with its price: asked while it boots, when nobody waits for the answer."""
    place = Placement(machine.instance_type, machine.zone, "", "", machine.market)
    job.timeline.machine_began(
        instance_id=machine.instance_id,
        instance_type=machine.instance_type,
        zone=machine.zone,
        market=machine.market,
        checkpoint=start.snapshot_id if start else None,
        usd_per_hour=prices(context.cloud, [place])[place],
    )


def _placements(ground: PreflightResult, number: int) -> Sequence[Placement]:
    """Where spot machines were taken away, the next one begins with the next placement."""
    first = (number - 1) % len(ground.placements)
    if ground.placements[0].market == "on-demand":
        first = 0
    return (*ground.placements[first:], *ground.placements[:first])


def _look(
    context: Context,
    job: Job,
    machine: Machine,
    login: keys.KeyPair,
    host_key: keys.KeyPair,
    on_failure: OnFailure,
    error: BakeError,
) -> None:
    """A shell on the machine that failed, here and now; or the error says how to reach it."""
    cloud, console = context.cloud, context.console
    key = key_path(cloud.account_id, cloud.region, f"bake-{job.run.id}")
    save_key(key, login.private_openssh)
    know_host(machine.instance_id, host_key.public_openssh)
    command = ssh_config.reach(cloud, machine, ssh_port=context.ssh_port)
    if on_failure.shell:
        console.failure(error)
        console.note(f"A shell on {machine.instance_id}; when you leave it, the bake ends.")
        subprocess.call(command)
    if on_failure.keep:
        ends = rfc3339(job.run.expires_at) if job.run.expires_at else "never"
        error.details += (
            f"Its machine stays, and costs, until {ends}. It is reached, and ended, by:",
            f"invoke connect {machine.instance_id} {context.here}".rstrip(),
            f"invoke terminate {machine.instance_id} {context.here}".rstrip(),
            shlex.join(command),
        )
    else:
        forget_key(key)
        ssh_config.forget(machine.instance_id)
