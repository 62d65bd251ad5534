"""The OpenSSH client configuration with which a machine is reached from this computer.

Each machine has its own file under `BAKE_HOME`, named by its instance id, and `ssh -F` reads only
that file. `ssh bake-NAME` works when ~/.ssh/config includes all these files (`include`). The
connections that `bake` itself makes use the same values.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bake.aws.client.session import Cloud
from bake.aws.machine import Machine
from bake.aws.tags import VIA
from bake.errors import FileError, HostKeyError, RequestError
from bake.files import home, make_folder, reading, user_home, write_file, writing
from bake.machine import session_manager
from bake.machine.boot import login_user
from bake.machine.key_store import (
    KNOWN_HOSTS,
    check_key,
    key_path,
    read_host_keys,
    read_private_key,
    remove_host_keys,
)
from bake.ssh import connection
from bake.ssh.connection import Connection

# The characters of a Host's name that are not special (ssh_config(5), "PATTERNS").
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

# The beginning of each Host's name, in this computer's own ~/.ssh/config.
ALIAS = "bake-"

# Use only this key, accept only this machine, and notice within a minute that it does not answer.
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
    """The values with which `ssh` reaches a machine.

    `proxy` are the words of a ProxyCommand, in which %h stands for `address`. With a proxy, this
    computer does not have to reach `address` itself.
    """

    alias: str
    instance_id: str
    address: str
    user: str
    port: int
    key: Path
    proxy: tuple[str, ...] = ()

    def configuration(self) -> str:
        """Return the section of an OpenSSH client configuration."""
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


def quote_path(path: Path) -> str:
    """Return a path as one word of the configuration, with special characters escaped.

    Raises RequestError for a path that OpenSSH cannot express: it contains `${` or a line end.
    """
    text = str(path.absolute())
    if "${" in text or "\n" in text:
        raise RequestError(
            f"OpenSSH's configuration cannot name this path: {text!r}",
            hint="Set BAKE_HOME to a folder without ${ or a line end in its name",
        )
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'


def check_name(name: str) -> None:
    """Raise RequestError unless `ssh bake-NAME` works with this name."""
    if not _NAME.fullmatch(name):
        raise RequestError(
            f"Invalid name for a machine, which ssh has to accept: {name[:200]!r}",
            hint="Use at most 128 letters, digits and . _ - and begin with a letter or a digit",
        )


def alias(machine: Machine) -> str:
    """Return the name for `ssh`: `bake-NAME`, or `bake-ID` if ssh does not accept the tag Name.

    The names of builders begin with `bake-` already.
    """
    name = machine.name if _NAME.fullmatch(machine.name) else machine.instance_id
    return name if name.startswith(ALIAS) else f"{ALIAS}{name}"


def find_host(cloud: Cloud, machine: Machine, *, ssh_port: int) -> Host:
    """Return the values with which `ssh` reaches a machine.

    Raises RequestError if it cannot be reached from this computer, because it does not run or a key
    is missing.
    """
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
            hint="Only a machine launched with --via ssm is reached without a public address",
        )
    key = key_path(cloud.account_id, cloud.region, machine.key_name or "")
    if not key.is_file():
        raise RequestError(
            f"The private key of {name} ({machine.key_name}) is not on this computer",
            hint=f"Copy it from the computer from which the machine was launched, to {key}",
        )
    check_key(key)
    read_host_keys(machine.instance_id)
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
    """Return the values for each running machine, and the errors of unreachable machines."""
    hosts, refused = [], []
    for machine in machines:
        if machine.state == "running":
            try:
                hosts.append(find_host(cloud, machine, ssh_port=ssh_port))
            except RequestError as error:
                refused.append(error)
    return hosts, refused


def ssh_arguments(host: Host, *options: str) -> list[str]:
    """Return the arguments of `ssh`; a command for the machine can be appended."""
    return ["ssh", "-F", str(write(host)), *options, host.alias]


def ssh_command(cloud: Cloud, machine: Machine, *, ssh_port: int) -> list[str]:
    """Return the ssh command line that reaches a machine."""
    return ssh_arguments(find_host(cloud, machine, ssh_port=ssh_port))


def connect(
    host: Host, host_keys: Sequence[str] | None = None, *, timeout_s: float = 30
) -> Connection:
    """Connect to a machine that shows one of its host keys, or of `host_keys` if they are given.

    Raises the errors of `bake.ssh.connection.connect`.
    """
    wanted = host_keys or [known.public for known in read_host_keys(host.instance_id)]
    for host_key in wanted:
        try:
            return connection.connect(
                host.address,
                port=host.port,
                user=host.user,
                private_key=read_private_key(host.key),
                host_key=host_key,
                timeout_s=timeout_s,
                proxy=session_manager.fill_in(host.proxy, host.address, host.port),
            )
        except HostKeyError as error:
            refused = error
    raise refused


# The files ---------------------------------------------------------------------------------------


def folder() -> Path:
    """Return the folder of the configuration files."""
    return (home() / "ssh").absolute()


def write(host: Host) -> Path:
    """Write the machine's configuration file and return its path.

    A file of another machine with the same name is removed: that machine had the name before.
    """
    path = _file(host.instance_id)
    content = _bytes(host.configuration())
    if not path.exists() or _read(path) != content:
        make_folder(path.parent, mode=0o700)
        write_file(path, content)
    for other in folder().glob("*.conf"):
        if other != path and _read(other).startswith(f"Host {host.alias}\n".encode()):
            _remove(other)
    return path


def remove_other_files(cloud: Cloud, machines: Iterable[Machine]) -> None:
    """Remove this account's and region's files of machines that do not run any more.

    `machines` are all that exist.
    """
    keys = quote_path(key_path(cloud.account_id, cloud.region, "any").parent)
    current_ids = {each.instance_id for each in machines if each.state == "running"}
    for path in folder().glob("*.conf"):
        if path.stem not in current_ids and _bytes(f"{keys[:-1]}/") in _read(path):
            _remove(path)


def forget_machine(instance_id: str) -> None:
    """Remove the file and the host key of a machine that was terminated.

    What cannot be removed stays, and does no harm: EC2 never gives an instance id again.
    """
    for remove in (remove_file, remove_host_keys):
        with suppress(FileError):
            remove(instance_id)


def remove_file(instance_id: str) -> None:
    _remove(_file(instance_id))


def _read(path: Path) -> bytes:
    with reading(path):
        return path.read_bytes()


def _remove(path: Path) -> None:
    with writing(path):
        path.unlink(missing_ok=True)


def _bytes(text: str) -> bytes:
    """Return the bytes of a text that contains paths, whose names may have any encoding."""
    return os.fsencode(text)


def _file(instance_id: str) -> Path:
    return folder() / f"{instance_id}.conf"


def include_line() -> str:
    """Return the line that must stand before the first Host of ~/.ssh/config.

    After a Host it would be a part of that Host's section.
    """
    # Include reads patterns, which are escaped, and does not replace %, which is not escaped.
    path = re.sub(r"([*?\[\]\\])", r"\\\1", str(folder()))
    return f"Include {quote_path(Path(path, '*.conf')).replace('%%', '%')}"


def is_included() -> bool:
    config = _config()
    return config.is_file() and _bytes(include_line()) in _read(config).splitlines()


def include() -> Path:
    """Insert the line at the top of ~/.ssh/config, unless it contains it already."""
    config = _config()
    if not is_included():
        make_folder(config.parent, mode=0o700)
        kept = _read(config) if config.exists() else b""
        write_file(config, _bytes(f"{include_line()}\n") + kept)
    return config


def _config() -> Path:
    """Return the path of ~/.ssh/config, with symbolic links resolved."""
    return (user_home() / ".ssh" / "config").resolve()
