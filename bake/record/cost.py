"""The cost of a bake's machines."""

from __future__ import annotations

from dataclasses import dataclass

from bake.record.record import Failure, Record

_LEAST_S = 60  # "billed per second, with a minimum of 60 seconds" (Amazon EC2, "On-Demand Pricing")


@dataclass(frozen=True)
class BakeCost:
    """The cost of one machine; `usd_per_hour` and `usd` are None if the price is not known."""

    instance_id: str
    instance: str
    seconds: float
    usd_per_hour: float | None
    still_running: bool

    @property
    def usd(self) -> float | None:
        """The price of the machine for its whole time; None if the price is not known."""
        if self.usd_per_hour is None:
            return None
        return self.usd_per_hour * max(self.seconds, _LEAST_S) / 3600


def machine_costs(run: Record | Failure) -> list[BakeCost]:
    """Return the cost of each machine of a bake.

    An on-demand machine is stopped for the image, and costs nothing from then on.
    """
    stopped_at = {step.machine: step.began_at for step in run.steps if step.kind == "image"}
    costs = []
    for number, machine in enumerate(run.machines, start=1):
        end = machine.ended_at or run.ended_at
        if machine.market == "on-demand":
            end = min(end, stopped_at.get(number, end))
        costs.append(
            BakeCost(
                machine.instance_id,
                f"{machine.instance_type} in {machine.zone}, {machine.market}",
                max((end - machine.began_at).total_seconds(), 0.0),
                machine.usd_per_hour,
                isinstance(run, Failure) and machine.ended_at is None,
            )
        )
    return costs


def total_usd(run: Record | Failure) -> float | None:
    """Return the cost of all machines together; None if the price of one is not known."""
    costs = [cost.usd for cost in machine_costs(run)]
    known = [usd for usd in costs if usd is not None]
    return sum(known) if costs and len(known) == len(costs) else None
