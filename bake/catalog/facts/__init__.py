"""The facts as TOML tables, each with its certainty (`sure`) and its `source`.

`sure` is "verified" (executed, or read from the artefact itself), "found" (in the public source
that is named), "inferred" (from such facts) or "memory" (not checked).
"""

from __future__ import annotations

import tomllib
from importlib import resources
from typing import Any


def read(name: str) -> dict[str, Any]:
    """Return the tables of one file of facts, such as "cuda"."""
    return tomllib.loads(resources.files(__name__).joinpath(f"{name}.toml").read_text("utf-8"))
