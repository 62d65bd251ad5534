"""Which runs live and which are known dead, by what their leases say.

A run without a lease is neither: it has ended, or it never needed one. What it has left is for its
time to decide (`bake:expires`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from bake.aws import holder, parameter
from bake.aws.client.session import Cloud
from bake.aws.client.wait import MINUTE, duration
from bake.aws.lease import PATH, TAKEOVER_S, generation_of
from bake.aws.parameter import Parameter

# Longer than a waiter would wait: AWS may have kept the last renewal waiting.
SILENT = timedelta(seconds=TAKEOVER_S + MINUTE)


@dataclass(frozen=True)
class Claim:
    """A run's lease. `dead` is how it is known that the run is; "" while it is not."""

    name: str
    run: str
    recipe: str
    renewed_at: datetime
    dead: str


def claims(cloud: Cloud) -> list[Claim]:
    """All that there are in this region."""
    return judge(parameter.below(cloud, PATH, recursive=True), cloud.now())


def judge(leases: Sequence[Parameter], now: datetime) -> list[Claim]:
    """What the leases' parameters say at that time of AWS's. Pure, but for looking at processes.

    One whose note cannot be read says nothing of any run.
    """
    notes = {lease: holder.read(lease.value) for lease in leases}
    claims = []
    for lease, note in notes.items():
        later = [
            other_note.run
            for other, other_note in notes.items()
            if _digest(other) == _digest(lease)
            and generation_of(other) > generation_of(lease)
            and other_note.run not in {"", note.run}
        ]
        silent = now - lease.written_at
        dead = ""
        if note.has_ended():
            dead = "its process on this computer has ended"
        elif later:
            dead = f"run {later[-1]} has taken over"
        elif silent > SILENT:
            dead = f"not heard of for {duration(silent.total_seconds())}"
        if note.run:
            claims.append(Claim(lease.name, note.run, note.recipe, lease.written_at, dead))
    return claims


def _digest(lease: Parameter) -> str:
    return lease.name.rpartition("/")[0]
