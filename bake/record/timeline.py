"""The timeline of a bake: when each step began and ended, and on which machine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict

from bake.threads import Cancelled

Kind = Literal["start", "stage", "reboot", "checkpoint", "proof", "inventory", "clean", "image"]
Ended = Literal["done", "failed", "stopped"]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StepRecord(_Table):
    """A step that has ended.

    `machine` is the number of the machine in this bake, from 1. Stages have a `wave`: a new wave
    begins when a stage starts while no other runs. `detail` is the result, such as the id of a
    checkpoint. The outcome "stopped" means that the step was cancelled.
    """

    kind: Kind
    name: str
    machine: int
    wave: int | None = None
    began_at: AwareDatetime
    ended_at: AwareDatetime
    outcome: Ended = "done"
    detail: str = ""

    @property
    def seconds(self) -> float:
        """The duration of the step."""
        return (self.ended_at - self.began_at).total_seconds()


class MachineRecord(_Table):
    """A machine of a bake.

    `checkpoint` is the checkpoint that it was started from, or None for the base image.
    `usd_per_hour` is its price when it was started, or None if AWS did not report one. `ended_at`
    is None if the machine still existed when this was written.
    """

    instance_id: str
    instance_type: str
    zone: str
    market: str
    checkpoint: str | None = None
    usd_per_hour: float | None = None
    began_at: AwareDatetime
    ended_at: AwareDatetime | None = None


class Timeline:
    """The steps and machines of one bake, timed by the clock `now`. Threads may share it."""

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._steps: list[StepRecord] = []
        self._machines: list[MachineRecord] = []
        self._attempt = 0
        self._wave = 0
        self._running = 0  # how many stages run now

    @property
    def steps(self) -> tuple[StepRecord, ...]:
        """The steps that have ended, in the order in which they began."""
        with self._lock:
            return tuple(sorted(self._steps, key=lambda step: step.began_at))

    @property
    def machines(self) -> tuple[MachineRecord, ...]:
        """The machines, in the order in which they were started."""
        with self._lock:
            return tuple(self._machines)

    @contextmanager
    def step(self, kind: Kind, name: str) -> Iterator[Callable[[str], None]]:
        """Record the step in the block, however it ends. Yields a function that sets its detail."""
        details: list[str] = []
        with self._lock:
            self._attempt += kind == "start"
            if kind == "stage":
                self._wave += self._running == 0
                self._running += 1
            machine, wave = self._attempt, self._wave if kind == "stage" else None
        began_at = self._now()
        outcome: Ended = "failed"
        try:
            yield details.append
            outcome = "done"
        except (Cancelled, KeyboardInterrupt):
            outcome = "stopped"
            raise
        finally:
            step = StepRecord(
                kind=kind,
                name=name,
                machine=machine,
                wave=wave,
                began_at=began_at,
                ended_at=self._now(),
                outcome=outcome,
                detail=" ".join(details),
            )
            with self._lock:
                self._running -= kind == "stage"
                self._steps.append(step)

    def machine_began(
        self,
        *,
        instance_id: str,
        instance_type: str,
        zone: str,
        market: str,
        checkpoint: str | None,
        usd_per_hour: float | None,
    ) -> None:
        """Record that a machine was started now."""
        machine = MachineRecord(
            instance_id=instance_id,
            instance_type=instance_type,
            zone=zone,
            market=market,
            checkpoint=checkpoint,
            usd_per_hour=usd_per_hour,
            began_at=self._now(),
        )
        with self._lock:
            self._machines.append(machine)

    def machine_ended(self) -> None:
        """Record that the machine that was started last has ended now."""
        with self._lock:
            if self._machines and self._machines[-1].ended_at is None:
                ended = self._machines[-1].model_copy(update={"ended_at": self._now()})
                self._machines[-1] = ended
