"""Whether the machine of a bake is being lost, while the bake works on it.

A connection that breaks may come back; that an instance stops or ends is AWS's word, and is asked
for as soon as the connection is broken. A spot machine hears of it two minutes before, as a rule.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from typing import Any, NoReturn, TypeVar

from bake import threads
from bake.aws.client.session import Cloud
from bake.aws.machine import GONE, Machine, loss
from bake.console.console import Console
from bake.errors import BakeError, ConnectError, LostError, RemoteError
from bake.ssh.connection import Connection
from bake.ssh.spot import Notice, wait_for_notice
from bake.threads import TaskGroup

T = TypeVar("T")

# What a last checkpoint takes: EC2's 15 s since the one before, and the disk that is flushed.
SAVE_S = 30.0
# From the end of the connection to a machine that powers itself off, until EC2 says so.
_SETTLES_S = 30.0
_LOOK_S = 0.5
_LONGEST_PAUSE_S = 10.0


class Watch:
    """Of one machine. `noticed`: it was said that it ends soon, so that nothing is to be begun.

    `reserve_s` is how long before that end the work is called off; math.inf: at once.
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
        """What `work` gives, in a thread. LostError as soon as the machine is lost: by then the
        work was called off.

        `listening`: for the spot market's notice too, by a program on the machine.
        """
        if self.noticed:
            raise self.noticed
        with TaskGroup[str, Any]() as group:
            group.start("work", work)
            group.start("look", self._look)
            if listening and self._machine.market == "spot":
                group.start("listen", self._listen)
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
        """LostError where it is the machine that is at fault: what ends, fails in many ways."""
        if isinstance(error, LostError):
            return
        settled_at = time.monotonic() + (_SETTLES_S if isinstance(error, ConnectError) else 0)
        while True:
            if lost := loss(self._cloud, self._machine, states):
                lost.details = (error.message, *error.details)
                raise lost from error
            if time.monotonic() >= settled_at:
                return
            threads.pause(_LOOK_S * 2)

    def _look(self) -> NoReturn:
        pause_s = _LOOK_S
        while True:
            threads.pause(pause_s)
            if self._connection.alive:
                pause_s = _LOOK_S
            elif lost := loss(self._cloud, self._machine):
                raise lost
            else:
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    def _listen(self) -> None:
        notice = self._wait_for_notice()
        if notice is None:
            return
        ends_at = time.monotonic() + notice.left_s
        which = self._machine.instance_id
        self.noticed = LostError(
            f"{which} ({self._machine.instance_type} in {self._machine.zone}, spot) is lost: "
            f"interrupted by the spot market, to {notice.action} at {notice.time}",
            hint="Run the same command again: it goes on from the last checkpoint. --no-spot takes "
            "a machine that stays",
        )
        self._console.warn(
            f"The spot market takes {which} away: {notice.action} at {notice.time}, "
            f"in {max(notice.left_s, 0):.0f} s"
        )
        while time.monotonic() < ends_at - self.reserve_s:
            threads.pause(_LOOK_S)
        raise self.noticed

    def _wait_for_notice(self) -> Notice | None:
        """None where this machine cannot listen: then its end is what tells."""
        while True:
            try:
                return wait_for_notice(self._connection)
            except ConnectError:
                threads.pause(_LOOK_S)
            except RemoteError as error:
                self._console.warn(f"{error.message}: {' '.join(error.details[-1:])}")
                return None
