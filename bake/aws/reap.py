"""Reaping: what dead runs have left behind is found, and removed in the order in which it holds.

What may be removed is what is past its time, or of a run that is known dead (runs.py), or broken;
never what is of a run that lives. Two reaps at once do not disturb each other: what is gone already
is removed.
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
from bake.aws.machine import end
from bake.aws.orphans import KINDS, Kind, Orphan, Orphans, look
from bake.aws.runs import Claim, claims
from bake.aws.security_group import delete_security_group
from bake.aws.snapshot import delete_snapshot
from bake.errors import CloudError
from bake.threads import together

_AT_A_TIME = 20


def find(
    cloud: Cloud,
    *,
    recipe: str | None = None,
    dead: Collection[str] = frozenset(),
    leases: bool = True,
) -> list[Orphans]:
    """What may be removed in this region, in that order; of one recipe, or of all.

    `dead` are runs that are known to be, besides those whose leases say so. Without `leases`, none
    are looked at as long as nothing is there that they would have to judge. CloudError.
    """
    found = [one for one in look(cloud, recipe) if one.may_go(cloud.now())]
    # Later than the things: who has made one has had its lease before.
    said = claims(cloud) if found or leases else []
    remains = judge(found, said, dead, cloud.now())
    remains += [
        Orphans(cloud.region, "lease", claim.name, claim.run, claim.recipe, claim.renewed_at, why)
        for claim in said
        if (why := claim.dead) and recipe in (None, claim.recipe)
    ]
    return sorted(remains, key=lambda each: (KINDS.index(each.kind), each.id))


def judge(
    found: Sequence[Orphan], said: Sequence[Claim], known_dead: Collection[str], now: datetime
) -> list[Orphans]:
    """Those that may be removed, and why. Pure."""
    alive = {claim.run for claim in said if not claim.dead}
    dead = dict.fromkeys(known_dead, "another run took over from it")
    dead |= {claim.run: claim.dead for claim in said if claim.dead}

    def why(one: Orphan) -> str:
        run = one.remains.run
        if run in alive - set(known_dead):
            return ""
        if one.broken:
            return one.broken
        if one.of_run and run in dead:
            return f"its run is dead: {dead[run]}"
        if one.expires_at and one.has_expired(now):
            return f"its time was up on {one.expires_at:%Y-%m-%d at %H:%M} UTC"
        return ""

    going = [(one, reason) for one in found if (reason := why(one))]
    gone = {"", *(one.remains.id for one, _ in going)}
    return [
        replace(one.remains, why=one.remains.why or reason)
        for one, reason in going
        if one.held_by in gone
    ]


@dataclass(frozen=True)
class Removal:
    """What came of one: `left` where AWS would not remove it."""

    remains: Orphans
    left: Leftover | None = None


def remove(
    cloud: Cloud, remains: Sequence[Orphans], *, on_kind: Callable[[str], None] = lambda text: None
) -> list[Removal]:
    """Remove them, those of one kind at the same time; a refusal keeps nothing else.

    Machines are waited for, then their groups until they are free. The lease of a run of which
    something stays, stays too: the next one is to know that the run is dead.
    """
    done: list[Removal] = []
    for kind in KINDS:
        mine = [each for each in remains if each.kind == kind]
        if kind == "lease":
            not_all_of = {removal.remains.run for removal in done if removal.left}
            mine = [each for each in mine if each.run not in not_all_of]
        if mine:
            on_kind(f"{kind}: {len(mine)}")
        for first in range(0, len(mine), _AT_A_TIME):
            batch = mine[first : first + _AT_A_TIME]
            together(*(partial(_remove, cloud, each, done) for each in batch))
    return done


def _remove(cloud: Cloud, one: Orphans, done: list[Removal]) -> None:
    left: list[Leftover] = []
    with tried(left, str(one), one.command):
        _REMOVE[one.kind](cloud, one)
    done.append(Removal(one, left[0] if left else None))


@contextmanager
def _or_gone(code: str) -> Iterator[None]:
    try:
        yield
    except CloudError as error:
        if error.code != code:
            raise


def _image(cloud: Cloud, one: Orphans) -> None:
    deregister_image(cloud, one.id)
    for snapshot_id in one.snapshot_ids:
        delete_snapshot(cloud, snapshot_id, patience_s=0)


def _volume(cloud: Cloud, one: Orphans) -> None:
    with _or_gone("InvalidVolume.NotFound"):
        cloud.ec2("DeleteVolume", VolumeId=one.id)


def _spot_request(cloud: Cloud, one: Orphans) -> None:
    with _or_gone("InvalidSpotInstanceRequestID.NotFound"):
        cloud.ec2("CancelSpotInstanceRequests", SpotInstanceRequestIds=[one.id])


_REMOVE: dict[Kind, Callable[[Cloud, Orphans], None]] = {
    "spot request": _spot_request,
    "image": _image,
    "machine": lambda cloud, one: end(cloud, [one.id], patience_s=0),
    "volume": _volume,
    "security group": lambda cloud, one: delete_security_group(cloud, one.id, patience_s=0),
    "key pair": lambda cloud, one: delete_key_pair(cloud, one.id),
    "checkpoint": lambda cloud, one: delete_snapshot(cloud, one.id, patience_s=0),
    "snapshot": lambda cloud, one: delete_snapshot(cloud, one.id, patience_s=0),
    "lease": lambda cloud, one: parameter.delete(cloud, one.id),
}
