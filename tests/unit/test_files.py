"""The folders of bake, JSON texts of other programs, and complete writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from bake import files


@pytest.fixture(autouse=True)
def no_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("BAKE_HOME", "BAKE_CACHE", "BAKE_BUILDS", "XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/me")


@pytest.mark.parametrize("unset", [None, ""])
def test_the_folders_are_where_xdg_puts_them_by_default(
    unset: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if unset is not None:
        monkeypatch.setenv("XDG_STATE_HOME", unset)
        monkeypatch.setenv("BAKE_HOME", unset)
    assert files.home() == Path("/home/me/.local/state/bake")
    assert files.cache() == Path("/home/me/.cache/bake")
    assert files.builds() == Path("builds")


def test_xdgs_variables_move_the_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert (files.home(), files.cache()) == (Path("/state/bake"), Path("/cache/bake"))


def test_bakes_own_variables_win(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, "/other")
    monkeypatch.setenv("BAKE_HOME", "/mine")
    monkeypatch.setenv("BAKE_CACHE", "relative/cache")
    monkeypatch.setenv("BAKE_BUILDS", "/records")
    assert (files.home(), files.cache(), files.builds()) == (
        Path("/mine"),
        Path("relative/cache"),
        Path("/records"),
    )


def test_no_folder_is_made_by_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert not files.home().exists()
    assert not files.cache().exists()
    assert not (tmp_path / ".local").exists()


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "nul"])
def test_a_text_that_is_not_json_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        files.parse_json(text)


def test_a_file_is_written_completely_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    files.write_file(path, "old")

    def fail(self: Path, target: Path) -> None:
        raise OSError

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError):  # noqa: PT011
        files.write_file(path, "new")
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.glob(".*file*")] == []
    assert path.stat().st_mode & 0o777 == 0o600
