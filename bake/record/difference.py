"""What one image has that another has not. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bake.record.inventory import Inventory


@dataclass(frozen=True)
class Change:
    """Of one package or part; "" stands for what is not there."""

    kind: str
    name: str
    before: str
    after: str


def difference(before: Inventory, after: Inventory) -> tuple[Change, ...]:
    """Parts of the system first, then packages by kind and name."""
    tables: list[tuple[str, Mapping[str, str], Mapping[str, str]]] = [
        ("system", _parts(before), _parts(after)),
        ("apt", before.dpkg, after.dpkg),
        ("conda", before.conda, after.conda),
        ("pip", before.pip, after.pip),
    ]
    return tuple(
        Change(kind, name, old.get(name, ""), new.get(name, ""))
        for kind, old, new in tables
        for name in sorted(old.keys() | new.keys())
        if old.get(name, "") != new.get(name, "")
    )


def _parts(inventory: Inventory) -> dict[str, str]:
    return {
        "OS": inventory.os,
        "kernel": inventory.kernel,
        "driver": inventory.driver,
        "CUDA": inventory.cuda,
        "Python": inventory.python,
    }
