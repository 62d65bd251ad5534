"""The servers that downloads come from, and the keys and hashes that they are checked with.

A package is checked by its repository's signature, a file by its sha256, a git repository by the
commit's id. `UPSTREAM` names the real hosts. The local cloud's stand-ins are another payload, for
the same scripts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from bake.catalog import facts


@dataclass(frozen=True)
class Payload:
    """Base URLs (without a trailing slash), and the keys and hashes to check downloads with.

    `key_fingerprints` maps names of mirrors to the keys that sign there; NVIDIA's key is a fact of
    the operating system unless it is here. `sha256` maps file names to hashes. `image_owner`
    replaces the owner of every base image: stand-in base images have an owner of their own.
    `venv_python` is the Python of a stand-in machine, which a venv on it has in place of the
    recipe's; empty for real ones.
    """

    name: Literal["upstream", "stand-in"]
    mirrors: Mapping[str, str]
    key_fingerprints: Mapping[str, str]
    sha256: Mapping[str, str]
    image_owner: str | None = None
    venv_python: str = ""


# The Ubuntu archive has no TLS on its own host; apt checks every package by the archive's signature
# anyway. Its -security pocket is on the same host.
# The key of the container toolkit's repository is the one of its file gpgkey (found: ten public
# files agree).
UPSTREAM = Payload(
    name="upstream",
    mirrors={
        "ubuntu": "http://archive.ubuntu.com/ubuntu",
        "debian": "https://deb.debian.org/debian",
        "amazon": "https://cdn.amazonlinux.com/al2023",
        "debian-security": "https://deb.debian.org/debian-security",
        "nvidia": "https://developer.download.nvidia.com/compute/cuda/repos",
        "nvidia-container-toolkit": "https://nvidia.github.io/libnvidia-container",
        "efa": "https://efa-installer.amazonaws.com",
        "miniconda": "https://repo.anaconda.com/miniconda",
        "miniforge": "https://github.com/conda-forge/miniforge/releases/download",
        "conda": "https://conda.anaconda.org",
        "pypi": "https://pypi.org/simple",
        "pytorch": "https://download.pytorch.org/whl",
        "notebooks": "https://github.com/d2l-ai",
    },
    key_fingerprints={"nvidia-container-toolkit": "C95B321B61E88C1809C4F759DDCAE044F796ECB0"},
    sha256={
        installer["file"]: installer["sha256"]
        for versions in facts.read("installers").values()
        for installer in versions.values()
    },
)

# These archives sign their packages, so a local mirror may use plain HTTP.
SIGNED = ("ubuntu", "debian", "debian-security", "amazon")


def with_mirrors(payload: Payload, mirrors: Mapping[str, str]) -> Payload:
    """Return a payload with other mirrors, and the same keys and hashes."""
    stripped = {name: url.rstrip("/") for name, url in mirrors.items()}
    return replace(payload, mirrors={**payload.mirrors, **stripped})
