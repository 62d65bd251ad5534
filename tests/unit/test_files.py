"""The folders of bake, JSON texts of other programs, and complete writes."""

from __future__ import annotations

import errno
import os
import pwd
from pathlib import Path
from typing import BinaryIO

import pytest

from bake import files
from bake.errors import FileError, RequestError


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
    with pytest.raises(FileError):
        files.write_file(path, "new")
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.glob(".*file*")] == []
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every file that is written be on a full disk."""

    def opened(descriptor: int, *_: object, **__: object) -> BinaryIO:
        os.close(descriptor)
        return Path("/dev/full").open("wb")

    monkeypatch.setattr(os, "fdopen", opened)


@pytest.mark.usefixtures("full")
def test_a_full_disk_is_one_sentence_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "builds"
    folder.mkdir()
    monkeypatch.setenv("BAKE_BUILDS", str(folder))
    with pytest.raises(FileError) as refused:
        files.write_file(folder / "record.json", "x")
    assert refused.value.message == f"Cannot write {folder}/record.json: No space left on device"
    assert "BAKE_BUILDS=FOLDER" in refused.value.hint
    with pytest.raises(FileError, match="No space left"):
        files.write_new_file(folder / "mine.pem", b"x", mode=0o400)
    assert list(folder.iterdir()) == []


def test_a_new_file_does_not_replace_another(tmp_path: Path) -> None:
    files.write_new_file(tmp_path / "mine.pem", b"first", mode=0o400)
    with pytest.raises(FileError, match="File exists"):
        files.write_new_file(tmp_path / "mine.pem", b"second", mode=0o400)
    assert (tmp_path / "mine.pem").read_bytes() == b"first"


@pytest.mark.parametrize("variable", ["BAKE_HOME", "BAKE_CACHE", "BAKE_BUILDS"])
@pytest.mark.parametrize("place", ["file", "file/below", "link", "/proc/bake"])
def test_a_folder_that_cannot_be_created_is_a_wrong_request_with_the_variable_to_set(
    variable: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "link").symlink_to("/nowhere/at/all")
    monkeypatch.setenv(variable, str(tmp_path / place))
    with pytest.raises(RequestError, match="Cannot create the folder") as refused:
        files.make_folder(tmp_path / place / "local")
    assert f"{variable}=FOLDER" in refused.value.hint


def test_a_folder_on_a_read_only_disk_is_a_wrong_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.make_folder(tmp_path / "new")
    files.make_folder(tmp_path / "new")
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)  # as root it is True
    with pytest.raises(RequestError, match="it is read-only for this user"):
        files.make_folder(tmp_path / "new")


def test_a_user_without_a_home_folder_is_told_what_to_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unknown(user_id: int) -> None:
        raise KeyError(user_id)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for folder in (files.home, files.cache, files.user_home):
        with pytest.raises(RequestError, match="no home folder") as refused:
            folder()
        assert "HOME" in refused.value.hint
    monkeypatch.setenv("BAKE_HOME", "/mine")
    assert files.home() == Path("/mine")


def test_an_error_about_a_file_from_any_library_is_a_sentence() -> None:
    denied = PermissionError(errno.EACCES, "Permission denied", "/root/x")
    denied.add_note("left behind: a machine")
    with pytest.raises(FileError) as failure, files.any_file():
        raise denied
    assert failure.value.message == "Cannot use /root/x: Permission denied"
    assert failure.value.details == ("left behind: a machine",)
    with pytest.raises(FileError, match="No space left on device"), files.any_file():
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(ConnectionRefusedError), files.any_file():
        raise ConnectionRefusedError(errno.ECONNREFUSED, "Refused")


def test_what_an_installer_compiles_is_none_of_the_programs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "on_machine"
    (folder / "__pycache__").mkdir(parents=True)
    for name in ("b.sh", "a.py"):
        (folder / name).write_text("true")
    monkeypatch.setattr(files, "on_machine", lambda package: folder)
    assert [program.name for program in files.programs_of("bake.x")] == ["a.py", "b.sh"]


@pytest.mark.parametrize("kind", ["pipe", "device", "huge"])
def test_a_users_file_that_may_never_end_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        with path.open("wb") as file:
            file.truncate(1 << 40)
    with pytest.raises(OSError, match=r"pipe or a device|too large"):
        files.read_source(path)
    path.unlink()
    path.write_bytes(b"name")
    assert files.read_source(path) == b"name"
    with pytest.raises(IsADirectoryError):
        files.read_source(tmp_path)
