"""The command that prints a shell's completion script."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bake.cli.command import command
from bake.cli.environment import at_most_one
from bake.cli.options import CommonOptions
from bake.console.program import BAKE, INVOKE, program_name

if TYPE_CHECKING:
    from bake.console.console import Console

SHELLS = ("bash", "zsh", "fish")


@command(
    positional=["shell"],
    help={"shell": "bash, zsh or fish"},
    arguments="SHELL",
    examples=["invoke completion bash", "invoke completion fish"],
)
def completion(console: Console, common: CommonOptions, shell: tuple[str, ...] = ()) -> None:
    """Print the script with which a shell completes commands, options and your names."""
    from importlib import resources

    from bake.errors import RequestError

    name = at_most_one(shell, "shell")
    if name not in SHELLS:
        raise RequestError(
            f"No completion for the shell {name}" if name else "No shell was named",
            hint=f"invoke completion SHELL; SHELL is one of {', '.join(SHELLS)}",
        )
    folder = resources.files("bake.cli.completion") / "shells"
    console.output(_named((folder / f"completion.{name}").read_text()))


def _named(script: str) -> str:
    """Return a script that completes the program that was typed: `invoke`, also as `inv`, or bake.

    Names of functions are changed, too, so that a shell can have both.
    """
    if program_name() != BAKE:
        return script
    alone = script.replace(", also for other projects that use Invoke", "")
    return re.sub(r"\binvoke( --command)? inv\b", BAKE, alone).replace(INVOKE, BAKE)
