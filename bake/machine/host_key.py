"""Replace the SSH host key that a launched machine got in its user data.

User data stays readable as long as the machine exists: by every program on the machine, and by
everyone in the account who may call DescribeInstanceAttribute. Its host key is needed only for the
first connection. Over that, the machine makes another key, which never leaves it. cloud-init sets
the key of the user data once for each instance (module cc_ssh), so a stop and start keeps the new
one. Builders live too briefly for this, and their key ends with them.

known_hosts contains every key that the machine may show, until the machine has shown the new one.
So the machine can be reached after an interruption at any point, and the next command completes
the replacement.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from bake import threads
from bake.errors import BakeError, HostKeyError, RemoteError
from bake.files import on_machine
from bake.machine.key_store import KnownHostKey, read_host_keys, save_host_keys
from bake.machine.ssh_config import Host, connect
from bake.ssh.connection import Connection

# sshd may answer with its old key for a moment after it was told to read the new one.
_SHOWN_S, _PAUSE_S = 10.0, 0.2
_ONE_S = 60


def complete(host: Host, say: Callable[[str], None]) -> None:
    """Replace the machine's host key if it is still the one from its user data. Never raises.

    `say` gets why it could not be replaced; the machine can then be reached as before.
    """
    if not any(known.from_user_data for known in read_host_keys(host.instance_id)):
        return
    try:
        with connect(host) as connection:
            replace(host, connection)
    except BakeError as error:
        say(
            f"The host key of {host.alias} is still the one from its user data, which programs on "
            f"the machine can read: {error.full_message}"
        )


def replace(host: Host, connection: Connection) -> None:
    """Replace the machine's host key; `connection` must be authenticated by the present one.

    Raises RemoteError if the machine refuses, HostKeyError if its sshd still shows the old key,
    ConnectError if the connection breaks. The machine can be reached after each of them.
    """
    known = read_host_keys(host.instance_id)
    [old, *_] = [each.public for each in known if each.from_user_data]
    new = _read_key(_call(connection, "make", old))
    save_host_keys(host.instance_id, *known, KnownHostKey(new))
    _call(connection, "install")
    _wait_until_shown(host, new)
    save_host_keys(host.instance_id, KnownHostKey(new))


def _wait_until_shown(host: Host, public: str) -> None:
    began = time.monotonic()
    while True:
        try:
            connect(host, [public]).close()
        except HostKeyError:
            if time.monotonic() - began > _SHOWN_S:
                raise
            threads.pause(_PAUSE_S)
        else:
            return


def _call(connection: Connection, *arguments: str) -> str:
    script = (on_machine("bake.machine") / "host_key.sh").read_text()
    command = connection.as_root("sh", "-c", script, "host_key.sh", *arguments)
    return connection.run(command, timeout_s=_ONE_S).stdout


def _read_key(text: str) -> str:
    if not re.fullmatch(r"ssh-ed25519 [A-Za-z0-9+/]{60,80}={0,2}\n", text):
        raise RemoteError(f"The machine printed {text[:80]!r} instead of a host key")
    return text.strip()
