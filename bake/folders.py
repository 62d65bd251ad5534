"""Where things of ours are kept on this computer."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """State: keys, the local cloud. `BAKE_HOME`, else where XDG puts state."""
    return _folder("BAKE_HOME", "XDG_STATE_HOME", ".local/state")


def cache() -> Path:
    """What can be made again: root file systems, downloaded wheels. `BAKE_CACHE`, else XDG's."""
    return _folder("BAKE_CACHE", "XDG_CACHE_HOME", ".cache")


def builds() -> Path:
    """Records and logs, a folder for each run. `BAKE_BUILDS`, else `builds` where one stands."""
    return Path(os.environ.get("BAKE_BUILDS") or "builds")


def _folder(ours: str, xdg: str, default: str) -> Path:
    if os.environ.get(ours):
        return Path(os.environ[ours])
    return Path(os.environ.get(xdg) or Path.home() / default) / "bake"
