"""Tiny Debian packages, and the apt archives that contain them.

The same input gives the same bytes: no file contains a time, a user or the order of a folder.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bake.files import write_file

MAINTAINER = "bake stand-in <stand-in@localhost>"
Sign = Callable[[bytes], bytes]
_DATE = "Thu, 01 Jan 2026 00:00:00 UTC"


@dataclass(frozen=True)
class Package:
    """A Debian package with a README that says it is a stand-in.

    `files` (path → content) are executable if they are in a folder named `bin`.
    """

    name: str
    version: str
    depends: str = ""
    files: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def file_name(self) -> str:
        return f"{self.name}_{self.version.replace(':', '%3a')}_all.deb"

    @property
    def control(self) -> str:
        lines = [
            f"Package: {self.name}",
            f"Version: {self.version}",
            "Architecture: all",
            f"Maintainer: {MAINTAINER}",
            "Section: misc",
            "Priority: optional",
        ]
        if self.depends:
            lines.append(f"Depends: {self.depends}")
        lines.append(f"Description: stand-in for {self.name}, without its contents")
        return "\n".join(lines) + "\n"

    def deb(self) -> bytes:
        readme = f"/usr/share/doc/{self.name}/README.stand-in"
        text = f"A stand-in for {self.name} {self.version}: without its contents.\n"
        contents = {readme: text.encode(), **self.files}
        return _ar(
            {
                "debian-binary": b"2.0\n",
                "control.tar.gz": _tar({"control": self.control.encode()}),
                "data.tar.gz": _tar(contents),
            }
        )


def write_archive(
    root: Path,
    sign: Sign,
    suites: Iterable[str],
    components: Mapping[str, Iterable[Package]],
    *,
    label: str,
) -> None:
    """Write an archive with the layout of Ubuntu and Debian. The first suite has the packages."""
    pools = {
        component: _write_pool(root, f"pool/{component}", packages)
        for component, packages in components.items()
    }
    for number, suite in enumerate(suites):
        indices = {
            f"{component}/binary-amd64/Packages": b"" if number else index
            for component, index in pools.items()
        }
        fields = {"Codename": suite.split("-")[0], "Components": " ".join(components)}
        _write_release(root / "dists" / suite, sign, indices, label, Suite=suite, **fields)


def write_flat_repository(
    root: Path, sign: Sign, packages: Iterable[Package], *, label: str
) -> None:
    """Write a repository with NVIDIA's layout: all files in one folder."""
    _write_release(root, sign, {"Packages": _write_pool(root, ".", packages)}, label)


def _write_pool(root: Path, folder: str, packages: Iterable[Package]) -> bytes:
    (root / folder).mkdir(parents=True, exist_ok=True)
    stanzas = []
    for package in sorted(packages, key=lambda package: (package.name, package.version)):
        deb = package.deb()
        write_file(root / folder / package.file_name, deb)
        place = package.file_name if folder == "." else f"{folder}/{package.file_name}"
        stanzas.append(
            f"{package.control}Filename: {place}\nSize: {len(deb)}\n"
            f"SHA256: {hashlib.sha256(deb).hexdigest()}\n"
        )
    return "\n".join(stanzas).encode()


def _write_release(
    folder: Path, sign: Sign, indices: Mapping[str, bytes], label: str, **fields: str
) -> None:
    lines = [f"Origin: {label}", f"Label: {label}", f"Date: {_DATE}", "Architectures: amd64 all"]
    lines += [f"{name}: {value}" for name, value in fields.items()]
    lines.append("SHA256:")
    for name, data in indices.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_file(folder / name, data)
        lines.append(f" {hashlib.sha256(data).hexdigest()} {len(data)} {name}")
    release = ("\n".join(lines) + "\n").encode()
    write_file(folder / "InRelease", sign(release))


def _tar(contents: Mapping[str, bytes]) -> bytes:
    """Return a tar.gz of files that root owns, and of their parent folders."""
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.GNU_FORMAT) as tar,
    ):
        folders: dict[str, None] = {}
        for name in contents:
            above = [str(parent) for parent in Path(name.lstrip("/")).parents]
            folders.update(dict.fromkeys(reversed(above)))
        for folder in sorted(folders):
            entry = tarfile.TarInfo(f"./{folder}" if folder != "." else ".")
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for name, data in sorted(contents.items()):
            entry = tarfile.TarInfo(f"./{name.lstrip('/')}")
            entry.size, entry.mode = len(data), 0o755 if "/bin/" in name else 0o644
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def _ar(members: Mapping[str, bytes]) -> bytes:
    """Return the outer archive of a .deb file: see ar(5) and deb(5)."""
    parts = [b"!<arch>\n"]
    for name, data in members.items():
        parts.append(f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode())
        parts.append(data + b"\n" * (len(data) % 2))
    return b"".join(parts)
