"""How a machine is reached from here: by a `Host` of an OpenSSH client configuration alone.

Each machine that is reached has a file of its own under `BAKE_HOME`, named by its instance id, and
`ssh -F` is told to read no other. `ssh bake-NAME` finds it where ~/.ssh/config includes them all
(`include.py`). Our own client is given the same facts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bake.aws.client.session import Cloud
from bake.aws.machine import Machine
from bake.aws.tags import VIA
from bake.errors import RequestError
from bake.files import home, write_file
from bake.machine import session_manager
from bake.machine.boot import login_user
from bake.machine.key_store import KNOWN_HOSTS, check_key, key_path, read_host_key, remove_host_key
from bake.ssh import connection
from bake.ssh.connection import Connection

# What a Host's name may hold without being a pattern, or two of them (ssh_config(5), "PATTERNS").
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

# In every configuration: this key alone, to this machine alone, which is missed within a minute.
_ALWAYS = {
    "IdentitiesOnly": "yes",
    "PreferredAuthentications": "publickey",
    "StrictHostKeyChecking": "yes",
    "GlobalKnownHostsFile": "/dev/null",
    "CheckHostIP": "no",
    "ConnectTimeout": "30",
    "ServerAliveInterval": "15",
    "ServerAliveCountMax": "4",
}


@dataclass(frozen=True)
class Host:
    """A machine as `ssh` is told of it. `proxy`: words of a ProxyCommand, where %h is `address`.

    With a proxy, `address` is what that is told; it need be none that this computer reaches.
    """

    alias: str
    instance_id: str
    address: str
    user: str
    port: int
    key: Path
    proxy: tuple[str, ...] = ()

    def configuration(self) -> str:
        """As a part of OpenSSH's client configuration."""
        known = home() / KNOWN_HOSTS
        options = {
            "HostName": self.address,
            "User": self.user,
            "Port": str(self.port),
            "IdentityFile": quote_path(self.key),
            "UserKnownHostsFile": quote_path(known),
            "HostKeyAlias": self.instance_id,
            **_ALWAYS,
        }
        if self.proxy:
            options["ProxyCommand"] = session_manager.shell_line(self.proxy)
        lines = [f"Host {self.alias}", *(f"  {name} {value}" for name, value in options.items())]
        return "\n".join(lines) + "\n"

    def document(self) -> dict[str, Any]:
        """For programs."""
        return {
            "host": self.alias,
            "instance_id": self.instance_id,
            "address": self.address,
            "user": self.user,
            "port": self.port,
            "key": str(self.key),
            "proxy": list(self.proxy),
            "configuration": self.configuration(),
        }


def quote_path(path: Path) -> str:
    """A path as one word of the configuration, none of its letters with a meaning there.

    RequestError where OpenSSH has no way to write it: ${…} is always a variable, a line one line.
    """
    text = str(path.absolute())
    if "${" in text or "\n" in text:
        raise RequestError(
            f"OpenSSH's configuration cannot name this path: {text!r}",
            hint="Set BAKE_HOME to a folder without ${ or a line's end in its name",
        )
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def check_name(name: str) -> None:
    """RequestError unless `ssh bake-NAME` can be its name."""
    if not _NAME.fullmatch(name):
        raise RequestError(
            f"{name[:200]!r} is no name for a machine: ssh shall reach it by that",
            hint="Letters, digits, and . _ - are; the first is a letter or a digit, 128 at most",
        )


def alias(machine: Machine) -> str:
    """`bake-NAME`; by its id where it has no name that ssh could take (Name is anybody's tag)."""
    fit = _NAME.fullmatch(machine.name)
    return f"bake-{machine.name if fit else machine.instance_id}"


def find_host(cloud: Cloud, machine: Machine, *, ssh_port: int) -> Host:
    """RequestError when it cannot be reached from here: it does not run, or a key is missing."""
    name = machine.name or machine.instance_id
    if machine.state != "running":
        raise RequestError(
            f"{name} cannot be reached: it is {machine.state}",
            hint=f"invoke start {name}" if machine.state == "stopped" else "",
        )
    by_ssm = machine.tags.get(VIA) == session_manager.SSM
    if machine.address is None and not by_ssm:
        raise RequestError(
            f"{name} has no public address",
            hint="A machine without one is reached by Session Manager: launch it with --via ssm",
        )
    key = key_path(cloud.account_id, cloud.region, machine.key_name or "")
    if not key.is_file():
        raise RequestError(
            f"The private key of {name} ({machine.key_name}) is not on this computer",
            hint=f"It is on the computer from which it was launched, and belongs at {key}",
        )
    check_key(key)
    read_host_key(machine.instance_id)
    if by_ssm:
        session_manager.check_via()
    return Host(
        alias=alias(machine),
        instance_id=machine.instance_id,
        address=machine.instance_id if by_ssm else machine.address or "",
        user=login_user(machine.tags),
        port=ssh_port,
        key=key,
        proxy=session_manager.proxy_command(cloud.region) if by_ssm else (),
    )


def find_hosts(
    cloud: Cloud, machines: Iterable[Machine], *, ssh_port: int
) -> tuple[list[Host], list[RequestError]]:
    """Those that run and can be reached from here, and why the others that run cannot."""
    hosts, refused = [], []
    for machine in machines:
        if machine.state == "running":
            try:
                hosts.append(find_host(cloud, machine, ssh_port=ssh_port))
            except RequestError as error:
                refused.append(error)
    return hosts, refused


def ssh_arguments(host: Host, *options: str) -> list[str]:
    """The command that reaches it, word by word; what is to run there comes after it."""
    return ["ssh", "-F", str(write(host)), *options, host.alias]


def ssh_command(cloud: Cloud, machine: Machine, *, ssh_port: int) -> list[str]:
    """Return the ssh command line that reaches a machine."""
    return ssh_arguments(find_host(cloud, machine, ssh_port=ssh_port))


def connect(host: Host, *, timeout_s: float = 30) -> Connection:
    """The same for our own client. Raises as `bake.ssh.connection.connect` does."""
    return connection.connect(
        host.address,
        port=host.port,
        user=host.user,
        private_key=host.key.read_text(),
        host_key=read_host_key(host.instance_id),
        timeout_s=timeout_s,
        proxy=session_manager.fill_in(host.proxy, host.address, host.port),
    )


# The files ---------------------------------------------------------------------------------------


def folder() -> Path:
    return (home() / "ssh").absolute()


def write(host: Host) -> Path:
    """Its file, as it is now; any other of the same name was of a machine that had it before."""
    path = _file(host.instance_id)
    text = host.configuration()
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_file(path, text)
    for other in folder().glob("*.conf"):
        if other != path and other.read_text().startswith(f"Host {host.alias}\n"):
            other.unlink(missing_ok=True)
    return path


def remove_other_files(cloud: Cloud, hosts: Sequence[Host]) -> None:
    """No file of a machine that has ended; those of other accounts and regions stay."""
    keys = quote_path(key_path(cloud.account_id, cloud.region, "any").parent)
    here = {host.instance_id for host in hosts}
    for path in folder().glob("*.conf"):
        if path.stem not in here and f"{keys[:-1]}/" in path.read_text():
            path.unlink(missing_ok=True)


def forget_machine(instance_id: str) -> None:
    """Of a machine that is gone: its file, and its host key."""
    remove_file(instance_id)
    remove_host_key(instance_id)


def remove_file(instance_id: str) -> None:
    _file(instance_id).unlink(missing_ok=True)


def _file(instance_id: str) -> Path:
    return folder() / f"{instance_id}.conf"


def include_line() -> str:
    """What has to stand before the first Host of ~/.ssh/config, where it would be that one's."""
    # Its names are patterns, and have no %: quoted for the one, and not for the other.
    path = re.sub(r"([*?\[\]\\])", r"\\\1", str(folder()))
    return f"Include {quote_path(Path(path, '*.conf')).replace('%%', '%')}"


def is_included() -> bool:
    config = _config()
    return config.is_file() and include_line() in config.read_text().splitlines()


def include() -> Path:
    """Write it there, at the top; nothing else is changed, and a second time nothing at all."""
    config = _config()
    if not is_included():
        config.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        text = config.read_text() if config.exists() else ""
        write_file(config, f"{include_line()}\n{text}")
    return config


def _config() -> Path:
    """The file itself, where a link leads to it."""
    return (Path.home() / ".ssh" / "config").resolve()
