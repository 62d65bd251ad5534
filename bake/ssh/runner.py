"""Runs a stage: detached on the machine, followed from here, whatever becomes of the connection.

The machine's side is `detached.sh`. A stage is started once; when the connection breaks it runs on,
and following goes on, over a new connection, from the byte that was reached.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import re
import shlex
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bake import threads
from bake.console.redaction import Redactor
from bake.errors import ConnectError, RemoteError, StageError
from bake.files import on_machine
from bake.ssh.command import OverdueError, RemoteCommand
from bake.ssh.connection import Connection
from bake.ssh.failure import stage_failure, start_failure
from bake.ssh.output import Output

# How long a machine may be out of reach in the middle of a stage before it is given up.
OUT_OF_REACH_S = 600.0
# The machine ends a stage at its time limit; when that fails, we do so, this much later.
_OVERTIME_S = 60.0
_STOP_S = 30.0
_FOLDER = "/run/bake"  # memory: never part of an image

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_END = re.compile(r"(timeout|lost|[0-9]{1,3}) [0-9]{1,18}")


@dataclass(frozen=True)
class _Stage:
    name: str
    folder: str
    files: tuple[bytes, bytes, bytes]  # script, lib.sh, inputs
    limit_s: int

    @property
    def identity(self) -> bytes:
        """A line that is another one for other files."""
        digests = b"".join(hashlib.sha256(file).digest() for file in self.files)
        return hashlib.sha256(digests).hexdigest().encode() + b"\n"


@dataclass(frozen=True)
class _End:
    status: str  # a number, "timeout", or "lost": the supervisor was killed
    size: int


def run_stage(
    connection: Connection,
    name: str,
    *,
    script: bytes,
    lib: bytes,
    inputs: bytes,
    log: Path,
    on_line: Callable[[str], None] | None = None,
    timeout_s: float,
    run_id: str = "adhoc",
    secrets: Iterable[str] = (),
) -> float:
    """Run a stage to its end, as root, and return its seconds.

    The machine knows it by `run_id` and `name`: where it already runs there, or has ended unread
    (its client was killed), that one is followed, from its beginning. `on_line` gets each line,
    without escape sequences; `log` gets the exact bytes. Where one of `secrets` is printed, in any
    form in which programs print, *** stands in both instead.

    `inputs` is the file that sets its variables, as `bake.plan.inputs` writes it.

    StageError: the status is not 0, the time is over, the machine was rebooted.
    ConnectError: the machine was out of reach for OUT_OF_REACH_S. Any exception on this side
    (Ctrl-C, its work called off, a full disk) ends the stage on the machine, if the connection
    stands.
    """
    began = time.monotonic()
    for part in (run_id, name):
        if not _SAFE_NAME.fullmatch(part):
            raise StageError(f"{part!r} cannot be part of a stage's name on the machine")
    stage = _Stage(
        name,
        folder=f"{_FOLDER}/{run_id}/{name}",
        files=(script, lib, inputs),
        limit_s=max(1, math.ceil(timeout_s)),
    )
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        output = Output(file, on_line, Redactor(secrets))
        try:
            end = _follow_to_the_end(connection, stage, output)
        except OverdueError:
            _stop(connection, stage)
            end = _End("timeout", output.size)
        except RemoteError:
            raise
        except BaseException:
            _stop(connection, stage)
            raise
        output.finish()
    if end.status != "0":
        raise stage_failure(
            name, end.status, last_lines=output.last_lines, log=log, limit_s=stage.limit_s
        )
    return time.monotonic() - began


def _follow_to_the_end(connection: Connection, stage: _Stage, output: Output) -> _End:
    """OverdueError when the stage runs on long after the machine should have ended it."""
    deadline = time.monotonic() + stage.limit_s + _OVERTIME_S
    reached_at, pause_s = time.monotonic(), 0.1
    started = False
    while True:
        reason = "it does not hand over the stage's output"
        follower: _Follower | None = None
        try:
            connection.reconnect(timeout_s=max(0.0, reached_at + OUT_OF_REACH_S - time.monotonic()))
            follower = _Follower(stage, connection.boot_id(), output, started=started)
            end = follower.follow(connection, deadline)
            if end is not None:
                return end
        except ConnectError as error:
            reason = error.message
        if follower is not None and follower.reached:
            started = True
            reached_at, pause_s = time.monotonic(), 0.1
        if time.monotonic() - reached_at > OUT_OF_REACH_S:
            raise ConnectError(
                f"the machine was out of reach for {OUT_OF_REACH_S:.0f} s during stage "
                f"{stage.name}: {reason}",
                hint="It may have been ended, or interrupted by the market; its stage may run on.",
                details=output.last_lines,
            )
        threads.pause(pause_s)
        pause_s = min(pause_s * 2, 10.0)


class _Follower:
    """One try at following a stage, over one channel."""

    def __init__(self, stage: _Stage, boot_id: str, output: Output, *, started: bool) -> None:
        self.reached = False
        self._started = started
        self._stage = stage
        self._boot_id = boot_id
        self._output = output
        self._unread = b""
        self._end: _End | None = None
        self._verdict = ""
        self._complaints: list[str] = []

    def follow(self, connection: Connection, deadline: float) -> _End | None:
        """The stage's end; None or ConnectError when the following ended first; StageError."""
        stage, output = self._stage, self._output
        if self._started:
            stdin = b""
            command = _remote(connection, "attach", stage.folder, self._boot_id, output.size)
        else:
            # Said again when no answer came: over there, only the first one starts anything.
            stdin = b"".join((stage.identity, *stage.files, stage.identity))
            sizes = map(len, stage.files)
            command = _remote(
                connection, "start", stage.folder, self._boot_id, output.size, stage.limit_s, *sizes
            )
        try:
            with connection.start(command, stdin, hold_stdin=True) as running:
                try:
                    for stdout, stderr in running.chunks(deadline=deadline):
                        output.write(stdout)
                        self._listen(stderr)
                        if self._complete:
                            running.write(b"read\n")
                except BaseException:
                    self._let_it_start(running)
                    raise
                status = running.exit_status(deadline=deadline)
        except ConnectError:
            status = -1
            if not self._complete:
                raise
        if self._complete:
            return self._end
        self._give_up_if_hopeless(status)
        return None

    @property
    def _complete(self) -> bool:
        return self._end is not None and self._end.size <= self._output.size

    def _listen(self, stderr: bytes) -> None:
        *lines, self._unread = (self._unread + stderr).split(b"\n")
        for line in lines:
            match line.decode(errors="replace").split():
                case ["bake:", "running"]:
                    self.reached = True
                case ["bake:", "ended", status, size] if _END.fullmatch(f"{status} {size}"):
                    self._end = _End(status, int(size))
                case ["bake:", verdict]:
                    self._verdict = verdict
                case words:
                    self._complaints.append(" ".join(words))

    def _let_it_start(self, running: RemoteCommand) -> None:
        """What is still being started could not be stopped: it would run on, with nobody there."""
        if not (self._started or self.reached):
            with threads.held_back(), contextlib.suppress(OverdueError):
                for _, stderr in running.chunks(deadline=time.monotonic() + _STOP_S):
                    self._listen(stderr)
                    if self.reached:
                        return

    def _give_up_if_hopeless(self, status: int) -> None:
        name = self._stage.name
        match self._verdict:
            case "rebooted":
                raise StageError(f"the machine was rebooted before stage {name} had ended")
            case "gone":
                raise StageError(
                    f"stage {name} has left no trace on the machine",
                    hint="The machine was started anew, or somebody emptied its /run/bake.",
                )
            case "another":
                raise StageError(
                    f"another stage {name} of the same run is on the machine: "
                    "its script or its inputs are not these",
                    hint="Its script was changed since; end that run first.",
                )
        if status > 0 and not (self._started or self.reached):
            raise start_failure(name, status, self._complaints)


def _stop(connection: Connection, stage: _Stage) -> None:
    """End the stage's processes; silent, because an error or a Ctrl-C is already on its way."""
    if connection.alive:
        with threads.held_back(), contextlib.suppress(RemoteError):
            connection.run(_remote(connection, "stop", stage.folder), timeout_s=_STOP_S)


def _remote(connection: Connection, *arguments: object) -> str:
    sudo = [] if connection.user == "root" else ["sudo", "-n"]
    return shlex.join(
        [*sudo, "bash", "--norc", "-c", _machine_side(), "bake", *map(str, arguments)]
    )


@cache
def _machine_side() -> str:
    return (on_machine("bake.ssh") / "detached.sh").read_text()
