"""Watch the machine of a bake while it works, and stop the work when the machine is lost.

A broken connection may recover, or the machine may be lost. So the instance's state is read from
AWS as soon as the connection breaks. A spot machine usually gets a notice two minutes before its
interruption.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from typing import Any, NoReturn, TypeVar

from bake import threads
from bake.aws.client.session import Cloud
from bake.aws.machine import GONE, Machine, lost_error
from bake.console.console import Console
from bake.errors import BakeError, ConnectError, LostError, RemoteError
from bake.machine.access import restore_access, say_once
from bake.ssh.connection import Connection
from bake.ssh.spot import Notice, wait_for_notice
from bake.threads import TaskGroup

T = TypeVar("T")

# The time for a last checkpoint: EC2's 15 s between two snapshots, and flushing the disk.
SAVE_S = 30.0
# The time from the end of the connection to a machine that powers off until EC2 reports it.
_SETTLES_S = 30.0
_LOOK_S = 0.5
_LONGEST_PAUSE_S = 10.0


class Watch:
    """The watch over one machine.

    `noticed` is the error of an announced interruption; from then on nothing new may begin.
    `reserve_s` is the time before the interruption at which the work is called off; math.inf means
    at once.
    """

    def __init__(
        self, cloud: Cloud, machine: Machine, connection: Connection, console: Console
    ) -> None:
        self.noticed: LostError | None = None
        self.reserve_s = math.inf
        self._cloud = cloud
        self._machine = machine
        self._connection = connection
        self._console = console

    def run_while_alive(self, work: Callable[[], T], *, listening: bool = False) -> T:
        """Run `work` in a thread and return its result.

        Raises LostError as soon as the machine is lost; the work has then been called off.
        If `listening` is True, a program on the machine also waits for a spot notice.
        """
        if self.noticed:
            raise self.noticed
        with TaskGroup[str, Any]() as group:
            group.start("work", work)
            group.start("look", self._watch_connection)
            if listening and self._machine.market == "spot":
                group.start("listen", self._watch_spot_notice)
            try:
                done: dict[str, T] = {}
                while "work" not in done:
                    done.update([group.next()])
            except BakeError as error:
                self.raise_if_lost(error)
                raise
            group.call_off()
            return done["work"]

    def raise_if_lost(self, error: BakeError, states: Collection[str] = GONE) -> None:
        """Raise LostError if the machine is lost, because that can cause any other error."""
        if isinstance(error, LostError):
            return
        settled_at = time.monotonic() + (_SETTLES_S if isinstance(error, ConnectError) else 0)
        while True:
            if lost := lost_error(self._cloud, self._machine, states):
                lost.details = (error.message, *error.details)
                raise lost from error
            if time.monotonic() >= settled_at:
                return
            threads.pause(_LOOK_S * 2)

    def _watch_connection(self) -> NoReturn:
        """Raise LostError if the machine is lost. AWS is called only for a broken connection.

        If it is not lost, this computer may have a new address, which has to be allowed.
        """
        pause_s, say = _LOOK_S, say_once(self._console.warn)
        while True:
            threads.pause(pause_s)
            if self._connection.alive:
                pause_s = _LOOK_S
            elif lost := lost_error(self._cloud, self._machine):
                raise lost
            else:
                port = self._connection.port
                restore_access(self._cloud, self._machine, port=port, say=say)
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    def _watch_spot_notice(self) -> None:
        """Wait for a spot notice, and raise LostError shortly before the interruption."""
        notice = self._wait_for_notice()
        if notice is None:
            return
        ends_at = time.monotonic() + notice.left_s
        which = self._machine.instance_id
        self.noticed = LostError(
            f"{which} ({self._machine.instance_type} in {self._machine.zone}, spot) was "
            f"interrupted by the spot market: {notice.action} at {notice.time}",
            hint="Run the same command again: it continues from the last checkpoint. --no-spot "
            "uses an on-demand machine",
        )
        self._console.warn(
            f"The spot market interrupts {which}: {notice.action} at {notice.time}, "
            f"in {max(notice.left_s, 0):.0f} s"
        )
        while time.monotonic() < ends_at - self.reserve_s:
            threads.pause(_LOOK_S)
        raise self.noticed

    def _wait_for_notice(self) -> Notice | None:
        """Wait for a spot notice; None when the machine cannot read it."""
        while True:
            try:
                return wait_for_notice(self._connection)
            except ConnectError:
                threads.pause(_LOOK_S)
            except RemoteError as error:
                self._console.warn(f"{error.message}: {' '.join(error.details[-1:])}")
                return None
