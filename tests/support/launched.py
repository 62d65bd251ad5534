"""A machine of the local cloud as a launch leaves it, but not of a baked image."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bake import catalog
from bake.aws.base_image import find_base_image
from bake.aws.client.session import Cloud
from bake.aws.key_pair import find_key_pair, import_key_pair
from bake.aws.launch import LaunchSpec, run_machine
from bake.aws.machine import Machine, terminate
from bake.aws.placement_search import find_placements
from bake.aws.security_group import create_security_group
from bake.aws.tags import LOGIN_USER, new_run
from bake.aws.user_data import user_data
from bake.local.machines.os_images import STAND_IN_OWNER
from bake.machine import ssh_config
from bake.machine.boot import wait_until_reached
from bake.machine.key_store import (
    KnownHostKey,
    key_path,
    read_public_key,
    save_host_keys,
    save_key,
)
from bake.ssh import keys


@contextmanager
def launched(
    cloud: Cloud, name: str, *, ssh_port: int, key: str = "bake-the-tests"
) -> Iterator[Machine]:
    """Launch a machine that answers SSH; remove it and its security group at the end."""
    run = new_run("none", now=cloud.now())
    image = find_base_image(cloud, catalog.load().os_image("ubuntu-18.04"), STAND_IN_OWNER)
    where = find_placements(cloud, ["g4dn.xlarge"], market="on-demand", image=image).placements
    path = key_path(cloud.account_id, cloud.region, key)
    if not path.exists():
        save_key(path, keys.generate().private_openssh)
    if find_key_pair(cloud, key) is None:
        import_key_pair(cloud, key, read_public_key(path), run.lasting(key))
    host_key = keys.generate()
    tags = run.lasting(name)
    order = LaunchSpec(
        image_id=image.image_id,
        root_device_name=image.root_device_name,
        disk_gb=image.size_gb,
        key_name=key,
        security_group_id=create_security_group(
            cloud, run, tags, vpc_id=where[0].vpc_id, cidr="127.0.0.1/32", port=ssh_port
        ),
        user_data=user_data(host_key),
        tags=tags | {LOGIN_USER: "ubuntu"},
        stays=True,
    )
    machine = run_machine(cloud, run, order, where)
    try:
        known = KnownHostKey(host_key.public_openssh, from_user_data=True)
        save_host_keys(machine.instance_id, known)
        wait_until_reached(
            cloud,
            machine,
            port=ssh_port,
            private_key=path.read_text(),
            host_key=host_key,
            on_wait=lambda text: None,
        ).close()
        yield machine
    finally:
        terminate(cloud, machine.instance_id)
        ssh_config.forget_machine(machine.instance_id)
        cloud.ec2("DeleteKeyPair", KeyName=key)
