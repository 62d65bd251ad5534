"""Copy files to a machine and from it, with rsync over ssh."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bake.aws.machine import Machine
from bake.errors import MachineError, RequestError
from bake.machine.ssh_config import Host, ssh_arguments

# The exit statuses of rsync and ssh when the connection fails (rsync(1), "EXIT VALUES").
NO_CONNECTION = (255, 12, 10, 30)
# The exit status when rsync is missing on the machine: 12 (rsync(1), "EXIT VALUES"), or 127 of the
# shell.
_NO_REMOTE_RSYNC = (12, 127)
# The exit statuses when some files could not be copied, or could not be found.
_FILES_NOT_COPIED = (3, 23, 24)


@dataclass(frozen=True)
class Transfer:
    """A request to copy files. `machine` is an id or a name; None for the only machine.

    `remote` are the paths on the machine, without its name: the target of `put`, or the sources of
    `get`.
    """

    verb: Literal["put", "get"]
    machine: str | None
    remote: tuple[str, ...]
    local: tuple[str, ...]


def read_put(paths: Sequence[str]) -> Transfer:
    """Read `LOCAL … [MACHINE:]REMOTE`. RequestError if a path is missing, or not on this computer.

    The machine's name is before a colon, as for scp, docker cp and kubectl cp.
    """
    _check_number("put", paths, "LOCAL … [MACHINE:]REMOTE")
    *local, target = paths
    name, remote = split_machine(target)
    if missing := [path for path in local if not os.path.lexists(path)]:
        raise RequestError(
            f"Not found on this computer: {', '.join(missing)}",
            hint="put copies from this computer to a machine, whose name is before the place on "
            f"it: `invoke put LOCAL {name or 'MACHINE'}:{remote}`",
        )
    return Transfer("put", name, (remote,), tuple(local))


def read_get(paths: Sequence[str]) -> Transfer:
    """Read `[MACHINE:]REMOTE … LOCAL`. RequestError if a path is missing, or for two machines."""
    _check_number("get", paths, "[MACHINE:]REMOTE … LOCAL")
    *sources, local = paths
    named, remote = zip(*map(split_machine, sources), strict=True)
    names = [name for name in dict.fromkeys(named) if name]
    if len(names) > 1:
        raise RequestError(
            f"get copies from one machine, but several are named: {', '.join(names)}",
            hint="Repeat the command for each machine",
        )
    if split_machine(local)[0]:
        raise RequestError(
            f"get copies to this computer, but the place {local} begins like a machine's name",
            hint=f"For a file of this name on this computer: ./{local}",
        )
    return Transfer("get", names[0] if names else None, remote, (local,))


def split_machine(path: str) -> tuple[str | None, str]:
    """Split `MACHINE:PATH`. A colon behind a slash is a part of the path, as for scp(1)."""
    name, colon, rest = path.partition(":")
    if not colon or "/" in name:
        return None, path
    return name or None, rest


def check_remote(request: Transfer, machine: Machine) -> None:
    """Raise RequestError for a path on the machine that is the machine's own name or id."""
    for path in request.remote:
        if path in (machine.name, machine.instance_id):
            raise RequestError(
                f"{path} is a machine, and a colon is missing between its name and the path",
                hint=f"Its home folder is {path}:. A file of this name on it is ./{path}",
            )


def command(host: Host, request: Transfer, *, progress: bool) -> list[str]:
    """Return the rsync command. The machine expands patterns in paths of `get`.

    Raises RequestError when rsync is not installed on this computer.
    """
    remote = [_remote_path(host, path) for path in request.remote]
    local = [_local_path(path) for path in request.local]
    sources, target = (local, remote) if request.verb == "put" else (remote, local)
    return [*_rsync(host, progress), *sources, *target]


def failure(host: Host, machine: Machine, status: int) -> MachineError:
    """Return the error for a status of rsync, whose own messages were shown."""
    name = machine.name or machine.instance_id
    if status in _NO_REMOTE_RSYNC and not _has_rsync(host):
        return MachineError(
            f"rsync is not installed on {name}",
            hint=f"invoke run {name} -- sudo apt-get install --yes rsync",
        )
    return MachineError(
        f"The transfer failed: rsync ended with status {status}", hint=_advice(status)
    )


def _advice(status: int) -> str:
    if status in _FILES_NOT_COPIED:
        return (
            "rsync's messages name the files: check their names and permissions. On the machine, a "
            "path without / at its beginning is in the home folder"
        )
    return "Repeat the command: rsync copies only what is missing"


def _has_rsync(host: Host) -> bool:
    look = subprocess.run(
        [*ssh_arguments(host), "command -v rsync"], capture_output=True, check=False
    )
    return look.returncode in (0, 255)  # 255: the machine cannot be reached, so it is not known


def _check_number(verb: str, paths: Sequence[str], form: str) -> None:
    if len(paths) < 2:
        raise RequestError(f"{verb} takes at least two paths", hint=f"`invoke {verb} {form}`")


def _rsync(host: Host, progress: bool) -> list[str]:
    if shutil.which("rsync") is None:
        raise RequestError(
            "rsync is not installed on this computer",
            hint="sudo apt-get install rsync (or brew install rsync); scp -F can do without",
        )
    *options, _ = ssh_arguments(host)
    return [
        "rsync",
        "--archive",
        # An interrupted transfer is continued, and a partial file never replaces the target.
        "--partial-dir=.rsync-partial",
        # Names are not expanded by a shell on the machine.
        "--protect-args",
        *(("--progress", "--human-readable") if progress else ()),
        f"--rsh={' '.join(map(_quote_word, options))}",
        "--",
    ]


def _quote_word(text: str) -> str:
    """Quote a word for --rsh: rsync(1) reads a doubled quote within quotes as one quote."""
    return "'" + text.replace("'", "''") + "'"


def _local_path(path: str) -> str:
    """Return a local path that rsync cannot take for an option or for `HOST:PATH`."""
    return path if path.startswith("/") else f"./{path}"


def _remote_path(host: Host, path: str) -> str:
    """Return `HOST:PATH`, relative to the login user's home; `~/x` becomes `x`."""
    path = "." if path in ("~", "") else path.removeprefix("~/")
    return f"{host.alias}:{path if path.startswith('/') else f'./{path}'}"
