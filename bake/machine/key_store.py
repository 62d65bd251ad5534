"""The SSH keys of launched machines on this computer: private halves, and the hosts' public ones.

Both lie under `BAKE_HOME`. A private key is written once, readable by its owner alone, and never
overwritten. Hosts are known by instance id (`HostKeyAlias`), since an address changes at every
start of the machine.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from filelock import FileLock

from bake.errors import RequestError
from bake.files import home, write_file

KNOWN_HOSTS = "known_hosts"
_LONGEST_NAME = 200


def key_path(account_id: str, region: str, name: str) -> Path:
    """Where the private half is; key pairs at AWS belong to an account and a region.

    At AWS a name may hold any of ASCII's characters, and be longer than a file's: what a file's
    name should not hold is written as in a URL.
    """
    file = quote(name, safe=" @+=,:()")
    if len(file) > _LONGEST_NAME:
        file = hashlib.sha256(name.encode()).hexdigest()
    return home() / "keys" / f"{account_id}-{region}" / f"{file}.pem"


def save_key(path: Path, private_openssh: str) -> None:
    """Writes a new private key, mode 0400. FileExistsError when there is one."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o400)
    with os.fdopen(descriptor, "w") as file:
        file.write(private_openssh)


def remove_key(path: Path) -> None:
    """Removes a private key whose machine is gone."""
    path.unlink(missing_ok=True)


def read_public_key(path: Path) -> str:
    """The public key, in OpenSSH's format, of a private key file. RequestError when it is none."""
    try:
        private = serialization.load_ssh_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise RequestError(
            f"{path} is no private key that can be used without a passphrase: {error}",
            hint="Give another --key; a new one is made when its name is not taken",
        ) from None
    return (
        private.public_key()
        .public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        .decode()
    )


def check_key(path: Path) -> None:
    """RequestError when ssh would refuse the file: it is readable by others."""
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise RequestError(
            f"The private key {path} can be read by others (mode {mode:04o}); ssh refuses it",
            hint=f"chmod 400 {path}",
        )


def save_host_key(instance_id: str, public_openssh: str) -> Path:
    """Writes down the host key of a machine and gives the known_hosts file."""
    path = home() / KNOWN_HOSTS
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    algorithm, key = public_openssh.split()[:2]
    with _locked(path):
        write_file(
            path, "".join([*_others(path, instance_id), f"{instance_id} {algorithm} {key}\n"])
        )
    return path


def read_host_key(instance_id: str) -> str:
    """The public half that the machine was given, in OpenSSH's format.

    RequestError when it is not known here: whoever answers then could be anybody.
    """
    path = home() / KNOWN_HOSTS
    for line in path.read_text().splitlines() if path.exists() else ():
        name, _, public = line.partition(" ")
        if name == instance_id:
            return public
    raise RequestError(
        f"The host key of {instance_id} is not known on this computer",
        hint=f"It was launched from another one: copy the line of {instance_id} from {KNOWN_HOSTS} "
        f"there (under its BAKE_HOME) to {path}",
    )


def remove_host_key(instance_id: str) -> None:
    """Takes a terminated machine's host key out again."""
    path = home() / KNOWN_HOSTS
    if path.exists():
        with _locked(path):
            write_file(path, "".join(_others(path, instance_id)))


def _others(path: Path, instance_id: str) -> list[str]:
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [line for line in lines if line.split(" ")[0] != instance_id]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Several commands may write to it at the same time."""
    with FileLock(path.with_name(f"{path.name}.lock")):
        yield
