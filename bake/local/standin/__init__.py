"""The stand-in upstreams: a mirror on loopback with tiny packages in the place of gigabytes.

They are signed and checked like the originals, by the unchanged stages, so that a bake can be
rehearsed anywhere in seconds, after the first time without a network. What runs on the machine is
real where it can be: Python, its packages, MXNet on the CPU. Nothing pretends that there is a GPU.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from bake import files
from bake.local.machines.engine import Engine, find_engine
from bake.local.machines.os_images import STAND_IN_OWNER
from bake.local.standin import mirror, trust, upstreams, wheels
from bake.recipe.payload import UPSTREAM, Payload

if TYPE_CHECKING:
    from bake.recipe.resolved import Resolved

LOOPBACK = "127.0.0.1"
_LINES_OF_PIP = ("FRAMEWORK_REQUIREMENTS", "D2L_REQUIREMENTS", "PIP_PACKAGES")


def up(resolved: Resolved) -> Payload:
    """Have the mirror serve what the recipe needs, and say how a machine reaches it.

    Raises LocalCloudError when something has no stand-in, or, the first time, when the package
    index is out of reach.
    """
    from bake.plan.plan import variables  # late: the mirror's own process needs none of it

    engine = find_engine()
    return serve(
        variables(resolved, UPSTREAM),
        host=engine.computer_address,
        listen=listen_address(engine),
    )


def listen_address(engine: Engine) -> str:
    """Loopback; for Docker, whose machines cannot reach that, its bridge on this computer."""
    if engine.computer_address != "host.docker.internal":
        return LOOPBACK
    template = "{{(index .IPAM.Config 0).Gateway}}"
    return engine.call("network", "inspect", "bridge", "--format", template).stdout.decode().strip()


def serve(wanted: Mapping[str, str], *, host: str, listen: str = LOOPBACK) -> Payload:
    """As `up`, for the stages' inputs that a recipe leads to, and machines that call us `host`."""
    root = _folder() / "mirror"
    with _alone():
        trusted = trust.establish(_folder() / "trust")
        upstreams.write(root, trusted, wanted.get("APT_PACKAGES", "").split())
        lines = [line for name in _LINES_OF_PIP for line in wanted.get(name, "").splitlines()]
        wheels.provide(root / "pypi", [line for line in lines if line.strip()])
        certificate = trusted.server_certificate((host, listen))
        running = mirror.start(_state(), root, certificate, address=listen)
    base = f"https://{host}:{running.port}"
    paths = {"nvidia": "compute/cuda/repos", "pypi": "pypi/simple"}
    mirrors = {name: f"{base}/{paths.get(name, name)}" for name in UPSTREAM.mirrors}
    return Payload(
        name="stand-in",
        mirrors=mirrors,
        nvidia_key_fingerprint=trusted.fingerprint,
        sha256=_sha256(),
        image_owner=STAND_IN_OWNER,
    )


def down() -> None:
    """End the mirror. What it served stays for the next time."""
    mirror.stop(_state())


def machine_files() -> Mapping[str, bytes]:
    """What the root file system of a stand-in machine holds, so that it trusts the mirror.

    The certificate authority wants `update-ca-certificates` afterwards.
    """
    with _alone():
        trusted = trust.establish(_folder() / "trust")
    return {
        "/usr/local/share/ca-certificates/bake-stand-in.crt": trusted.ca_certificate,
        "/usr/share/keyrings/debian-archive-keyring.gpg": trusted.public_key,
        "/usr/share/keyrings/ubuntu-archive-keyring.gpg": trusted.public_key,
    }


def _sha256() -> Mapping[str, str]:
    digests = {
        "notebooks": hashlib.sha256(upstreams.notebooks()).hexdigest(),
        "installer": hashlib.sha256(upstreams.installer()).hexdigest(),
    }
    return {
        name.rpartition("/")[2]: digests.get(mirror_name, digests["installer"])
        for mirror_name, names in upstreams.file_names().items()
        for name in names
    }


def _folder() -> Path:
    """Beside the root file systems, which hold the trust: both are made again together."""
    return files.cache() / "stand-in"


def _state() -> Path:
    return files.home() / "stand-in-mirror.json"


@contextmanager
def _alone() -> Iterator[None]:
    """Two bakes at once share the cache."""
    _folder().mkdir(parents=True, exist_ok=True)
    with FileLock(_folder() / "lock"):
        yield
