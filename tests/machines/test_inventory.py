"""The inventory is read over a connection whose other sessions are nearly all in use."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import pydantic

from bake.ssh import keys
from bake.verify import read_inventory
from tests.support.sshd import sshd


def test_the_inventory_needs_one_session_beside_nine_others(tmp_path: Path) -> None:
    """sshd allows ten sessions on a connection: "MaxSessions", sshd_config(5)."""
    with sshd(tmp_path, keys.generate()) as machine, machine.connect() as ssh, ExitStack() as held:
        for _ in range(9):
            held.enter_context(ssh._open_channel("session"))
        found = read_inventory(ssh, sys.prefix)
    assert found.pip["pydantic"] == pydantic.VERSION
    assert found.dpkg["bash"]
