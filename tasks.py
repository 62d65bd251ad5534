"""The commands in a checkout: `invoke --list` shows them, `invoke COMMAND --help` explains one."""

from __future__ import annotations

from bake.cli.program import commands

namespace = commands()
