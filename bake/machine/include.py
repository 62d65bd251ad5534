"""`ssh bake-NAME` for every program here: the line in ~/.ssh/config that makes it so."""

from __future__ import annotations

import re
from pathlib import Path

from bake.files import write_whole
from bake.machine.ssh_config import folder, quoted


def include_line() -> str:
    """What has to stand before the first Host of ~/.ssh/config, where it would be that one's."""
    # Its names are patterns, and have no %: quoted for the one, and not for the other.
    path = re.sub(r"([*?\[\]\\])", r"\\\1", str(folder()))
    return f"Include {quoted(Path(path, '*.conf')).replace('%%', '%')}"


def is_included() -> bool:
    config = _config()
    return config.is_file() and include_line() in config.read_text().splitlines()


def include() -> Path:
    """Write it there, at the top; nothing else is changed, and a second time nothing at all."""
    config = _config()
    if not is_included():
        config.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        text = config.read_text() if config.exists() else ""
        write_whole(config, f"{include_line()}\n{text}")
    return config


def _config() -> Path:
    """The file itself, where a link leads to it."""
    return (Path.home() / ".ssh" / "config").resolve()
