"""Reboot a machine with its own `shutdown` command, and reconnect: the boot id must be a new one.

EC2's RebootInstances is not used: it "performs a hard reboot" of a machine that "does not cleanly
shut down within a few minutes" (its API reference), and then packages that were just installed may
be missing from the disk. `shutdown` takes as long as it needs.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from bake import threads
from bake.errors import ConnectError, HostKeyError, RemoteError
from bake.ssh.boot_id import with_boot_id
from bake.ssh.connection import Connection

# Debian Policy 7 names it /var/run/reboot-required, which is the same file.
REQUIRED = "/run/reboot-required"

_COMMAND_S = 30.0
_PAUSE_S = 0.5

# The script is run repeatedly, because the machine may still answer before it shuts down; a later
# boot is never shut down. Every init system has `shutdown`; a new one replaces a scheduled one.
_SCRIPT = """\
boot=$(boot_id)
if [ "$boot" != "$1" ]; then echo "$boot"; else shutdown -r now >&2; fi
"""


def reboot_is_required(connection: Connection) -> bool:
    """Return True if a package, or a stage, has requested a reboot of the machine."""
    connection.reconnect()
    command = f"test ! -e {REQUIRED} || echo required"
    return connection.run(command, timeout_s=_COMMAND_S).stdout.strip() == "required"


def reboot(
    connection: Connection, *, timeout_s: float, on_wait: Callable[[str], None] = lambda text: None
) -> None:
    """Reboot the machine and wait until the connection reaches its next boot. No stage may run.

    `on_wait` gets the reason of each failed attempt. Raises ConnectError with the last reason when
    `timeout_s` is over, HostKeyError when another machine answers.
    """
    deadline = time.monotonic() + timeout_s
    command = connection.as_root("sh", "-c", with_boot_id(_SCRIPT), "bake", connection.boot_id())
    while True:
        try:
            connection.reconnect(timeout_s=max(0.0, deadline - time.monotonic()), on_wait=on_wait)
            if boot_id := connection.run(command, timeout_s=_COMMAND_S).stdout.strip():
                connection.expect_boot(boot_id)
                return
            reason = "it has not shut down yet"
            connection.close()  # the shutdown ends it soon, perhaps without an end of file
        except HostKeyError:
            raise
        except RemoteError as error:
            reason = error.message
        on_wait(reason)
        if time.monotonic() >= deadline:
            raise ConnectError(
                f"{connection} did not come back within {timeout_s:.0f} s of its reboot: {reason}",
                hint="The machine's console output shows how far it has booted.",
            )
        threads.pause(_PAUSE_S)
