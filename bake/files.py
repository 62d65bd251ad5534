"""Folders and files on this computer: state, cache, records; complete writes; packaged programs.

A file that cannot be read or written is a FileError, whatever the reason (`reading`, `writing`). A
folder that cannot be used is a RequestError, because it is created before anything is started.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from platformdirs.unix import Unix

from bake.errors import FileError, RequestError

_FULL = (errno.ENOSPC, errno.EDQUOT)
# Recipes, scripts, facts and locks are much smaller.
_LARGEST_SOURCE_B = 16_000_000


def home() -> Path:
    """Return the folder of state: keys, the local cloud. `BAKE_HOME`, else XDG's state folder."""
    return _folder("BAKE_HOME", "user_state_dir")


def cache() -> Path:
    """Return the folder of files that can be made again: root file systems, downloaded wheels.

    `BAKE_CACHE`, else XDG's cache folder.
    """
    return _folder("BAKE_CACHE", "user_cache_dir")


def _folder(variable: str, default: str) -> Path:
    """Return the folder that a variable names, else XDG's folder; RequestError without a home.

    XDG's are those of the Linux and macOS command line: `~/.local/state/bake` and others.
    """
    if named := os.environ.get(variable):
        return Path(named)
    return _below_home(lambda: Path(getattr(Unix("bake", appauthor=False), default)))


def user_home() -> Path:
    """Return the home folder of this user; RequestError if it is not known."""
    return _below_home(Path.home)


def _below_home(find: Callable[[], Path]) -> Path:
    with suppress(RuntimeError):
        if (folder := find()).is_absolute():
            return folder
    raise RequestError(
        "This user has no home folder", hint="Set the environment variable HOME to a folder"
    )


def builds() -> Path:
    """Return the folder of records and logs: `BAKE_BUILDS`, else `builds` in the current folder."""
    return Path(os.environ.get("BAKE_BUILDS") or "builds")


def make_folder(folder: Path, *, mode: int = 0o777) -> None:
    """Create a folder unless it exists; RequestError if files cannot be written into it."""
    try:
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(
            f"Cannot create the folder {folder}: {_reason(error)}", hint=_another_folder(folder)
        ) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise RequestError(
            f"Cannot write to the folder {folder}: it is read-only for this user",
            hint=_another_folder(folder),
        )


def writing(path: Path) -> AbstractContextManager[None]:
    """Return a context that turns an OSError into a FileError: the file cannot be written."""
    return _file_error(f"Cannot write {path}", path)


def reading(path: Path) -> AbstractContextManager[None]:
    """Return a context that turns an OSError into a FileError: the file cannot be read."""
    return _file_error(f"Cannot read {path}", path)


@contextmanager
def _file_error(message: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FileError(f"{message}: {_reason(error)}", hint=_hint(path, error)) from None


@contextmanager
def any_file() -> Iterator[None]:
    """A context that turns any OSError about a file or a full disk into a FileError.

    It is for errors of libraries. The notes on the error become its details.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno not in (*_FULL, errno.EROFS, errno.EIO):
            raise
        path = Path(os.fsdecode(error.filename)) if error.filename else None
        raise FileError(
            f"Cannot use {path}: {_reason(error)}" if path else _reason(error),
            hint=_hint(path, error) if path else "",
            details=getattr(error, "__notes__", ()),
        ) from error


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _hint(path: Path, error: OSError) -> str:
    free = "Free space on that disk. " if error.errno in _FULL else ""
    return free + _another_folder(path)


def _another_folder(path: Path) -> str:
    """Return the hint that names the variable by which another folder is chosen, or no hint."""
    folders = {"BAKE_HOME": home, "BAKE_CACHE": cache, "BAKE_BUILDS": builds}
    for variable, folder in folders.items():
        with suppress(RequestError):
            if path.absolute().is_relative_to(folder().absolute()):
                return f"Choose another folder by the environment variable: {variable}=FOLDER"
    return ""


def read_source(path: Path) -> bytes:
    """Return the content of a file that a user has written: a recipe, a script, facts or a lock.

    OSError also for a pipe or a device, from which reading may never end, and for a huge file.
    """
    with open(path, "rb", opener=_open_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "It is a pipe or a device, not a file", str(path))
        content = file.read(_LARGEST_SOURCE_B + 1)
    if len(content) > _LARGEST_SOURCE_B:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return content


def _open_without_waiting(path: str, flags: int) -> int:
    """Open a file; a pipe is opened even if nothing writes to it."""
    return os.open(path, flags | os.O_NONBLOCK)


def write_file(path: Path, content: str | bytes, *, mode: int = 0o600) -> None:
    """Write a file, text in UTF-8, completely or not at all: a reader gets the old or the new one.

    `mode` is the new file's, less the process's umask; by default only its owner may read it.
    FileError if it cannot be written.
    """
    data = content.encode(errors="replace") if isinstance(content, str) else content
    new = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    with writing(path):
        _write_new(new, data, mode)
        try:
            new.replace(path)
        except BaseException:
            new.unlink()
            raise


def write_new_file(path: Path, data: bytes, *, mode: int) -> None:
    """Write a file that does not exist yet; FileError if it exists or cannot be written."""
    with writing(path):
        _write_new(path, data, mode)


def _write_new(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    except BaseException:
        path.unlink()
        raise


def on_machine(package: str) -> Traversable:
    """Return the folder of programs that `package` runs on a machine; they are package data."""
    return resources.files(package) / "on_machine"


def programs_of(package: str) -> list[Traversable]:
    """Return the programs that `package` runs on a machine, by name.

    An installer also writes a folder `__pycache__` beside them, which is left out.
    """
    found = (program for program in on_machine(package).iterdir() if program.is_file())
    return sorted(found, key=lambda program: program.name)


def json_digest(document: Mapping[str, object]) -> str:
    """Return the SHA-256, in hex, of the canonical JSON: keys sorted, no blanks, ASCII."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def parse_json(text: str) -> Any:
    """Return the value of a JSON text that another program has written.

    Raises ValueError for any text that is not JSON, or that is nested too deep for Python.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
