"""Save a machine's disk as a layer, with the machine paused for as short a time as possible.

The engine's `commit` packs, hashes and unpacks the files that a machine has written, and the
machine is paused all the time. Where the engine stores these files in a folder (Podman's overlay
driver, as root), the machine is paused only while the folder is copied. The copy shares data with
the copy before, as far as files are unchanged or the file system can. It then replaces the content
of a layer that was made empty.
"""

# A machine is paused meanwhile, and has tens of thousands of files: plain strings are faster.
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

# Two changes within one tick of the kernel's clock may have the same time (CONFIG_HZ=100).
_TICK_NS = 20_000_000
_CHUNK = 1024 * 1024
# The kernel stacks 500 layers at most, and each layer makes the lookup of a file slower.
MAX_DEPTH = 64


@dataclass(frozen=True)
class SavedLayer:
    """A layer's folder, and the machine's file from which each file in it was copied."""

    folder: Path
    files: Mapping[int, tuple[int, str]]  # inode → time of its last change, path in the layer


@dataclass
class MachineDisk:
    """The disk of one machine. The caller calls `keep` from one thread at a time."""

    engine: Engine
    name: str
    labels: Mapping[str, str]
    _last: SavedLayer | None = None

    def keep(self, reference: str, on_moment: Callable[[], None]) -> int:
        """Save the disk's present content as a layer. Return the number of bytes copied, or 0.

        `on_moment` is called as soon as nothing that the machine does can change the layer.
        """
        if not self.engine.layers_are_folders:
            with self._paused():
                on_moment()
                self.engine.commit(self.name, reference, labels=self.labels)
            return 0
        written, process_id = self.engine.written_by(self.name)
        copy = written.with_name(f"bake-{uuid.uuid4().hex}")
        try:
            with self._paused():
                on_moment()
                copying = _Copying(self._last, before_ns=time.time_ns() - _TICK_NS)
                copying.folder(str(written), str(copy), "")
                # Later writes into a mapped file do not always change its time.
                trusted = not _writes_into_mapped_files(process_id)
            layer = self._layer_of(copy, reference)
        finally:
            shutil.rmtree(copy, ignore_errors=True)
        self._last = SavedLayer(layer, copying.kept) if trusted else None
        return copying.copied_bytes

    @contextlib.contextmanager
    def _paused(self) -> Iterator[None]:
        paused = self.engine.pause(self.name)
        try:
            yield
        finally:
            if paused:
                self.engine.unpause(self.name)

    def _layer_of(self, copy: Path, reference: str) -> Path:
        """Make an image of the machine's own image and the copy. Return the layer's folder."""
        helper = f"{self.name}-layer"
        marker = f"bake-{uuid.uuid4().hex}"  # the engine stores layers with equal content once
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
            raise LocalCloudError(
                f"The layer of {reference} is not in the expected folder {layer}",
                hint="This version of the container engine stores layers in another way. "
                "Try another version, or BAKE_ENGINE=docker",
            )
        (layer / marker).unlink()
        layer.rmdir()
        copy.rename(layer)
        return layer


@dataclass
class _Copying:
    """A copy of an overlayfs folder, in progress.

    Overlayfs marks files that were removed from the layers below with devices and extended
    attributes (Documentation/filesystems/overlayfs.rst), so these are copied, too. A file that has
    not changed since the last copy becomes a hard link to it.
    """

    last: SavedLayer | None
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
        """Link a file that is unchanged since the last copy. Return whether that was possible."""
        changed_ns, path = self.last.files.get(about.st_ino, (0, "")) if self.last else (0, "")
        if not self.last or changed_ns != about.st_ctime_ns:
            return False
        try:
            os.link(f"{self.last.folder}{path}", target)
        except OSError as error:
            # The last copy is deleted or on another file system, or the file has too many links.
            if error.errno in (errno.ENOENT, errno.EMLINK, errno.EXDEV):
                return False
            raise
        return True


def _copy_data(source: str, target: str, about: os.stat_result) -> None:
    """Copy the data of a file, or share them where the file system can. Holes stay holes."""
    with open(source, "rb", buffering=0) as data, open(target, "xb", buffering=0) as copy:
        os.truncate(copy.fileno(), about.st_size)
        position = 0
        while position < about.st_size:
            try:
                begin = os.lseek(data.fileno(), position, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # the rest of the file is a hole
                    return
                raise
            position = os.lseek(data.fileno(), begin, os.SEEK_HOLE)
            while begin < position:
                done = _copy_some(data.fileno(), copy.fileno(), begin, position - begin)
                if not done:
                    raise LocalCloudError(f"{source} became shorter while it was copied")
                begin += done


def _copy_some(source: int, target: int, offset: int, size: int) -> int:
    """Copy up to `size` bytes at `offset`. Return how many bytes were copied."""
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
    """Return whether a process of the machine has a file mapped with shared writes.

    While a page of such a file is dirty, further writes to the page do not change the file's time.
    """
    if not process_id:
        return False
    try:
        machine = os.readlink(f"/proc/{process_id}/ns/pid")
    except OSError:
        return True  # the machine was restarted meanwhile: assume the worst
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.readlink(process / "ns" / "pid") == machine:
                for line in (process / "maps").read_text().splitlines():
                    _, access, _, device, *_ = line.split()
                    if access[1] == "w" and access[3] == "s" and device != "00:01":
                        return True  # 00:01 is shared memory, not a file
    return False
