"""User data for cloud-init at the first boot: the host key, and the time of the power-off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

import yaml

from bake.aws.tags import rfc3339
from bake.errors import RequestError

# RunInstances, "UserData": 16 KB before it is encoded.
LONGEST = 16 * 1024

TIMER = "/var/lib/cloud/scripts/per-boot/bake-power-off"

# cloud-init runs scripts in this folder at every boot, so the timer survives reboots and stops. The
# grep makes the script do nothing on a machine that was launched from an image of this machine:
# its user data is different. `-h`: sysvinit has no `-P` alone, and systemd's `-h` powers off.
# Without systemd the script itself waits, because sysvinit's shutdown refuses to run a second time.
_TIMER_SCRIPT = """\
#!/bin/sh
# Powers this machine off at {expires_at}, the latest end of its run, without any request.
grep -qF '{expires_at}' /var/lib/cloud/instance/user-data.txt || exit 0
minutes=$(( ({epoch} - $(date +%s) + 59) / 60 ))
[ "$minutes" -gt 0 ] || minutes=0
if [ -d /run/systemd/system ]; then
    shutdown -h "+$minutes"
else
    setsid sh -c "sleep $(( minutes * 60 )); shutdown -h now" </dev/null >/dev/null 2>&1 &
fi
"""


class HostKey(Protocol):
    """An ed25519 key pair in OpenSSH's formats."""

    @property
    def private_openssh(self) -> str: ...

    @property
    def public_openssh(self) -> str: ...


@dataclass(frozen=True)
class File:
    """A file to create on the machine; `mode` in octal digits, as for chmod."""

    path: str
    content: str
    mode: str = "0644"


def user_data(
    host_key: HostKey, expires_at: datetime | None = None, files: Sequence[File] = ()
) -> str:
    """Return a cloud-config for cloud-init 19 to 24.

    The machine has `host_key` as its only host key: with `ssh_keys`, cloud-init generates none.
    Programs on the machine can read it from the metadata service as long as the machine exists, so
    a launched machine replaces it (bake/machine/host_key.py); a builder ends with it. At
    `expires_at` the machine powers itself off; with None it does not, unless one of `files` does.
    RequestError if the result is too long for EC2.
    """
    config: dict[str, Any] = {
        "ssh_deletekeys": True,
        "ssh_keys": {
            "ed25519_private": _Block(host_key.private_openssh),
            "ed25519_public": host_key.public_openssh.strip(),
        },
        "ssh_pwauth": False,
        "disable_root": True,
        # The stages install the packages; an upgrade at the same time would disturb them.
        "package_update": False,
        "package_upgrade": False,
    }
    if expires_at:
        script = _TIMER_SCRIPT.format(
            expires_at=rfc3339(expires_at), epoch=int(expires_at.timestamp())
        )
        files = [*files, File(TIMER, script, "0755")]
    if files:
        config["write_files"] = [
            {"path": file.path, "permissions": file.mode, "content": _Block(file.content)}
            for file in files
        ]
    text = "#cloud-config\n" + yaml.dump(config, Dumper=_Dumper, sort_keys=False, width=1000)
    if (size := len(text.encode())) > LONGEST:
        raise RequestError(f"The user data has {size} bytes, but EC2 allows {LONGEST}")
    return text


class _Block(str):
    """Text that YAML writes as a block of lines, so that it stays readable on the machine."""


class _Dumper(yaml.SafeDumper):
    pass


_Dumper.add_representer(
    _Block, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|")
)
