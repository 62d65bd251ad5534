"""The facts as TOML tables, each with its certainty (`sure`) and its `source`.

`sure` is "verified" (executed, or read from the artefact itself), "found" (in the public source
that is named), "inferred" (from such facts) or "memory" (not checked).

A project's own facts are in files of the same names and format. Each key or table is added, or
takes the place of the built-in one; a list of tables is put in front of the built-in one.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeGuard

from bake.catalog.versions import nearest
from bake.errors import Finding, RecipeError
from bake.files import read_source

SUFFIX = ".toml"
_own: Path | None = None


def use(folder: Path | None) -> None:
    """Add the facts in this folder to the built-in ones from now on. None: only the latter."""
    global _own
    _own = folder if folder and folder.is_dir() else None


def own_folder() -> Path | None:
    """Return the folder of the project's own facts, if it has any."""
    return _own


def own_path(name: str) -> Path | None:
    """Return the project's file of facts of this name, if it has one."""
    path = _own / f"{name}{SUFFIX}" if _own else None
    return path if path and path.exists() else None


def read(name: str) -> dict[str, Any]:
    """Return the tables of one file of facts, such as "cuda", with the project's own.

    RecipeError if the project's file cannot be read.
    """
    path = resources.files(__name__).joinpath(f"{name}{SUFFIX}")
    tables = tomllib.loads(path.read_text("utf-8"))
    own = own_path(name)
    try:
        return _merged(tables, _read_own(own)) if own else tables
    except TypeError as error:
        raise RecipeError(f"The facts {own} cannot be used: {error}") from error


def check_names() -> None:
    """Raise RecipeError for each file of the project's own facts that no file of facts has."""
    files = (path.name for path in resources.files(__name__).iterdir())
    known = sorted(name for name in files if name.endswith(SUFFIX))
    findings = [
        Finding(path.name, "unknown file of facts", nearest(path.name, known))
        for path in (sorted(_own.glob(f"*{SUFFIX}")) if _own else [])
        if path.name not in known
    ]
    if findings:
        raise RecipeError(f"The facts in {_own} cannot be used", findings=findings)


def _read_own(path: Path) -> dict[str, Any]:
    try:
        text = read_source(path).decode("utf-8-sig")  # some editors write a byte-order mark
        return tomllib.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise RecipeError(f"The facts {path} cannot be read: {error}") from error


def _merged(tables: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Join two tables. TypeError if a key is a table in one of them only."""
    merged = dict(tables)
    for key, value in own.items():
        before = merged.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            merged[key] = _merged(before, value)
        elif _is_list_of_tables(value) and _is_list_of_tables(before):
            merged[key] = [*value, *before]
        elif before is not None and isinstance(value, dict) != isinstance(before, dict):
            raise TypeError(f"{key} must {'' if isinstance(before, dict) else 'not '}be a table")
        else:
            merged[key] = value
    return merged


def _is_list_of_tables(value: Any) -> TypeGuard[list[dict[str, Any]]]:
    return isinstance(value, list) and bool(value) and all(isinstance(each, dict) for each in value)
