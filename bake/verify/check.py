"""One check of a machine: its way to run a command there, and its result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from bake.errors import ConnectError, RemoteError
from bake.verify.known import Diagnosis

Outcome = Literal["passed", "failed", "skipped"]


class CommandOutput(Protocol):
    """The output of a command, and its exit status."""

    @property
    def stdout(self) -> str: ...
    @property
    def stderr(self) -> str: ...
    @property
    def exit_status(self) -> int: ...


class Shell(Protocol):
    """Runs commands on the machine as the login user: a connection of `bake.ssh`, for example.

    `run` raises RemoteError if the time is over, or, with `check`, if the exit status is not 0. It
    raises ConnectError if the connection breaks, which proves nothing about the machine.
    """

    def run(
        self,
        command: str,
        *,
        check: bool = True,
        stdin: bytes | str | None = None,
        timeout_s: float | None = None,
    ) -> CommandOutput: ...


class RootShell(Shell, Protocol):
    """A shell whose login user may become root."""

    def as_root(self, *command: str) -> str:
        """Return a line of shell that runs `command` as root."""
        ...


@dataclass(frozen=True)
class Check:
    """The result of one check. `detail` is the finding, or the reason why the check was skipped."""

    name: str
    outcome: Outcome
    detail: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.name}: {self.detail}"


class Failed(Exception):
    """The exception that ends a check which found faults. It carries all of them."""

    def __init__(self, *diagnoses: Diagnosis) -> None:
        super().__init__(" · ".join(map(str, diagnoses)))
        self.diagnoses = diagnoses


class NotPromised(Exception):
    """The exception that ends a check of a part that the recipe does not have: it is left out."""


class Skipped(Exception):
    """The exception that ends a check which does not apply to this machine, with the reason."""


def run_command(
    shell: Shell, command: str, *, stdin: bytes | None = None, timeout_s: float
) -> CommandOutput:
    """Run a command and return its output, even if its exit status is not 0.

    Failed if it takes longer than `timeout_s`; ConnectError if the connection breaks.
    """
    try:
        return shell.run(command, check=False, stdin=stdin, timeout_s=timeout_s)
    except ConnectError:
        raise
    except RemoteError as error:
        program = command.removeprefix("sudo -n ").split()[0]
        raise Failed(
            Diagnosis(
                f"{program} did not finish within {timeout_s:g} s",
                "it hangs, or the machine is overloaded",
                "Read `sudo dmesg` on the machine: a GPU that hangs blocks every program that "
                "queries it.",
            )
        ) from error
