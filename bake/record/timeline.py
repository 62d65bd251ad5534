"""When each step of a bake began and ended, and on which machine, while it happens."""

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
    """A step that has ended; `machine` is its place among the bake's machines, from 1 on.

    `wave` is a stage's: a new one begins with each stage that begins while none runs. `detail` is
    what came of it, as the id of a checkpoint. "stopped": it was called off.
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
        return (self.ended_at - self.began_at).total_seconds()


class MachineRecord(_Table):
    """`checkpoint` is what it was started from; None: the base image.

    `usd_per_hour` is of when it was started, None where AWS did not say; `ended_at` None: it was
    still there when this was written.
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
    """Of one bake, by the time that `now` tells. For several threads."""

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._steps: list[StepRecord] = []
        self._machines: list[MachineRecord] = []
        self._attempt = 0
        self._wave = 0
        self._running = 0  # stages

    @property
    def steps(self) -> tuple[StepRecord, ...]:
        """Those that have ended, in the order in which they began."""
        with self._lock:
            return tuple(sorted(self._steps, key=lambda step: step.began_at))

    @property
    def machines(self) -> tuple[MachineRecord, ...]:
        with self._lock:
            return tuple(self._machines)

    @contextmanager
    def step(self, kind: Kind, name: str) -> Iterator[Callable[[str], None]]:
        """A step, however it ends; what it gives takes the step's detail."""
        said: list[str] = []
        with self._lock:
            self._attempt += kind == "start"
            if kind == "stage":
                self._wave += self._running == 0
                self._running += 1
            machine, wave = self._attempt, self._wave if kind == "stage" else None
        began_at = self._now()
        outcome: Ended = "failed"
        try:
            yield said.append
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
                detail=" ".join(said),
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
        """The one that began last is gone."""
        with self._lock:
            if self._machines and self._machines[-1].ended_at is None:
                ended = self._machines[-1].model_copy(update={"ended_at": self._now()})
                self._machines[-1] = ended
