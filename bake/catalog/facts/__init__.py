"""Facts as data: TOML tables, each with how sure it is and where it is from.

`sure` is "verified" (executed, or read from the artefact itself), "found" (in a public source,
named), "inferred" (from facts that are one of those) or "memory" (not checked again).
"""

from __future__ import annotations

import tomllib
from importlib import resources
from typing import Any


def read(name: str) -> dict[str, Any]:
    return tomllib.loads(resources.files(__name__).joinpath(f"{name}.toml").read_text("utf-8"))
