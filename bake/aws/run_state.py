"""The state of runs, alive or dead, as their leases show it.

The state of a run without a lease is not known: it has ended, or it never needed a lease. The
resources that it has left behind are removed only after their expiry time (`bake:expires`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from bake.aws import lease_holder, parameter
from bake.aws.client.session import Cloud
from bake.aws.client.wait import MINUTE
from bake.aws.lease import PATH, TAKEOVER_S, generation_of
from bake.aws.parameter import Parameter
from bake.console.format import rounded_duration

# Longer than a waiting run waits before it takes over: AWS may have delayed the last renewal.
SILENT = timedelta(seconds=TAKEOVER_S + MINUTE)


@dataclass(frozen=True)
class RunState:
    """The state of a run that has a lease.

    `lease` is the name of the lease's parameter. `dead` is the reason why the run is known to be
    dead; "" for a run that may be alive.
    """

    lease: str
    run: str
    recipe: str
    renewed_at: datetime
    dead: str


def run_states(cloud: Cloud) -> list[RunState]:
    """Return the state of every run that has a lease in this region."""
    return judge_leases(parameter.list_below(cloud, PATH, recursive=True), cloud.now())


def judge_leases(leases: Sequence[Parameter], now: datetime) -> list[RunState]:
    """Return the state of each lease's run; `now` is AWS's time.

    Pure, except that it looks at the processes of this computer. A lease that cannot be read is
    left out.
    """
    holders = {lease: lease_holder.read(lease.value) for lease in leases}
    states = []
    for lease, holder in holders.items():
        if not holder.run:
            continue
        successors = [
            other.run
            for other_lease, other in holders.items()
            if _digest(other_lease) == _digest(lease)
            and generation_of(other_lease) > generation_of(lease)
            and other.run not in {"", holder.run}
        ]
        silent = now - lease.written_at
        dead = ""
        if holder.has_ended():
            dead = "its process on this computer has ended"
        elif successors:
            dead = f"run {successors[-1]} has taken over"
        elif silent > SILENT:
            dead = f"it has not renewed its lease for {rounded_duration(silent)}"
        states.append(RunState(lease.name, holder.run, holder.recipe, lease.written_at, dead))
    return states


def _digest(lease: Parameter) -> str:
    return lease.name.rpartition("/")[0]
