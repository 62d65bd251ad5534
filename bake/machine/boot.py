"""From a machine that runs, or is to boot again, to one that answers; if not, what it said."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from bake.aws.client.session import Cloud
from bake.aws.machine import Machine, console_output, find_machine, loss
from bake.aws.tags import LOGIN_USER
from bake.errors import ConnectError, RequestError
from bake.ssh import reboot as remote
from bake.ssh.connection import Connection, connect
from bake.ssh.keys import KeyPair

BOOT_TIMEOUT_S = 15 * 60
_LOOK_S = 10.0
_CONSOLE_LINES = 20


def login_user(tags: Mapping[str, str]) -> str:
    """Whom to log in as, by the tags of an image or a machine of ours.

    RequestError for what is no user's name: it goes to `ssh`, to which a word may be an option.
    """
    user = tags.get(LOGIN_USER, "ubuntu")
    if not re.fullmatch(r"[a-z_][a-z0-9_-]{0,31}", user):
        raise RequestError(
            f"The tag {LOGIN_USER} names no user: {user[:60]!r}",
            hint="Somebody has changed it: set it right, for Ubuntu's images to ubuntu",
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
    """An SSH connection, as soon as the machine answers with the host key that it was given.

    LostError as soon as AWS says that it is stopping or has ended. ConnectError holds the end of
    its console output, and what has become of it. `proxy`: see `bake.ssh.connection.connect`.
    """
    looked_at = time.monotonic()

    def wait(text: str) -> None:
        nonlocal looked_at
        on_wait(text)
        if time.monotonic() - looked_at >= _LOOK_S:
            looked_at = time.monotonic()
            if lost := loss(cloud, machine, doing="booting"):
                raise lost

    with _its_console(cloud, machine):
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


def reboot(
    cloud: Cloud,
    machine: Machine,
    connection: Connection,
    *,
    on_wait: Callable[[str], None],
    timeout_s: float = BOOT_TIMEOUT_S,
) -> None:
    """Reboot it from within, until it answers again. ConnectError as for `wait_until_reached`."""
    with _its_console(cloud, machine):
        remote.reboot(connection, timeout_s=timeout_s, on_wait=on_wait)


@contextmanager
def _its_console(cloud: Cloud, machine: Machine) -> Iterator[None]:
    """In the error, when it cannot be reached."""
    try:
        yield
    except ConnectError as error:
        said = console_output(cloud, machine.instance_id).splitlines()[-_CONSOLE_LINES:]
        now = find_machine(cloud, machine.instance_id)
        state = [f"{machine.instance_id} is {now.state}. {now.reason}".strip()] if now else []
        raise ConnectError(
            error.message,
            hint=error.hint,
            details=[*error.details, *state, "Its console said:", *(said or ["(nothing yet)"])],
        ) from None
