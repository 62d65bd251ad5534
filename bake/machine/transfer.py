"""Copy files to a machine and from it, with rsync over ssh."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence

from bake.errors import RequestError
from bake.machine.ssh_config import Host, ssh_arguments

# The exit status when rsync is missing on the machine: 12 (rsync(1), "EXIT VALUES"), or 127 of the
# shell.
_NO_REMOTE_RSYNC = (12, 127)


def check_paths(verb: str, paths: Sequence[str]) -> Sequence[str]:
    """Raise RequestError unless a source and a target are given."""
    if len(paths) < 2:
        example = {"put": "invoke put notebook.ipynb d2l-en/", "get": "invoke get d2l-en/results ."}
        raise RequestError(f"{verb} takes at least two paths", hint=example[verb])
    return paths


def put(host: Host, local: Sequence[str], remote: str, *, progress: bool) -> list[str]:
    """Return the command that copies files and folders to the machine.

    Raises RequestError when rsync is not installed on this computer.
    """
    return [*_rsync(host, progress), *map(_local_path, local), _remote_path(host, remote)]


def get(host: Host, remote: Sequence[str], local: str, *, progress: bool) -> list[str]:
    """Return the command that copies from the machine, which expands patterns in `remote`."""
    return [
        *_rsync(host, progress),
        *(_remote_path(host, each) for each in remote),
        _local_path(local),
    ]


def failure_hint(host: Host, status: int) -> str:
    """Return a hint for a failed transfer; "" if rsync's own message is enough."""
    if status not in _NO_REMOTE_RSYNC:
        return ""
    look = subprocess.run(
        [*ssh_arguments(host), "command -v rsync"], capture_output=True, check=False
    )
    if look.returncode in (0, 255):  # rsync is installed, or the machine cannot be reached
        return ""
    return (
        "rsync must be installed on the machine, too: invoke run 'sudo apt-get install --yes rsync'"
    )


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
