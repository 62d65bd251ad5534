"""Finding out whether a local cloud runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock

from bake.local import control


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BAKE_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "local"


def test_status_makes_no_folder_and_no_file(home: Path) -> None:
    assert control.status() is None
    assert not home.exists()
    home.mkdir(parents=True)
    assert control.status() is None
    assert list(home.iterdir()) == []


def test_home_is_served_as_long_as_its_lock_is_held(home: Path) -> None:
    home.mkdir(parents=True)
    with FileLock(home / "server.lock"):
        assert control._is_served(home)
    assert not control._is_served(home)
