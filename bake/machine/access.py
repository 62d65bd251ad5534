"""The access of this computer to a machine, which depends on its address at the moment.

A machine's security group allows SSH from the address that the caller had at the launch. In another
network, or with a new address from the provider, packets to the machine are dropped. A machine that
is reached through Session Manager has no such rule.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from bake.aws.caller_access import allow_caller
from bake.aws.client.session import Cloud
from bake.aws.machine import Machine
from bake.aws.tags import VIA
from bake.errors import CloudError, PreflightError
from bake.machine import host_key
from bake.machine.ssh_config import Host, find_host

# A security group drops packets without an answer. The kernel repeats a connection request after 1
# and 3 s (tcp(7)), so this is enough for a slow network.
_ANSWERS_S = 3.5


def restore_access(
    cloud: Cloud, machine: Machine, *, port: int, say: Callable[[str], None]
) -> None:
    """Let the machine's security group allow this computer's address, if it does not answer.

    Never raises: `say` gets what was changed, or why nothing could be. SSH itself then reports
    whether the machine is reached.
    """
    if VIA in machine.tags or machine.address is None or answers(machine.address, port):
        return
    try:
        change = allow_caller(cloud, machine.run_id, port)
    except (CloudError, PreflightError) as error:
        why = error.full_message.removesuffix(".")
        advice = f". {error.hint}" if error.hint else ""
        say(
            f"{machine.name or machine.instance_id} does not answer, and its security group could "
            f"not be changed: {why}{advice}"
        )
    else:
        if change:
            say(change)


def reach(cloud: Cloud, machine: Machine, *, ssh_port: int, say: Callable[[str], None]) -> Host:
    """Return the values with which `ssh` reaches a machine, and restore the access if needed.

    A replacement of its host key that was interrupted is completed. Raises RequestError as
    `find_host` does.
    """
    host = find_host(cloud, machine, ssh_port=ssh_port)
    restore_access(cloud, machine, port=ssh_port, say=say)
    host_key.complete(host, say)
    return host


def answers(address: str, port: int, timeout_s: float = _ANSWERS_S) -> bool:
    """Return whether packets from here reach the port, even if no program listens there yet."""
    try:
        socket.create_connection((address, port), timeout_s).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return True


def say_once(say: Callable[[str], None]) -> Callable[[str], None]:
    """Return a function that says each text once."""
    said: set[str] = set()

    def first_time(text: str) -> None:
        if text not in said:
            said.add(text)
            say(text)

    return first_time
