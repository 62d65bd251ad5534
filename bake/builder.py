"""The machine on which a bake happens, with all that belongs to it and goes with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from bake import catalog
from bake.aws.caller import caller_cidr
from bake.aws.key_pair import key_pair
from bake.aws.machine import Machine
from bake.aws.order import Order, builder
from bake.aws.security_group import security_group
from bake.aws.tags import LOGIN_USER
from bake.aws.user_data import user_data
from bake.boot import wait_until_reached
from bake.interrupts import held_back
from bake.job import Job, Workshop
from bake.remote import keys
from bake.remote.connection import Connection


@contextmanager
def a_builder(workshop: Workshop, job: Job) -> Iterator[tuple[Machine, Connection]]:
    """The run's machine, reached; it and all that belongs to it are gone afterwards."""
    cloud, console, run, ground = workshop.cloud, workshop.console, job.run, job.ground
    base = ground.base_image
    login, host_key = keys.generate(), keys.generate()
    user = catalog.load().os_image(job.recipe.base).ssh_user
    cidr = caller_cidr()
    stack = ExitStack()
    try:
        with console.step("Builder") as step:
            key_name = stack.enter_context(key_pair(cloud, run, login.public_openssh))
            group = security_group(
                cloud,
                run,
                vpc_id=ground.placements[0].vpc_id,
                cidr=cidr,
                port=workshop.ssh_port,
            )
            order = Order(
                image_id=base.image_id,
                root_device_name=base.root_device_name,
                disk_gb=job.recipe.builder.disk_gb,
                key_name=key_name,
                security_group_id=stack.enter_context(group),
                user_data=user_data(host_key, run.expires_at),
                tags=run.temporary() | {LOGIN_USER: user},
            )
            machine = stack.enter_context(
                builder(
                    cloud,
                    run,
                    order,
                    ground.placements,
                    on_state=step.update,
                    on_refusal=lambda place, error: console.warn(f"{place}: {error.code}"),
                )
            )
            step.done(f"{machine.instance_id}, {machine.instance_type} in {machine.zone}")
        with console.step("SSH") as step:
            connection = wait_until_reached(
                cloud,
                machine,
                port=workshop.ssh_port,
                private_key=login.private_openssh,
                host_key=host_key,
                timeout_s=workshop.boot_timeout_s,
                on_wait=step.update,
            )
            stack.enter_context(connection)
            step.done(str(connection))
        yield machine, connection
    finally:
        with held_back(), console.step("Removing the builder"):
            stack.close()
