"""Where a command works: its console, its cloud, the folder of recipes and scripts.

This is the only place that starts the local cloud; from there on it is a cloud like any other.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bake.aws.client.session import Cloud
    from bake.console.console import Console

# Recipes and scripts lie beside the tasks.py that invoke has loaded.
ROOT = Path(str(sys.modules["tasks"].__file__)).parent
MANIFESTS = ROOT / "manifests"
SCRIPTS = ROOT / "scripts"


def new_console(json: bool = False, quiet: bool = False, verbose: bool = False) -> Console:
    from bake.console.console import Console

    return Console(json=json, quiet=quiet, verbose=verbose)


def open_cloud(console: Console, *, local: bool, region: str | None) -> Cloud:
    """AWS; or the local cloud, which is started when it does not run."""
    from bake.aws.client.session import connect

    if local:
        from bake.local import control

        endpoint = control.status()
        if endpoint is None:
            with console.step("Local cloud") as step:
                endpoint = control.up()
                step.done(endpoint.url)
            if endpoint.note:
                console.warn(endpoint.note)
        os.environ.update(control.environment(endpoint))
    return connect(region)


def invoke_word() -> str:
    """What a person types for `invoke` here: the virtual environment may not be activated."""
    import shutil

    found, running = shutil.which("invoke"), Path(sys.argv[0])
    if found and running.exists() and Path(found).samefile(running):
        return "invoke"
    return os.path.relpath(running)


def ssh_port() -> int:
    return int(os.environ.get("BAKE_SSH_PORT") or 22)


def where(local: bool, region: str | None) -> str:
    """The options of a command that is shown, which say of which cloud it is."""
    return (" --local" if local else "") + (f" --region {region}" if region else "")


def only(words: tuple[str, ...] | None, what: str) -> str | None:
    """The one that was given, if any; RequestError for several."""
    from bake.errors import RequestError

    if words and len(words) > 1:
        raise RequestError(f"One {what} at a time: {' '.join(words)}", hint=f"Name one {what}")
    return words[0] if words else None
