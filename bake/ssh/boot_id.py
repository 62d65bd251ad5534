"""The id of a machine's boot, with which an unexpected reboot is recognised."""

from __future__ import annotations

from functools import cache

from bake.files import on_machine


@cache
def with_boot_id(program: str) -> str:
    """Return the program, in shell, after the definition of the function `boot_id`."""
    return (on_machine("bake.ssh") / "boot_id.sh").read_text() + program
