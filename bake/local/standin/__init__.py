"""Stand-ins for the download servers: a mirror on loopback with tiny packages.

The unchanged stages check their signatures like those of the originals. So a bake can be rehearsed
on any computer in seconds and, after the first time, without a network. Python, its packages and
MXNet (on the CPU) are real. PyTorch, TensorFlow and JAX are small programs that say so. Nothing
pretends to be a GPU.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from bake import files
from bake.local.machines.engine import Engine, find_engine
from bake.local.machines.os_images import STAND_IN_OWNER
from bake.local.standin import mirror, names, trust, upstreams, wheels
from bake.recipe.payload import UPSTREAM, Payload

if TYPE_CHECKING:
    from bake.recipe.project import Project
    from bake.recipe.resolved import Resolved

LOOPBACK = "127.0.0.1"
# The inputs of stages that are requirements of pip, one a line.
_PIP_INPUT = re.compile(r"PIP_PACKAGES|\w+_REQUIREMENTS")


def up(resolved: Resolved, project: Project) -> Payload:
    """Start the mirror with what the recipe needs. Return the URLs at which a machine reaches it.

    Raises RecipeError if the recipe requests a package that its archive does not have, and
    LocalCloudError if it needs something that has no stand-in or, the first time, if the Python
    package index cannot be reached.
    """
    from bake.plan.plan import all_inputs  # late: the process of the mirror does not need it

    engine = find_engine()
    return serve(
        all_inputs(resolved, UPSTREAM, project),
        host=engine.computer_address,
        listen=listen_address(engine),
    )


def listen_address(engine: Engine) -> str:
    """Return the address to listen on: loopback, or Docker's bridge, which its machines reach."""
    if engine.computer_address != "host.docker.internal":
        return LOOPBACK
    template = "{{(index .IPAM.Config 0).Gateway}}"
    return engine.call("network", "inspect", "bridge", "--format", template).stdout.decode().strip()


def serve(inputs: Mapping[str, str], *, host: str, listen: str = LOOPBACK) -> Payload:
    """Start the mirror, as `up` does, for these inputs of stages.

    `host` is the name or address at which machines reach this computer.
    """
    root = _folder() / "mirror"
    with _locked():
        trusted = trust.establish(_folder() / "trust")
        names.refuse_unknown(inputs, _folder() / "indices")
        upstreams.write(root, trusted, upstreams.requested(inputs))
        target = wheels.target_of(inputs["OS_ID"])
        wheels.provide(root / "pypi", pip_requirements(inputs), target)
        certificate = trusted.server_certificate((host, listen))
        running = mirror.start(_state(), root, certificate, address=listen)
    base = f"https://{host}:{running.port}"
    paths = {"nvidia": "compute/cuda/repos", "pypi": "pypi/simple", "pytorch": "pypi/pytorch"}
    mirrors = {name: f"{base}/{paths.get(name, name)}" for name in UPSTREAM.mirrors}
    return Payload(
        name="stand-in",
        mirrors=mirrors,
        key_fingerprints=dict.fromkeys(UPSTREAM.mirrors, trusted.fingerprint),
        sha256=_sha256(),
        image_owner=STAND_IN_OWNER,
        venv_python=target.python,
    )


def pip_requirements(inputs: Mapping[str, str]) -> list[str]:
    """Return the lines of those inputs of stages that are requirements of pip."""
    named = (value for name, value in inputs.items() if _PIP_INPUT.fullmatch(name))
    return [line for value in named for line in value.splitlines() if line.strip()]


def down() -> None:
    """End the mirror. The files that it served are kept for the next start."""
    mirror.stop(_state())


def machine_files() -> Mapping[str, bytes]:
    """Return the files with which a stand-in machine trusts the mirror: path → content.

    The machine must run `update-ca-certificates` afterwards.
    """
    with _locked():
        trusted = trust.establish(_folder() / "trust")
    return {
        "/usr/local/share/ca-certificates/bake-stand-in.crt": trusted.ca_certificate,
        "/usr/share/keyrings/debian-archive-keyring.gpg": trusted.public_key,
        "/usr/share/keyrings/amazon-archive-keyring.gpg": trusted.public_key,
        "/usr/share/keyrings/ubuntu-archive-keyring.gpg": trusted.public_key,
    }


def _sha256() -> Mapping[str, str]:
    return {
        path.rpartition("/")[2]: hashlib.sha256(data).hexdigest()
        for path, data in upstreams.single_files().items()
    }


def _folder() -> Path:
    """The folder of keys and files, in the cache like the root file systems that trust them."""
    return files.cache() / "stand-in"


def _state() -> Path:
    return files.home() / "stand-in-mirror.json"


@contextmanager
def _locked() -> Iterator[None]:
    """Hold the lock of the cache, which several bakes may use at once."""
    _folder().mkdir(parents=True, exist_ok=True)
    with FileLock(_folder() / "lock"):
        yield
