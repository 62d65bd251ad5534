"""Rebooting a machine from within, and reaching it again: proved by another boot id.

From within rather than by EC2's RebootInstances: the system shuts down in order, however long that
takes, where EC2 "performs a hard reboot" of one that "does not cleanly shut down within a few
minutes" (its API reference). What was just installed need not be on the disk after that.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable

from bake import threads
from bake.errors import ConnectError, HostKeyError, RemoteError
from bake.ssh.connection import Connection

_ASK_S = 30.0
_PAUSE_S = 0.5

# Asked again and again, for what answers may still be the boot that is to end; no other one is
# ended by it. `shutdown` is there with every init, and goes before a power-off at some later time.
_SCRIPT = """\
boot=$(cat /proc/sys/kernel/random/boot_id)
if [ "$boot" != "$1" ]; then echo "$boot"; else shutdown -r now >&2; fi
"""


def reboot(
    connection: Connection, *, timeout_s: float, on_wait: Callable[[str], None] = lambda text: None
) -> None:
    """Reboot the machine; from then on the connection is to its next boot. No stage may run.

    `on_wait` is told why that is not reached yet. ConnectError with the last reason when it is not
    within `timeout_s`; HostKeyError when another machine answers.
    """
    deadline = time.monotonic() + timeout_s
    sudo = [] if connection.user == "root" else ["sudo", "-n"]
    command = shlex.join([*sudo, "sh", "-c", _SCRIPT, "bake", connection.boot_id()])
    while True:
        try:
            connection.reconnect(timeout_s=max(0.0, deadline - time.monotonic()), on_wait=on_wait)
            if boot_id := connection.run(command, timeout_s=_ASK_S).stdout.strip():
                connection.rebooted(boot_id)
                return
            reason = "it has not shut down yet"
            connection.close()  # as the machine soon does, with or without a word
        except HostKeyError:
            raise
        except RemoteError as error:
            reason = error.message
        on_wait(reason)
        if time.monotonic() >= deadline:
            raise ConnectError(
                f"{connection} did not come back within {timeout_s:.0f} s of its reboot: {reason}",
                hint="Its console output says how far it came.",
            )
        threads.pause(_PAUSE_S)
