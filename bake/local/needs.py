"""What the local cloud needs of this computer, and how it stands; nothing is started."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from bake.local import control
from bake.local.machines.engine import find_engine


def needs() -> Mapping[str, Callable[[], str]]:
    """What says how each of them is; LocalCloudError where it is missing."""
    return {"containers": _containers, "local cloud": _cloud}


def _containers() -> str:
    return find_engine().note


def _cloud() -> str:
    endpoint = control.status()
    return f"runs at {endpoint.url}" if endpoint else "does not run; it is started when needed"
