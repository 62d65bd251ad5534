"""Root file systems of Debian with more packages than those of the local cloud's machines."""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bake.local.machines import os_images
from bake.local.machines.engine import Engine


def debian_layer(engine: Engine, name: str, packages: Sequence[str], hook: str = "") -> str:
    """Return the layer with the root file system. It is made again only if its contents change.

    `hook` is a shell program that changes the root, whose path is its first argument.
    """
    digest = hashlib.sha256(repr((os_images.SUITE, packages, hook)).encode()).hexdigest()
    layer = f"localhost/bake-test/{name}:{digest[:12]}"
    with os_images._one_at_a_time():
        if not engine.has_image(layer):
            with tempfile.TemporaryDirectory() as folder:
                archive = Path(folder, "root.tar")
                command = ["mmdebstrap", "--quiet", "--variant=minbase"]
                command += [f"--include={','.join(packages)}"]
                command += [f"--customize-hook={hook}"] if hook else []
                command += [os_images.SUITE, str(archive), os_images.MIRROR]
                subprocess.run(command, check=True, capture_output=True)
                engine.import_root(archive, layer, label=os_images.ROOT_LABEL)
            os_images._forget_others(engine, layer)
    return layer
