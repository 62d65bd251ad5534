"""The SSH keys of launched machines on this computer: private login keys and public host keys.

Both are stored under `BAKE_HOME`. A private key is written once, readable only by its owner, and
never overwritten. Host keys are stored by instance id (`HostKeyAlias`), because the address of a
machine changes at every start.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from filelock import FileLock

from bake.errors import RequestError
from bake.files import home, make_folder, reading, write_file, write_new_file, writing

KNOWN_HOSTS = "known_hosts"
_FROM_USER_DATA = "from-user-data"
_LONGEST_NAME = 200


def key_path(account_id: str, region: str, name: str) -> Path:
    """Return the path of a private key; key pairs at AWS belong to an account and a region.

    A key pair's name may contain any ASCII character and be longer than a file's name: characters
    are escaped as in a URL, and a long name is replaced by its hash.
    """
    file = quote(name, safe=" @+=,:()")
    if len(file) > _LONGEST_NAME:
        file = hashlib.sha256(name.encode()).hexdigest()
    return home() / "keys" / f"{account_id}-{region}" / f"{file}.pem"


def save_key(path: Path, private_openssh: str) -> None:
    """Write a new private key with mode 0400. Raises FileError if the file exists."""
    make_folder(path.parent, mode=0o700)
    write_new_file(path, private_openssh.encode(), mode=0o400)


def remove_key(path: Path) -> None:
    """Remove the private key of a machine that was terminated."""
    with writing(path):
        path.unlink(missing_ok=True)


def read_private_key(path: Path) -> str:
    """Return the content of a private key file."""
    with reading(path):
        return path.read_bytes().decode(errors="replace")


def read_public_key(path: Path) -> str:
    """Return the public key of a private key file, in OpenSSH's format.

    Raises RequestError for a file that is not a private key, or needs a passphrase.
    """
    content = read_private_key(path).encode()
    try:
        private = serialization.load_ssh_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise RequestError(
            f"{path} is not a private key, or it needs a passphrase: {error}",
            hint="Give another key pair with --key, or leave out --key to use your own",
        ) from None
    return (
        private.public_key()
        .public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        .decode()
    )


def check_key(path: Path) -> None:
    """Raise RequestError if other users can read the file, because ssh would refuse it."""
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise RequestError(
            f"Other users can read the private key {path} (mode {mode:04o}), so ssh refuses it",
            hint=f"chmod 400 {path}",
        )


@dataclass(frozen=True)
class KnownHostKey:
    """A public host key, in OpenSSH's format, that a machine may show.

    A key `from_user_data` is to be replaced (host_key.py).
    """

    public: str
    from_user_data: bool = False


def save_host_keys(instance_id: str, *known: KnownHostKey) -> Path:
    """Store the host keys of a machine, and return the path of the known_hosts file."""
    path = home() / KNOWN_HOSTS
    make_folder(path.parent, mode=0o700)
    lines = dict.fromkeys(_line(instance_id, each) for each in known)
    with _locked(path):
        write_file(path, b"".join([*_lines_of_others(path, instance_id), *lines]))
    return path


def read_host_keys(instance_id: str) -> list[KnownHostKey]:
    """Return the public host keys of a machine, the latest first.

    Raises RequestError when none is stored on this computer: without it, another machine could
    pretend to be this one.
    """
    path = home() / KNOWN_HOSTS
    found = []
    for line in _lines(path):
        match line.decode(errors="replace").split():
            case [name, algorithm, key, *comment] if name == instance_id:
                found.append(KnownHostKey(f"{algorithm} {key}", comment == [_FROM_USER_DATA]))
    if found:
        return found[::-1]
    raise RequestError(
        f"The host key of {instance_id} is not known on this computer",
        hint=f"The machine was launched from another computer: copy the line of {instance_id} from "
        f"that computer's {KNOWN_HOSTS} (under its BAKE_HOME) to {path}",
    )


def _line(instance_id: str, known: KnownHostKey) -> bytes:
    """Return a line of known_hosts; OpenSSH ignores the words after the key."""
    algorithm, key = known.public.split()[:2]
    comment = f" {_FROM_USER_DATA}" if known.from_user_data else ""
    return f"{instance_id} {algorithm} {key}{comment}\n".encode()


def remove_host_keys(instance_id: str) -> None:
    """Remove the host keys of a machine that was terminated."""
    path = home() / KNOWN_HOSTS
    if path.exists():
        with _locked(path):
            write_file(path, b"".join(_lines_of_others(path, instance_id)))


def _lines(path: Path) -> list[bytes]:
    """Return the lines of a file as they are: the user may have added lines in any encoding."""
    with reading(path):
        lines = path.read_bytes().splitlines() if path.exists() else []
    return [line + b"\n" for line in lines]  # the last one may have no line end


def _lines_of_others(path: Path, instance_id: str) -> list[bytes]:
    return [line for line in _lines(path) if line.split()[:1] != [instance_id.encode()]]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lock a file to which several commands may write at the same time."""
    lock = path.with_name(f"{path.name}.lock")
    with writing(lock), FileLock(lock):
        yield
