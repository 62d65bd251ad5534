"""The environment of all tests: no credentials, home or state of the person who runs them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from bake.local.control import LocalCloud

REPOSITORY = Path(__file__).parents[2]

# Root file systems and wheels are slow to make and the same for everybody: the only thing shared.
CACHE = Path(os.environ.get("BAKE_CACHE") or Path.home() / ".cache" / "bake")

SCRUBBED = ("AWS_", "BAKE_", "GITHUB_", "SSH_", "XDG_")


def scrub(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Remove the person's settings from the environment, and set an empty home."""
    for name in list(os.environ):
        if name.startswith(SCRUBBED) and name != "AWS_CA_BUNDLE":
            monkeypatch.delenv(name)
    home.mkdir(exist_ok=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("BAKE_HOME", str(home / "bake"))
    monkeypatch.setenv("BAKE_BUILDS", str(home / "builds"))
    monkeypatch.setenv("BAKE_CACHE", str(CACHE))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")


def use_local_cloud(monkeypatch: pytest.MonkeyPatch, local_home: Path) -> LocalCloud:
    """Set the environment of a user of the tests' local cloud, which has to run."""
    from bake.local import control  # after the environment of the tests was set

    monkeypatch.setenv("BAKE_HOME", str(local_home))
    endpoint = control.status()
    assert endpoint is not None
    for name, value in control.environment(endpoint).items():
        monkeypatch.setenv(name, value)
    return endpoint
