"""A check, the two ways in which one ends early, and how one asks the machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bake.errors import ConnectError, RemoteError
from bake.verify.diagnosis import Diagnosis
from bake.verify.shell import Answer, Shell

Outcome = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. `detail` says what was found, or why nothing was."""

    name: str
    outcome: Outcome
    detail: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}"


class Failed(Exception):
    """Ends a check: everything that is wrong, at once."""

    def __init__(self, *diagnoses: Diagnosis) -> None:
        super().__init__(" · ".join(map(str, diagnoses)))
        self.diagnoses = diagnoses


class Skipped(Exception):
    """Ends a check that has nothing to look at; the text says why."""


def ask(shell: Shell, command: str, *, stdin: bytes | None = None, timeout_s: float) -> Answer:
    """Run it, whatever its status; Failed when it hangs. A broken connection is no verdict."""
    try:
        return shell.run(command, check=False, stdin=stdin, timeout_s=timeout_s)
    except ConnectError:
        raise
    except RemoteError as error:
        raise Failed(
            Diagnosis(
                f"no answer within {timeout_s:g} s",
                f"{command.split()[0]} hangs, or the machine is overloaded",
                "`sudo dmesg` on the machine; a GPU that hangs blocks every program that asks it.",
            )
        ) from error
