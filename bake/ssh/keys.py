"""SSH key pairs that are generated for one run and kept in memory."""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)


@dataclass(frozen=True)
class KeyPair:
    """An ed25519 key pair in OpenSSH's formats, usable as a login key or as a host key."""

    private_openssh: str = field(repr=False)
    public_openssh: str


def generate() -> KeyPair:
    """Generate a key pair; nothing is written to disk."""
    private = Ed25519PrivateKey.generate()
    return KeyPair(
        private_openssh=private.private_bytes(
            Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()
        ).decode(),
        public_openssh=private.public_key()
        .public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        .decode(),
    )
