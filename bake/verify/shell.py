"""What the checks need of a machine: somebody who runs a command on it as the login user."""

from __future__ import annotations

from functools import cache
from typing import Protocol

from bake.files import on_machine


class Answer(Protocol):
    """What a command said, and the status that it ended with."""

    @property
    def stdout(self) -> str: ...
    @property
    def stderr(self) -> str: ...
    @property
    def exit_status(self) -> int: ...


class Shell(Protocol):
    """`bake.ssh`'s connection, or anything like it.

    `check` raises RemoteError for a status other than 0, and so does time running out; a
    connection that breaks raises ConnectError, which is no verdict about the machine.
    """

    def run(
        self,
        command: str,
        *,
        check: bool = True,
        stdin: bytes | str | None = None,
        timeout_s: float | None = None,
    ) -> Answer: ...


@cache
def script(name: str) -> bytes:
    """A program of `on_machine/`, which is sent over stdin: no file of it is left behind."""
    return (on_machine("bake.verify") / name).read_bytes()
