"""Waiting until a machine has booted."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bake.machine.boot import wait_until_booted


class Booting:
    """A machine whose systemd reports these states, one after the other; empty: no systemd."""

    def __init__(self, folder: Path, *states: str) -> None:
        self.folder = folder
        (folder / "states").write_text("".join(f"{state}\n" for state in states))
        for name, body in {
            "systemctl": f"cd {folder}; head -n 1 states; sed -i 1d states; [ -s states ]",
            "sleep": f"echo pause >> {folder}/pauses",
        }.items():
            if states or name == "sleep":
                program = folder / name
                program.write_text(f"#!/bin/sh\n{body}\n")
                program.chmod(0o755)

    def run(self, command: str, **_: Any) -> None:
        tools = {name: f"/usr/bin/{name}" for name in ("head", "sed", "seq")}
        for name, place in tools.items():
            link = self.folder / name
            link.unlink(missing_ok=True)
            link.symlink_to(place)
        subprocess.run(["/bin/sh", "-c", command], check=True, env={"PATH": os.fspath(self.folder)})

    @property
    def pauses(self) -> int:
        path = self.folder / "pauses"
        return len(path.read_text().split()) if path.exists() else 0


@pytest.mark.parametrize(
    ("states", "pauses"),
    [
        (["initializing", "starting", "starting", "running"], 3),
        (["starting", "degraded"], 1),  # a service without its hardware has failed
        (["running"], 0),
        ([], 0),
        (["starting"] * 400, 300),
    ],
)
def test_a_machine_is_proved_when_its_services_have_started(
    tmp_path: Path, states: list[str], pauses: int
) -> None:
    booting: Any = Booting(tmp_path, *states)
    wait_until_booted(booting)
    assert booting.pauses == pauses
