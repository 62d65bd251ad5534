"""Wait until a started or rebooted machine answers SSH; errors contain its console output."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from bake.aws.client.session import Cloud
from bake.aws.machine import Machine, console_output, find_machine, lost_error
from bake.aws.tags import LOGIN_USER
from bake.errors import ConnectError, RequestError
from bake.ssh import reboot as remote
from bake.ssh.connection import Connection, connect
from bake.ssh.keys import KeyPair

BOOT_TIMEOUT_S = 15 * 60
_LOOK_S = 10.0
_CONSOLE_LINES = 20
_BOOTED_S = 300
# `is-system-running --wait` is newer than Ubuntu 18.04's systemd.
_BOOTED = f"""
for _ in $(seq {_BOOTED_S}); do
    case $(systemctl is-system-running 2>/dev/null) in
        initializing | starting) sleep 1 ;;
        *) exit 0 ;;
    esac
done
"""


def login_user(tags: Mapping[str, str]) -> str:
    """Return the login user that the tags of an image or a machine name.

    Raises RequestError for an invalid name, which `ssh` could take for an option.
    """
    user = tags.get(LOGIN_USER, "ubuntu")
    if not re.fullmatch(r"[a-z_][a-z0-9_-]{0,31}", user):
        raise RequestError(
            f"The tag {LOGIN_USER} contains an invalid user name: {user[:60]!r}",
            hint="The tag was changed; correct it. Ubuntu's images have the user ubuntu",
        )
    return user


def wait_until_reached(
    cloud: Cloud,
    machine: Machine,
    *,
    port: int,
    private_key: str,
    host_key: KeyPair,
    on_wait: Callable[[str], None],
    timeout_s: float = BOOT_TIMEOUT_S,
    proxy: Sequence[str] = (),
) -> Connection:
    """Wait until the machine answers SSH with its known host key, and return the connection.

    Raises LostError as soon as AWS reports that the machine is stopping or has ended. ConnectError
    contains the machine's state and the end of its console output. `proxy`: see
    `bake.ssh.connection.connect`.
    """
    looked_at = time.monotonic()

    def wait(text: str) -> None:
        nonlocal looked_at
        on_wait(text)
        if time.monotonic() - looked_at >= _LOOK_S:
            looked_at = time.monotonic()
            if lost := lost_error(cloud, machine, doing="booting"):
                raise lost

    with _with_console_output(cloud, machine):
        return connect(
            machine.address or machine.instance_id,
            port=port,
            user=login_user(machine.tags),
            private_key=private_key,
            host_key=host_key.public_openssh,
            timeout_s=timeout_s,
            on_wait=wait,
            proxy=proxy,
        )


def wait_until_booted(connection: Connection) -> None:
    """Wait until systemd has started everything that starts at boot.

    SSH answers before that, while NVIDIA's daemons still initialize the GPUs. A service that never
    ends to start is not waited for longer than five minutes. Without systemd, nothing is waited
    for.
    """
    connection.run(_BOOTED, timeout_s=_BOOTED_S + 60)


def reboot(
    cloud: Cloud,
    machine: Machine,
    connection: Connection,
    *,
    on_wait: Callable[[str], None],
    timeout_s: float = BOOT_TIMEOUT_S,
) -> None:
    """Reboot the machine with its own `shutdown`, and wait until it answers again.

    Raises ConnectError as `wait_until_reached` does.
    """
    with _with_console_output(cloud, machine):
        remote.reboot(connection, timeout_s=timeout_s, on_wait=on_wait)


@contextmanager
def _with_console_output(cloud: Cloud, machine: Machine) -> Iterator[None]:
    """Add the machine's state and console output to a ConnectError of the block."""
    try:
        yield
    except ConnectError as error:
        output = console_output(cloud, machine.instance_id).splitlines()[-_CONSOLE_LINES:]
        now = find_machine(cloud, machine.instance_id)
        state = [f"{machine.instance_id} is {now.state}. {now.reason}".strip()] if now else []
        raise ConnectError(
            error.message,
            hint=error.hint,
            details=[*error.details, *state, "Its console said:", *(output or ["(nothing yet)"])],
        ) from None
