"""Where things of ours are kept on this computer."""

from __future__ import annotations

import json
import os
import tempfile
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


def write_whole(path: Path, text: str) -> None:
    """As it was or as it shall be, whoever reads it meanwhile; for its owner alone."""
    descriptor, new = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        Path(new).replace(path)
    except BaseException:
        Path(new).unlink()
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
