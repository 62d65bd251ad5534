"""What a machine is told at its first boot: its host key, and when it has to end."""

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

# Scripts there run at every boot, so the end survives a reboot and a stop. The first line of
# work keeps an image that was taken with the script in it from ending machines of its own: there
# the user data is another's. `-h`: sysvinit knows no `-P` alone, and systemd takes it as power-off.
# Without systemd there is no schedule that another `shutdown` can take the place of: sysvinit's
# refuses to run twice, so the waiting is ours.
_TIMER_SCRIPT = """\
#!/bin/sh
# Powers this machine off at {expires_at}, when its run ends, even if nobody asks for it then.
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
    """One that the machine's root has to have; `mode` as chmod takes it."""

    path: str
    content: str
    mode: str = "0644"


def user_data(
    host_key: HostKey, expires_at: datetime | None = None, files: Sequence[File] = ()
) -> str:
    """A cloud-config for cloud-init 19 to 24.

    The machine shows `host_key` and no other: with `ssh_keys` given, cloud-init generates none.
    Programs on the machine can read it from the metadata service as long as the machine exists.
    At `expires_at` the machine powers itself off; None: it stays, as long as none of the `files`
    ends it.
    """
    config: dict[str, Any] = {
        "ssh_deletekeys": True,
        "ssh_keys": {
            "ed25519_private": _Block(host_key.private_openssh),
            "ed25519_public": host_key.public_openssh.strip(),
        },
        "ssh_pwauth": False,
        "disable_root": True,
        # The stages decide what is installed; an upgrade behind their back would race with them.
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
        raise RequestError(f"The user data has {size} bytes, EC2 takes {LONGEST}")
    return text


class _Block(str):
    """Text that keeps its lines in YAML, so that a person can read it on the machine."""


class _Dumper(yaml.SafeDumper):
    pass


_Dumper.add_representer(
    _Block, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|")
)
