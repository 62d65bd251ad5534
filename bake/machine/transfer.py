"""Files to a machine and from it: rsync, over the `ssh` that reaches it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence

from bake.errors import RequestError
from bake.machine.ssh_config import Host, ssh_arguments

# What it ends with when the other side says nothing: 12 of rsync(1), "EXIT VALUES", or the remote
# shell's 127.
_NOTHING_SAID = (12, 127)


def check_paths(verb: str, paths: Sequence[str]) -> Sequence[str]:
    """RequestError unless it is said what goes where."""
    if len(paths) < 2:
        said = {"put": "invoke put notebook.ipynb d2l-en/", "get": "invoke get d2l-en/results ."}
        raise RequestError(f"What goes where? {verb} takes at least two paths", hint=said[verb])
    return paths


def put(host: Host, local: Sequence[str], remote: str, *, progress: bool) -> list[str]:
    """The command that copies files and folders there. RequestError when rsync is missing here."""
    return [*_rsync(host, progress), *map(_here, local), _there(host, remote)]


def get(host: Host, remote: Sequence[str], local: str, *, progress: bool) -> list[str]:
    """The command that copies from there; patterns in `remote` are the machine's to expand."""
    return [*_rsync(host, progress), *(_there(host, each) for each in remote), _here(local)]


def advice(host: Host, status: int) -> str:
    """What to do about a transfer that ended so; "" where rsync has said all that there is."""
    if status not in _NOTHING_SAID:
        return ""
    look = subprocess.run(
        [*ssh_arguments(host), "command -v rsync"], capture_output=True, check=False
    )
    if look.returncode in (0, 255):  # there it is; or it cannot be reached
        return ""
    return "rsync has to be on the machine too: invoke run 'sudo apt-get install --yes rsync'"


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
        # What was broken off goes on where it was, and is never taken for whole.
        "--partial-dir=.rsync-partial",
        # No name is read by a shell over there.
        "--protect-args",
        *(("--progress", "--human-readable") if progress else ()),
        f"--rsh={' '.join(map(_word, options))}",
        "--",
    ]


def _word(text: str) -> str:
    """As rsync(1) reads --rsh: quotes, within which a doubled one stands for itself."""
    return "'" + text.replace("'", "''") + "'"


def _here(path: str) -> str:
    """A name with a colon, or a dash in front, is a name."""
    return path if path.startswith("/") else f"./{path}"


def _there(host: Host, path: str) -> str:
    """From the login user's home; `~/x`, which no shell expands there, is `x`."""
    path = "." if path in ("~", "") else path.removeprefix("~/")
    return f"{host.alias}:{path if path.startswith('/') else f'./{path}'}"
