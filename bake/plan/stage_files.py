"""The files of a project that a stage is given, as one archive whose bytes follow from them alone.

A stage names files and folders below the project's folder `files/`. A link is followed if it leads
to something in that folder, and its target is copied. The mode of a file is 0755 if its owner may
execute it, else 0644; its times and its owner are left out.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from bake.errors import Finding
from bake.files import json_digest

# They are uploaded into the machine's memory, together with those of the stages that run beside.
MOST_B = 100_000_000
MOST_FILES = 10_000
_TOO_MUCH = "Keep it on a server, and let the stage download it with its sha256"


@dataclass(frozen=True)
class StageFile:
    """A file with its path below `files/`. `mode` is 0o755 or 0o644."""

    path: str
    mode: int
    content: bytes = field(repr=False)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


def folder_of(script: Path) -> Path:
    """Return the folder `files/` of the project that has this script of a stage."""
    return script.parent.parent.parent / "files"


def read_files(folder: Path, paths: Iterable[str]) -> tuple[tuple[StageFile, ...], list[Finding]]:
    """Return the files that a stage's header names, sorted by path, and what is wrong with them."""
    reader = _Reader(folder)
    for path in paths:
        reader.add(path)
    return tuple(reader.files[path] for path in sorted(reader.files)), reader.findings


def files_digest(files: Iterable[StageFile]) -> str:
    """Return the sha256 of paths, modes and bytes."""
    return json_digest({file.path: [file.mode, file.sha256] for file in files})


def below(files: Iterable[StageFile], path: str) -> list[StageFile]:
    """Return the files that a path of a header means: one file, or all of a folder."""
    return [file for file in files if f"{file.path}/".startswith(f"{path}/")]


def archive(files: Iterable[StageFile]) -> bytes:
    """Return a tar archive of the files and their folders; empty without files."""
    packed, folders = io.BytesIO(), set[str]()
    files = tuple(files)
    if not files:
        return b""
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for file in files:
            for parent in reversed(_parents(file.path)):
                if parent not in folders:
                    folders.add(parent)
                    tar.addfile(_entry(parent, 0o755, tarfile.DIRTYPE))
            entry = _entry(file.path, file.mode, tarfile.REGTYPE)
            entry.size = len(file.content)
            tar.addfile(entry, io.BytesIO(file.content))
    return packed.getvalue()


def _parents(path: str) -> list[str]:
    parts = path.split("/")[:-1]
    return ["/".join(parts[:count]) for count in range(len(parts), 0, -1)]


def _entry(path: str, mode: int, kind: bytes) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(path)
    entry.mode, entry.type = mode, kind
    return entry


class _Reader:
    """Reads files, and collects what is wrong with them."""

    def __init__(self, folder: Path) -> None:
        self.files: dict[str, StageFile] = {}
        self.findings: list[Finding] = []
        self._folder = folder
        # The folder itself may not be a link either: it could lead out of the project.
        self._root = Path(os.path.realpath(folder.parent), folder.name)
        self._size = 0
        self._is_full = False

    def add(self, path: str) -> None:
        """Read a file, or all files of a folder."""
        before = len(self.findings)
        self._add(path, ())
        if (
            len(self.findings) == before
            and not self._is_full
            and not below(self.files.values(), path)
        ):
            self._refuse(path, "is a folder without files", "Put a file into it")

    def _add(self, path: str, through: tuple[Path, ...]) -> None:
        """`through` are the real folders on the way, so that a link to one of them is noticed."""
        if self._is_full:
            return
        place = self._folder / path
        try:
            real = Path(os.path.realpath(place, strict=True))
            if not real.is_relative_to(self._root):
                self._refuse(path, f"is a link that leads out of {self._folder}", "Copy the file")
                return
            about = real.stat()
            if stat.S_ISDIR(about.st_mode):
                self._add_folder(path, real, through)
            elif stat.S_ISREG(about.st_mode):
                self._add_file(path, real, about)
            else:
                self._refuse(path, "is neither a file nor a folder", "Remove it")
        except FileNotFoundError:
            what = (
                "is a link to something that does not exist" if place.is_symlink() else "not found"
            )
            self._refuse(path, what, f"Create {place}, or correct Files: in the header")
        except OSError as error:
            self._refuse(path, f"cannot be read: {error.strerror}", "")

    def _add_folder(self, path: str, real: Path, through: tuple[Path, ...]) -> None:
        if real in through:
            self._refuse(path, "is a link to a folder that contains it", "Remove the link")
            return
        for name in sorted(each.name for each in real.iterdir()):
            self._add(f"{path}/{name}", (*through, real))

    def _add_file(self, path: str, real: Path, about: os.stat_result) -> None:
        if not path.isprintable():
            self._refuse(path, "has a character that a path here cannot have", "Rename it")
            return
        self._size += about.st_size if path not in self.files else 0
        if self._size > MOST_B or len(self.files) >= MOST_FILES:
            self._is_full = True
            limit = f"{MOST_B // 1_000_000} MB in {MOST_FILES:,} files"
            self._refuse(path, f"is beyond the limit of a stage, {limit}", _TOO_MUCH)
            return
        mode = 0o755 if about.st_mode & stat.S_IXUSR else 0o644
        self.files[path] = StageFile(path, mode, real.read_bytes())

    def _refuse(self, path: str, message: str, hint: str) -> None:
        shown = path.encode("utf-8", "backslashreplace").decode()
        self.findings.append(Finding(f"files/{shown}", message, hint))
