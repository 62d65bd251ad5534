"""How a machine is reached from here."""

from __future__ import annotations

from pathlib import Path

from bake.aws.machine import Machine
from bake.aws.session import Cloud
from bake.boot import login_user
from bake.errors import RequestError
from bake.folders import home
from bake.key_store import KNOWN_HOSTS, check_key, key_path


def reach(cloud: Cloud, machine: Machine, *, ssh_port: int) -> list[str]:
    """The ssh command for it, word by word; RequestError when it cannot be reached from here."""
    if machine.address is None:
        raise RequestError(
            f"{machine.name} has no address: it is {machine.state}",
            hint=f"invoke start {machine.name}" if machine.state == "stopped" else "",
        )
    key = key_path(cloud.account_id, cloud.region, machine.key_name or "")
    if not key.is_file():
        raise RequestError(
            f"The private key of {machine.name} ({machine.key_name}) is not on this computer",
            hint=f"It belongs at {key}",
        )
    check_key(key)
    return ssh_command(
        instance_id=machine.instance_id,
        address=machine.address,
        user=login_user(machine.tags),
        key=key,
        port=ssh_port,
    )


def ssh_command(
    *, instance_id: str, address: str, user: str, key: Path, port: int = 22
) -> list[str]:
    """The `ssh` that reaches the machine, accepting its own host key alone."""
    return [
        "ssh",
        *("-i", str(key)),
        *("-o", f"UserKnownHostsFile={home() / KNOWN_HOSTS}"),
        *("-o", f"HostKeyAlias={instance_id}"),
        *("-o", "StrictHostKeyChecking=yes"),
        *("-o", "IdentitiesOnly=yes"),
        *(("-p", str(port)) if port != 22 else ()),
        f"{user}@{address}",
    ]
