"""Where the downloads come from, and what they are checked against.

A package is checked by its repository's signature, a file by its sha256, a git repository by the
commit's id. `UPSTREAM` is the real hosts; the local cloud's stand-ins are another payload, for the
same scripts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from bake.catalog import facts


@dataclass(frozen=True)
class Payload:
    """Base URLs (without a trailing slash) and the anchors of trust.

    `sha256` is by file name. `image_owner` overrides the owner of every base image: stand-in base
    images have their own.
    """

    name: Literal["upstream", "stand-in"]
    mirrors: Mapping[str, str]
    nvidia_key_fingerprint: str
    sha256: Mapping[str, str]
    image_owner: str | None = None


# The Ubuntu archive has no TLS on its own host; apt checks every package by the archive's signature
# all the same. Its -security pocket is on the same host.
# NVIDIA's key is the one of 2022-04-27, 3bf863cc.pub in each repository's folder; the one before
# it, 7fa2af80, is revoked (NVIDIA/cuda-repo-management 2944b7a, SIGNATURES.md).
UPSTREAM = Payload(
    name="upstream",
    mirrors={
        "ubuntu": "http://archive.ubuntu.com/ubuntu",
        "debian": "https://deb.debian.org/debian",
        "debian-security": "https://deb.debian.org/debian-security",
        "nvidia": "https://developer.download.nvidia.com/compute/cuda/repos",
        "miniconda": "https://repo.anaconda.com/miniconda",
        "miniforge": "https://github.com/conda-forge/miniforge/releases/download",
        "conda": "https://conda.anaconda.org",
        "pypi": "https://pypi.org/simple",
        "pytorch": "https://download.pytorch.org/whl",
        "notebooks": "https://github.com/d2l-ai",
    },
    nvidia_key_fingerprint="EB693B3035CD5710E231E123A4B469963BF863CC",
    sha256={
        installer["file"]: installer["sha256"]
        for versions in facts.read("installers").values()
        for installer in versions.values()
    },
)

# The archive itself signs their packages, so that plain HTTP to a mirror in the house is sound.
SIGNED = ("ubuntu", "debian", "debian-security")


def with_mirrors(payload: Payload, mirrors: Mapping[str, str]) -> Payload:
    """The same payload from a site's own mirrors; the anchors of trust stay what they are."""
    stripped = {name: url.rstrip("/") for name, url in mirrors.items()}
    return replace(payload, mirrors={**payload.mirrors, **stripped})
