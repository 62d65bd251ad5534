"""Where things of ours are kept on this computer."""

from __future__ import annotations

import json
import os
import secrets
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any


def home() -> Path:
    """State: keys, the local cloud. `BAKE_HOME`, else where XDG puts state."""
    return _folder("BAKE_HOME", "XDG_STATE_HOME", ".local/state")


def cache() -> Path:
    """What can be made again: root file systems, downloaded wheels. `BAKE_CACHE`, else XDG's."""
    return _folder("BAKE_CACHE", "XDG_CACHE_HOME", ".cache")


def builds() -> Path:
    """Records and logs, a folder for each run. `BAKE_BUILDS`, else `builds` where one stands."""
    return Path(os.environ.get("BAKE_BUILDS") or "builds")


def write_whole(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Write a file in UTF-8, completely or not at all: a reader gets the old text or the new one.

    `mode` is the new file's, less the process's umask; by default only its owner may read it.
    """
    new = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as file:
            file.write(text)
        new.replace(path)
    except BaseException:
        new.unlink()
        raise


def on_machine(package: str) -> Traversable:
    """The folder of programs that `package` runs on a machine: data beside the package's code."""
    return resources.files(package) / "on_machine"


def _folder(ours: str, xdg: str, default: str) -> Path:
    if os.environ.get(ours):
        return Path(os.environ[ours])
    return Path(os.environ.get(xdg) or Path.home() / default) / "bake"


def read(text: str) -> Any:
    """ValueError for whatever is no JSON, also for what is nested without end."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
