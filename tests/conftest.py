"""What holds for every test: no credentials, no home, no state of the person who runs it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent

# Root file systems and wheels are slow to make and the same for everybody: the only thing shared.
CACHE = Path(os.environ.get("BAKE_CACHE", Path.home() / ".cache" / "bake"))

SCRUBBED = ("AWS_", "BAKE_", "GITHUB_", "SSH_")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(SCRUBBED) and name != "AWS_CA_BUNDLE":
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("BAKE_HOME", str(home / "bake"))
    monkeypatch.setenv("BAKE_BUILDS", str(home / "builds"))
    monkeypatch.setenv("BAKE_CACHE", str(CACHE))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
