"""The keys of the stand-ins that machines trust: a certificate authority and a signing key.

Both are made once per cache. So signed files, and all digests that depend on them, stay the same
from one bake to the next.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import trustme

from bake.errors import LocalCloudError

OWNER = "bake stand-in archive (not NVIDIA, not Ubuntu, not Debian)"


@dataclass(frozen=True)
class Trust:
    """The folder of the keys. `fingerprint`: of the OpenPGP key, 40 upper-case hex digits."""

    folder: Path
    fingerprint: str

    @property
    def ca_certificate(self) -> bytes:
        return (self.folder / "ca.crt").read_bytes()

    @property
    def public_key(self) -> bytes:
        """The signing key's public half in binary form, as apt needs it in a keyring."""
        return (self.folder / "archive.gpg").read_bytes()

    def server_certificate(self, hosts: tuple[str, ...]) -> Path:
        """Return a PEM file with a certificate for these host names and its private key."""
        path = self.folder / f"server-{'-'.join(hosts)}.pem"
        if not path.exists():
            ca = trustme.CA.from_pem(self.ca_certificate, (self.folder / "ca.key").read_bytes())
            leaf = ca.issue_cert(*hosts)
            _write_secret(path, leaf.private_key_and_cert_chain_pem.bytes())
        return path

    @contextmanager
    def signer(self) -> Iterator[Callable[[bytes], bytes]]:
        """Yield a function that signs a text as apt's `InRelease` (clear-signed)."""
        with _keyring(self.folder / "archive.key") as gpg:
            yield lambda text: gpg("--clear-sign", "--digest-algo", "SHA512", stdin=text)


def establish(folder: Path) -> Trust:
    """Return the keys in the folder. Make them if there are none yet."""
    ready = folder / "fingerprint"
    if not ready.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        ca = trustme.CA(organization_name=OWNER)
        _write_secret(folder / "ca.key", ca.private_key_pem.bytes())
        (folder / "ca.crt").write_bytes(ca.cert_pem.bytes())
        with _keyring() as gpg:
            gpg("--quick-generate-key", OWNER, "rsa3072", "sign", "never")
            listing = gpg("--with-colons", "--list-keys").decode()
            fingerprint = next(
                line.split(":")[9] for line in listing.splitlines() if line.startswith("fpr:")
            )
            _write_secret(folder / "archive.key", gpg("--export-secret-keys"))
            (folder / "archive.gpg").write_bytes(gpg("--export"))
        ready.write_text(fingerprint)
    return Trust(folder, ready.read_text())


class _Gpg:
    def __init__(self, home: str) -> None:
        self.home = home

    def __call__(self, *arguments: str, stdin: bytes = b"") -> bytes:
        command = ["gpg", "--homedir", self.home, "--batch", "--quiet", "--passphrase", ""]
        command += ["--pinentry-mode", "loopback", *arguments]
        try:
            done = subprocess.run(command, input=stdin, capture_output=True, timeout=60)
        except FileNotFoundError as error:
            raise LocalCloudError(
                "The stand-ins are signed with gpg, which is not installed",
                hint="Install it. Debian and Ubuntu: sudo apt-get install gnupg",
            ) from error
        if done.returncode:
            raise LocalCloudError(f"gpg {arguments[0]} failed: {done.stderr.decode().strip()}")
        return done.stdout


@contextmanager
def _keyring(secret_key: Path | None = None) -> Iterator[_Gpg]:
    """Yield gpg with a temporary home, and end its agent afterwards.

    The home is in /tmp, whatever TMPDIR is: the path of the agent's socket has 107 characters at
    most.
    """
    home = tempfile.mkdtemp(prefix="bake-gpg-", dir="/tmp")
    try:
        gpg = _Gpg(home)
        if secret_key is not None:
            gpg("--import", str(secret_key))
        yield gpg
    finally:
        with suppress(FileNotFoundError):
            subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], capture_output=True)
        shutil.rmtree(home, ignore_errors=True)


def _write_secret(path: Path, data: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(data)
