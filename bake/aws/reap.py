"""Finding the orphaned resources of dead runs, and removing them in the right order.

A resource is orphaned when it has expired, when its run is known to be dead (run_state.py), or when
it is broken. A resource of a live run is never orphaned. Several reaps may run at the same time: a
resource that another one has already deleted counts as removed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from bake.aws import parameter
from bake.aws.client.session import Cloud
from bake.aws.client.undo import Leftover, tried
from bake.aws.image import deregister_image
from bake.aws.key_pair import delete_key_pair
from bake.aws.machine import terminate_all
from bake.aws.orphans import KINDS, Candidate, Kind, Orphan, list_candidates
from bake.aws.run_state import RunState, run_states
from bake.aws.security_group import delete_security_group
from bake.aws.snapshot import delete_snapshot
from bake.errors import CloudError
from bake.threads import together

_BATCH = 20


def find_orphans(
    cloud: Cloud,
    *,
    recipe: str | None = None,
    dead: Collection[str] = frozenset(),
    leases: bool = True,
) -> list[Orphan]:
    """Return the orphaned resources in this region, in the order in which they can be removed.

    If `recipe` is None, resources of all recipes are returned. `dead` are the ids of runs that the
    caller knows to be dead; the leases show others. If `leases` is False, the leases are read only
    if a resource is found. CloudError if AWS does not answer.
    """
    candidates = [
        each for each in list_candidates(cloud, recipe) if each.may_be_removed(cloud.now())
    ]
    # Only after the resources: a run gets its lease before it creates anything.
    runs = run_states(cloud) if candidates or leases else []
    orphans = judge(candidates, runs, dead, cloud.now())
    orphans += [
        Orphan(cloud.region, "lease", run.lease, run.run, run.recipe, run.renewed_at, why)
        for run in runs
        if (why := run.dead) and recipe in (None, run.recipe)
    ]
    return sorted(orphans, key=lambda each: (KINDS.index(each.kind), each.id))


def judge(
    candidates: Sequence[Candidate],
    runs: Sequence[RunState],
    known_dead: Collection[str],
    now: datetime,
) -> list[Orphan]:
    """Return the candidates that may be removed, each with its reason. A pure function."""
    alive = {run.run for run in runs if not run.dead}
    dead = dict.fromkeys(known_dead, "another run took over from it")
    dead |= {run.run: run.dead for run in runs if run.dead}

    def reason(candidate: Candidate) -> str:
        run = candidate.orphan.run
        if run in alive - set(known_dead):
            return ""
        if candidate.broken:
            return candidate.broken
        if candidate.of_run and run in dead:
            return f"its run is dead: {dead[run]}"
        if candidate.expires_at and candidate.has_expired(now):
            return f"it expired on {candidate.expires_at:%Y-%m-%d at %H:%M} UTC"
        return ""

    removable = [(each, why) for each in candidates if (why := reason(each))]
    removable_ids = {"", *(each.orphan.id for each, _ in removable)}
    return [
        replace(each.orphan, why=each.orphan.why or why)
        for each, why in removable
        if each.held_by in removable_ids
    ]


@dataclass(frozen=True)
class Removal:
    """The outcome for one orphaned resource; `leftover` is set when AWS did not remove it."""

    orphan: Orphan
    leftover: Leftover | None = None


def remove_orphans(
    cloud: Cloud, orphans: Sequence[Orphan], *, on_kind: Callable[[str], None] = lambda text: None
) -> list[Removal]:
    """Remove the resources, all of one kind at the same time. An error does not stop the others.

    Waits until machines are terminated, and until security groups are no longer in use. The lease
    of a run stays when one of its resources could not be removed, so that the next reap still
    knows that the run is dead.
    """
    done: list[Removal] = []
    for kind in KINDS:
        of_kind = [each for each in orphans if each.kind == kind]
        if kind == "lease":
            incomplete = {removal.orphan.run for removal in done if removal.leftover}
            of_kind = [each for each in of_kind if each.run not in incomplete]
        if of_kind:
            on_kind(f"{kind}: {len(of_kind)}")
        for first in range(0, len(of_kind), _BATCH):
            batch = of_kind[first : first + _BATCH]
            together(*(partial(_remove, cloud, each, done) for each in batch))
    return done


def _remove(cloud: Cloud, orphan: Orphan, done: list[Removal]) -> None:
    leftovers: list[Leftover] = []
    with tried(leftovers, str(orphan), orphan.command):
        _REMOVE[orphan.kind](cloud, orphan)
    done.append(Removal(orphan, leftovers[0] if leftovers else None))


@contextmanager
def _ignoring(code: str) -> Iterator[None]:
    try:
        yield
    except CloudError as error:
        if error.code != code:
            raise


def _remove_image(cloud: Cloud, orphan: Orphan) -> None:
    deregister_image(cloud, orphan.id)
    for snapshot_id in orphan.snapshot_ids:
        delete_snapshot(cloud, snapshot_id, unknown_for_s=0)


def _remove_volume(cloud: Cloud, orphan: Orphan) -> None:
    with _ignoring("InvalidVolume.NotFound"):
        cloud.ec2("DeleteVolume", VolumeId=orphan.id)


def _cancel_spot_request(cloud: Cloud, orphan: Orphan) -> None:
    with _ignoring("InvalidSpotInstanceRequestID.NotFound"):
        cloud.ec2("CancelSpotInstanceRequests", SpotInstanceRequestIds=[orphan.id])


_REMOVE: dict[Kind, Callable[[Cloud, Orphan], None]] = {
    "spot request": _cancel_spot_request,
    "image": _remove_image,
    "machine": lambda cloud, orphan: terminate_all(cloud, [orphan.id], unknown_for_s=0),
    "volume": _remove_volume,
    "security group": lambda cloud, orphan: delete_security_group(
        cloud, orphan.id, unknown_for_s=0
    ),
    "key pair": lambda cloud, orphan: delete_key_pair(cloud, orphan.id),
    "checkpoint": lambda cloud, orphan: delete_snapshot(cloud, orphan.id, unknown_for_s=0),
    "snapshot": lambda cloud, orphan: delete_snapshot(cloud, orphan.id, unknown_for_s=0),
    "lease": lambda cloud, orphan: parameter.delete(cloud, orphan.id),
}
