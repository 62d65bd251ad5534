"""A machine's disk kept as a layer, with the machine standing still as shortly as can be.

`commit` packs what a machine has written, hashes it and unpacks it again, and the machine waits for
all of that. Where the engine's storage shows what was written as a directory (Podman's overlay
driver, as root), the machine waits for a copy of that directory alone, the copy shares its data
with the one before as far as the file system or unchanged files allow, and it is put in the place
of a layer that was made empty.
"""

# A machine waits for this, and has tens of thousands of files: plain strings are faster.
# ruff: noqa: PTH101, PTH102, PTH115, PTH123, PTH211

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bake.errors import LocalCloudError
from bake.local.machines.engine import Engine

# Changes closer together than a tick of the kernel's clock may have one time (CONFIG_HZ=100).
_TICK_NS = 20_000_000
_CHUNK = 1024 * 1024
# The kernel stacks 500 at most; each one makes looking a file up dearer.
MAX_DEPTH = 64


@dataclass(frozen=True)
class Kept:
    """What a layer holds: where, and which file of the machine's each of its files was."""

    folder: Path
    files: Mapping[int, tuple[int, str]]  # inode → time of its last change, path in the layer


@dataclass
class MachineDisk:
    """The disk of one machine. Its methods are called one after the other."""

    engine: Engine
    name: str
    labels: Mapping[str, str]
    _last: Kept | None = None

    def keep(self, reference: str, on_moment: Callable[[], None]) -> int:
        """Make a layer of what the disk holds now; the bytes that had to be copied, if known.

        `on_moment` is called as soon as nothing that the machine does can change the layer.
        """
        if not self.engine.layers_are_folders:
            with self._standing_still():
                on_moment()
                self.engine.commit(self.name, reference, labels=self.labels)
            return 0
        written, process_id = self.engine.written_by(self.name)
        copy = written.with_name(f"bake-{uuid.uuid4().hex}")
        try:
            with self._standing_still():
                on_moment()
                copying = _Copying(self._last, before_ns=time.time_ns() - _TICK_NS)
                copying.folder(str(written), str(copy), "")
                # Later writes into such a file need not change its time.
                trusted = not _writes_into_mapped_files(process_id)
            layer = self._layer_of(copy, reference)
        finally:
            shutil.rmtree(copy, ignore_errors=True)
        self._last = Kept(layer, copying.kept) if trusted else None
        return copying.copied_bytes

    @contextlib.contextmanager
    def _standing_still(self) -> Iterator[None]:
        paused = self.engine.pause(self.name)
        try:
            yield
        finally:
            if paused:
                self.engine.unpause(self.name)

    def _layer_of(self, copy: Path, reference: str) -> Path:
        """An image of what the machine was started from and, upon that, the copy; where it is."""
        helper = f"{self.name}-layer"
        marker = f"bake-{uuid.uuid4().hex}"  # no two layers are one, as equal ones would be
        image = self.engine.image_of(self.name)
        self.engine.create(helper, image, labels=self.labels)
        try:
            written, _ = self.engine.written_by(helper)
            if deep := self.engine.depth(self.name) >= MAX_DEPTH:
                written.rmdir()
                copy.rename(written)
            else:
                (written / marker).touch()
            self.engine.commit(helper, reference, labels=self.labels, squash=deep)
        finally:
            self.engine.remove(helper)
        layer = self.engine.layer_folder(reference)
        if deep:
            return layer
        if [entry.name for entry in layer.iterdir()] != [marker]:
            raise LocalCloudError(f"The engine keeps the layer of {reference} elsewhere: {layer}")
        (layer / marker).unlink()
        layer.rmdir()
        copy.rename(layer)
        return layer


@dataclass
class _Copying:
    """Copies a directory of overlayfs, which also says what is gone from those beneath it.

    That is said by devices and extended attributes (Documentation/filesystems/overlayfs.rst), so
    these are copied too. Files that are as they were in the last copy are that copy's.
    """

    last: Kept | None
    before_ns: int
    kept: dict[int, tuple[int, str]] = field(default_factory=dict)
    copied_bytes: int = 0
    _linked: dict[int, str] = field(default_factory=dict)

    def folder(self, source: str, target: str, path: str) -> None:
        os.mkdir(target)
        with os.scandir(source) as entries:
            for entry in entries:
                self._entry(entry, f"{target}/{entry.name}", f"{path}/{entry.name}")
        _copy_metadata(source, target, os.lstat(source))

    def _entry(self, entry: os.DirEntry[str], target: str, path: str) -> None:
        about = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(about.st_mode):
            return self.folder(entry.path, target, path)
        if about.st_ino in self._linked:
            return os.link(self._linked[about.st_ino], target, follow_symlinks=False)
        if about.st_nlink > 1:
            self._linked[about.st_ino] = target
        if stat.S_ISREG(about.st_mode):
            if about.st_ctime_ns < self.before_ns:
                self.kept[about.st_ino] = (about.st_ctime_ns, path)
            if self._link_last(about, target):
                return None
            self.copied_bytes += about.st_blocks * 512
            _copy_data(entry.path, target, about)
        elif stat.S_ISLNK(about.st_mode):
            os.symlink(os.readlink(entry.path), target)
        else:
            os.mknod(target, about.st_mode, about.st_rdev)
        return _copy_metadata(entry.path, target, about)

    def _link_last(self, about: os.stat_result, target: str) -> bool:
        """Whether the file is as it was in the last copy, and could be taken from there."""
        changed_ns, path = self.last.files.get(about.st_ino, (0, "")) if self.last else (0, "")
        if not self.last or changed_ns != about.st_ctime_ns:
            return False
        try:
            os.link(f"{self.last.folder}{path}", target)
        except OSError as error:
            # The last one is deleted; it has many links; or none can be made from there to here.
            if error.errno in (errno.ENOENT, errno.EMLINK, errno.EXDEV):
                return False
            raise
        return True


def _copy_data(source: str, target: str, about: os.stat_result) -> None:
    """The data of a file, shared where the file system can; holes stay holes."""
    with open(source, "rb", buffering=0) as data, open(target, "xb", buffering=0) as copy:
        os.truncate(copy.fileno(), about.st_size)
        position = 0
        while position < about.st_size:
            try:
                begin = os.lseek(data.fileno(), position, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                    return
                raise
            position = os.lseek(data.fileno(), begin, os.SEEK_HOLE)
            while begin < position:
                done = _copy_some(data.fileno(), copy.fileno(), begin, position - begin)
                if not done:
                    raise LocalCloudError(f"{source} ends before its size: it is being changed")
                begin += done


def _copy_some(source: int, target: int, offset: int, size: int) -> int:
    """How many bytes were copied, from an offset to the same one."""
    try:  # copy_file_range(2) shares the data on XFS and Btrfs
        return os.copy_file_range(source, target, size, offset, offset)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        return os.pwrite(target, os.pread(source, min(size, _CHUNK), offset), offset)


def _copy_metadata(source: str, target: str, about: os.stat_result) -> None:
    os.chown(target, about.st_uid, about.st_gid, follow_symlinks=False)
    for name in os.listxattr(source, follow_symlinks=False):
        value = os.getxattr(source, name, follow_symlinks=False)
        os.setxattr(target, name, value, follow_symlinks=False)
    if not stat.S_ISLNK(about.st_mode):
        os.chmod(target, stat.S_IMODE(about.st_mode))
    os.utime(target, ns=(about.st_atime_ns, about.st_mtime_ns), follow_symlinks=False)


def _writes_into_mapped_files(process_id: int) -> bool:
    """Whether a process of the machine has a file mapped such that writes into it are shared.

    While such a page is dirty, further writes into it go unnoticed: the file's time stays.
    """
    if not process_id:
        return False
    try:
        machine = os.readlink(f"/proc/{process_id}/ns/pid")
    except OSError:
        return True  # it has started anew since, and nobody has looked
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.readlink(process / "ns" / "pid") == machine:
                for line in (process / "maps").read_text().splitlines():
                    _, access, _, device, *_ = line.split()
                    if access[1] == "w" and access[3] == "s" and device != "00:01":
                        return True  # 00:01: shared memory, which is no file
    return False
