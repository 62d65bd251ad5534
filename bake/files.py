"""Folders and files on this computer: state, cache, records; complete writes; packaged programs."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from platformdirs.unix import Unix


def home() -> Path:
    """Return the folder of state: keys, the local cloud. `BAKE_HOME`, else XDG's state folder."""
    return Path(os.environ.get("BAKE_HOME") or _folders().user_state_dir)


def cache() -> Path:
    """Return the folder of files that can be made again: root file systems, downloaded wheels.

    `BAKE_CACHE`, else XDG's cache folder.
    """
    return Path(os.environ.get("BAKE_CACHE") or _folders().user_cache_dir)


def _folders() -> Unix:
    """Return the folders of the Linux and macOS command line: `~/.local/state/bake` and others."""
    return Unix("bake", appauthor=False)


def builds() -> Path:
    """Return the folder of records and logs: `BAKE_BUILDS`, else `builds` in the current folder."""
    return Path(os.environ.get("BAKE_BUILDS") or "builds")


def write_file(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Write a file in UTF-8, completely or not at all: a reader gets the old text or the new one.

    `mode` is the new file's, less the process's umask; by default only its owner may read it.
    """
    new = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as file:
            file.write(text)
        new.replace(path)
    except BaseException:
        new.unlink()
        raise


def on_machine(package: str) -> Traversable:
    """Return the folder of programs that `package` runs on a machine; they are package data."""
    return resources.files(package) / "on_machine"


def json_digest(document: Mapping[str, object]) -> str:
    """Return the SHA-256, in hex, of the canonical JSON: keys sorted, no blanks, ASCII."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def parse_json(text: str) -> Any:
    """Return the value of a JSON text that another program has written.

    Raises ValueError for any text that is not JSON, or that is nested too deep for Python.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
