"""A checkpoint on a real machine of the local cloud."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bake import catalog as catalogs
from bake.aws.base_image import find_base_image
from bake.aws.checkpoint import (
    Checkpoint,
    checkpoints,
    create_checkpoint,
    delete_checkpoint,
    wait_until_completed,
)
from bake.aws.client.caller import caller_cidr
from bake.aws.client.session import connect
from bake.aws.image import find_image, images
from bake.aws.key_pair import key_pair
from bake.aws.launch import LaunchSpec, run_machine
from bake.aws.machine import Machine, terminate_all
from bake.aws.placement_search import find_placements
from bake.aws.security_group import create_security_group, remove_security_groups
from bake.aws.tags import LOGIN_USER, new_run
from bake.aws.temporary_image import temporary_image
from bake.aws.user_data import user_data
from bake.local.machines.os_images import STAND_IN_OWNER
from bake.machine.boot import wait_until_reached
from bake.pipeline.checkpoints import prune
from bake.ssh import keys
from bake.ssh.connection import Connection

STAGES = {"base": "b" * 64, "conda": "c" * 64}


def ids(found: Sequence[Checkpoint]) -> list[str]:
    return [checkpoint.snapshot_id for checkpoint in found]


# On machines ----------------------------------------------------------------------------------


def test_a_machine_goes_on_from_where_the_snapshot_was_taken(local_cloud: Path) -> None:
    """The disk as it was in the moment of the call, while its machine went on."""
    cloud = connect()
    os_image = catalogs.load().os_image("ubuntu-18.04")
    base = find_base_image(cloud, os_image, STAND_IN_OWNER)
    run = new_run("goes-on", lifetime=timedelta(hours=1))
    key, host_key = keys.generate(), keys.generate()

    def start(image_id: str) -> tuple[Machine, Connection]:
        places = find_placements(cloud, ["t3.micro"], market="on-demand", image=base).placements
        order = LaunchSpec(
            image_id=image_id,
            root_device_name=base.root_device_name,
            disk_gb=64,
            key_name=key_name,
            security_group_id=group_id,
            user_data=user_data(host_key, run.expires_at),
            tags=run.temporary() | {LOGIN_USER: os_image.ssh_user},
        )
        machine = run_machine(cloud, new_run("goes-on"), order, places)
        stack.callback(terminate_all, cloud, [machine.instance_id])
        connection = wait_until_reached(
            cloud,
            machine,
            port=int(os.environ["BAKE_SSH_PORT"]),
            private_key=key.private_openssh,
            host_key=host_key,
            on_wait=lambda reason: None,
            timeout_s=60,
        )
        return machine, stack.enter_context(connection)

    with ExitStack() as stack:
        key_name = stack.enter_context(key_pair(cloud, run, key.public_openssh))
        vpc_id = (
            find_placements(cloud, ["t3.micro"], market="on-demand", image=base)
            .placements[0]
            .vpc_id
        )
        stack.callback(remove_security_groups, cloud, run.id)
        port = int(os.environ["BAKE_SSH_PORT"])
        group_id = create_security_group(
            cloud, run, run.temporary(), vpc_id=vpc_id, cidr=caller_cidr(), port=port
        )
        machine, connection = start(base.image_id)
        connection.run("echo before | sudo tee /opt/before && sync")
        taken = create_checkpoint(
            cloud,
            run,
            machine,
            stages=STAGES,
            seconds={"base": 1.5},
            expires_at=datetime.now(UTC) + timedelta(days=1),
        )
        stack.callback(delete_checkpoint, cloud, taken)
        assert taken.sound
        done = wait_until_completed(cloud, taken)
        connection.run("echo after | sudo tee /opt/after && sync")
        assert done in checkpoints(cloud, "goes-on")
        before = ids(prune(cloud, "no-such-recipe", keep=0))
        with temporary_image(cloud, run, done.snapshot_id, base) as image_id:
            registered = find_image(cloud, image_id)
            assert registered
            assert (registered.size_gb, registered.boot_mode) == (64, base.boot_mode)
            assert image_id not in {image.image_id for image in images(cloud)}
            assert prune(cloud, "goes-on", keep=0) == [], "in use"
            _, second = start(image_id)
        assert find_image(cloud, image_id) is None
        assert second.run("ls /opt").stdout.split().count("before") == 1
        assert second.run("test -e /opt/after", check=False).exit_status == 1
        assert connection.run("cat /opt/after").stdout == "after\n"
        assert before == []
    assert cloud.leftovers == []
