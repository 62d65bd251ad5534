"""Run a stage detached on the machine, and follow its output even when the connection breaks.

`detached.sh` is the program that runs on the machine. A stage is started once. When the connection
breaks, the stage keeps running, and its output is read from the last byte over a new connection.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bake import files, threads
from bake.console.redaction import Redactor
from bake.errors import ConnectError, RemoteError, StageError
from bake.ssh.boot_id import with_boot_id
from bake.ssh.command import OverdueError, RemoteCommand
from bake.ssh.connection import Connection
from bake.ssh.failure import stage_failure, start_failure
from bake.ssh.output import Output

# The time for which the machine may be unreachable during a stage before bake gives up the stage.
OUT_OF_REACH_S = 600.0
# The machine ends a stage at its time limit. If that fails, this side ends it this much later.
_OVERTIME_S = 60.0
_STOP_S = 30.0
_FOLDER = "/run/bake"  # in memory: never part of an image

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_END = re.compile(r"(timeout|lost|[0-9]{1,3}) [0-9]{1,18}")


@dataclass(frozen=True)
class _Stage:
    name: str
    folder: str
    parts: tuple[bytes, bytes, bytes, bytes]  # script, lib.sh, inputs, archive of files
    limit_s: int

    @property
    def identity(self) -> bytes:
        """A line that differs when the script, lib.sh, the inputs or the files differ."""
        digests = b"".join(hashlib.sha256(part).digest() for part in self.parts)
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
    archive: bytes = b"",
    log: Path,
    on_line: Callable[[str], None] | None = None,
    timeout_s: float,
    run_id: str = "adhoc",
    secrets: Iterable[str] = (),
) -> float:
    """Run a stage as root until it ends, and return its duration in seconds.

    The machine identifies a stage by `run_id` and `name`. If that stage already runs on it, or has
    ended and its output was not read (its client was killed), its output is read from the
    beginning and nothing is started. `on_line` gets each line without escape sequences; `log` gets
    the exact bytes. In both, *** replaces each of `secrets`, in any form that programs print.

    `inputs` is the file that sets the stage's variables, as `bake.plan.inputs` writes it. `archive`
    is a tar archive of the files that the stage finds in the folder $BAKE_FILES, or empty.

    Raises StageError when the exit status is not 0, `timeout_s` is over or the machine was
    rebooted; ConnectError when the machine was unreachable for OUT_OF_REACH_S. Any other exception
    on this side (Ctrl-C, work that is called off, a full disk) ends the stage on the machine if
    the connection is not broken.
    """
    began = time.monotonic()
    stage = _identify(run_id, name, (script, lib, inputs, archive), timeout_s)
    files.make_folder(log.parent)
    with files.writing(log), log.open("wb") as file:
        output = Output(file, on_line, Redactor(secrets))
        end = _run_to_the_end(connection, stage, output)
        output.finish()
    if end.status != "0":
        raise stage_failure(
            name, end.status, last_lines=output.last_lines, log=log, limit_s=stage.limit_s
        )
    return time.monotonic() - began


def _identify(
    run_id: str, name: str, parts: tuple[bytes, bytes, bytes, bytes], timeout_s: float
) -> _Stage:
    """Return a stage of a run. Raises StageError for a name that is unsafe in a path."""
    for part in (run_id, name):
        if not _SAFE_NAME.fullmatch(part):
            raise StageError(f"{part!r} cannot be part of a stage's name on the machine")
    return _Stage(name, f"{_FOLDER}/{run_id}/{name}", parts, limit_s=max(1, math.ceil(timeout_s)))


def _run_to_the_end(connection: Connection, stage: _Stage, output: Output) -> _End:
    """Run the stage and return how it ended; any exception on this side ends it, too."""
    try:
        return _follow_to_the_end(connection, stage, output)
    except OverdueError:
        _stop(connection, stage)
        return _End("timeout", output.size)
    except RemoteError:
        raise
    except BaseException:
        _stop(connection, stage)
        raise


def _follow_to_the_end(connection: Connection, stage: _Stage, output: Output) -> _End:
    """Start and follow the stage, over new connections if needed, and return how it ended.

    Raises OverdueError when the stage still runs long after the machine should have ended it.
    """
    deadline = math.inf
    reached_at, pause_s = time.monotonic(), 0.1
    started = False
    while True:
        reason = "it does not send the stage's output"
        follower: _Follower | None = None
        try:
            connection.reconnect(timeout_s=max(0.0, reached_at + OUT_OF_REACH_S - time.monotonic()))
            boot_id = connection.boot_id()
            follower = _Follower(stage, boot_id, output, started=started, deadline=deadline)
            end = follower.follow(connection)
            if end is not None:
                return end
        except ConnectError as error:
            reason = error.message
        if follower is not None:
            deadline = follower.deadline
            if follower.reached:
                started = True
                reached_at, pause_s = time.monotonic(), 0.1
        if time.monotonic() - reached_at > OUT_OF_REACH_S:
            raise ConnectError(
                f"the machine was out of reach for {OUT_OF_REACH_S:.0f} s during stage "
                f"{stage.name}: {reason}",
                hint="It may have been terminated, or interrupted by the spot market; otherwise "
                "its stage may still be running.",
                details=output.last_lines,
            )
        threads.pause(pause_s)
        pause_s = min(pause_s * 2, 10.0)


class _Follower:
    """One attempt to follow a stage, over one session.

    `reached` is True once the machine has confirmed that the stage is running or has ended.
    `deadline` (of time.monotonic) is set when the stage is started: the wait for a free session
    is not a part of its time.
    """

    def __init__(
        self, stage: _Stage, boot_id: str, output: Output, *, started: bool, deadline: float
    ) -> None:
        self.reached = False
        self.deadline = deadline
        self._started = started
        self._stage = stage
        self._boot_id = boot_id
        self._output = output
        self._unread = b""
        self._end: _End | None = None
        self._verdict = ""
        self._errors: list[str] = []

    def follow(self, connection: Connection) -> _End | None:
        """Return the end of the stage; None if another attempt to follow it is necessary.

        Raises ConnectError when the connection broke, StageError when the stage cannot be followed.
        """
        stage, output = self._stage, self._output
        if self._started:
            stdin = b""
            command = _command_line(connection, "attach", stage.folder, self._boot_id, output.size)
        else:
            # Sent again when no confirmation came: the machine starts the stage only once.
            stdin = b"".join((stage.identity, *stage.parts, stage.identity))
            sizes = map(len, stage.parts)
            command = _command_line(
                connection, "start", stage.folder, self._boot_id, output.size, stage.limit_s, *sizes
            )
        try:
            with connection.start(command, stdin, hold_stdin=True) as running:
                self.deadline = min(self.deadline, time.monotonic() + stage.limit_s + _OVERTIME_S)
                try:
                    for stdout, stderr in running.chunks(deadline=self.deadline):
                        output.write(stdout)
                        self._parse(stderr)
                        if self._complete:
                            running.write(b"read\n")
                except BaseException:
                    self._let_it_start(running)
                    raise
                status = running.exit_status(deadline=self.deadline)
        except ConnectError:
            status = -1
            if not self._complete:
                raise
        if self._complete:
            return self._end
        self._raise_if_hopeless(status)
        return None

    @property
    def _complete(self) -> bool:
        return self._end is not None and self._end.size <= self._output.size

    def _parse(self, stderr: bytes) -> None:
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
                    self._errors.append(" ".join(words))

    def _let_it_start(self, running: RemoteCommand) -> None:
        """Wait until a stage that is being started runs: only then can it be stopped."""
        if not (self._started or self.reached):
            with threads.held_back(), contextlib.suppress(OverdueError):
                for _, stderr in running.chunks(deadline=time.monotonic() + _STOP_S):
                    self._parse(stderr)
                    if self.reached:
                        return

    def _raise_if_hopeless(self, status: int) -> None:
        """Raise StageError when another attempt to follow the stage cannot succeed."""
        name = self._stage.name
        match self._verdict:
            case "rebooted":
                raise StageError(f"the machine was rebooted before stage {name} had ended")
            case "gone":
                raise StageError(
                    f"no trace of stage {name} was found on the machine",
                    hint="The machine was restarted, or its folder /run/bake was emptied.",
                )
            case "another":
                raise StageError(
                    f"another stage {name} of the same run is on the machine: "
                    "its script or its inputs differ",
                    hint="Its script was changed since it was started; end that run first.",
                )
        if status > 0 and not (self._started or self.reached):
            raise start_failure(name, status, self._errors)


def _stop(connection: Connection, stage: _Stage) -> None:
    """End the stage's processes. Raises nothing: an error or a Ctrl-C is already being raised."""
    if connection.alive:
        with threads.held_back(), contextlib.suppress(RemoteError):
            connection.run(_command_line(connection, "stop", stage.folder), timeout_s=_STOP_S)


def _command_line(connection: Connection, *arguments: object) -> str:
    return connection.as_root("bash", "--norc", "-c", _program(), "bake", *map(str, arguments))


@cache
def _program() -> str:
    return with_boot_id((files.on_machine("bake.ssh") / "detached.sh").read_text())
