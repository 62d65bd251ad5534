"""The environment of all tests: no credentials, home or state of the person who runs them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

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
