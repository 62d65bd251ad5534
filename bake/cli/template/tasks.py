"""The commands for `invoke`, where bake is installed: `invoke --list` shows them."""

from __future__ import annotations

from bake.cli.program import commands

namespace = commands()
