"""What is missing before anything is started: the computer, the credentials, the region, the
permissions. Everything is asked, and nothing is changed."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from bake.aws.client.caller import caller_cidr
from bake.aws.client.session import Cloud
from bake.aws.permission import Policy, permissions, statements
from bake.errors import BakeError, PreflightError
from bake.pipeline.preflight import PreflightResult, preflight
from bake.recipe.resolved import Resolved

Outcome = Literal["missing", "not asked", "mind", "fine"]

# Worst first, and so they are shown.
OUTCOMES: tuple[Outcome, ...] = ("missing", "not asked", "mind", "fine")
# AWS refuses requests that are five minutes off (Signature Version 4); half a minute of that is
# a clock that nobody sets.
_MOST_OFF_S = 30
_NOTHING: Mapping[str, Callable[[], str]] = {}


@dataclass(frozen=True)
class Prerequisite:
    """`advice`: what to do about it. "mind": a bake can go on, but not all will be as asked for."""

    subject: str
    outcome: Outcome
    detail: str
    advice: str = ""


@dataclass(frozen=True)
class DoctorResult:
    """`statements` are those that a policy of the caller's lacks."""

    checks: Sequence[Prerequisite]
    statements: Sequence[Mapping[str, Any]] = field(default=())

    @property
    def well(self) -> bool:
        """Nothing is known to be missing; what could not be asked may still be."""
        return not any(check.outcome == "missing" for check in self.checks)


@dataclass(frozen=True)
class Wanted:
    """What AWS is asked for: a bake of this recipe, under this policy."""

    resolved: Resolved
    policy: Policy
    connect: Callable[[], Cloud]


def examine(
    wanted: Wanted | None, also: Mapping[str, Callable[[], str]] = _NOTHING
) -> DoctorResult:
    """All at once, the worst first; `also` is what else is needed here, by what says how it is."""
    checks = [Prerequisite("Python", "fine", platform.python_version())]
    checks += [_asked(subject, ask) for subject, ask in also.items()]
    lacking: list[dict[str, Any]] = []
    if wanted:
        more, missing = _of_cloud(wanted)
        checks += more
        lacking = statements(wanted.policy, missing)
    checks.sort(key=lambda check: OUTCOMES.index(check.outcome))
    return DoctorResult(checks, lacking)


def _asked(subject: str, ask: Callable[[], str]) -> Prerequisite:
    try:
        return Prerequisite(subject, "fine", ask())
    except BakeError as error:
        said = ": ".join(part for part in (error.message, error.code, error.reason) if part)
        return Prerequisite(subject, "missing", said, error.hint)


def _of_cloud(wanted: Wanted) -> tuple[list[Prerequisite], list[str]]:
    """What AWS says; and the actions that are not allowed."""
    found: list[Cloud] = []

    def credentials() -> str:
        found.append(wanted.connect())
        return found[0].caller or f"account {found[0].account_id}"

    checks = [_asked("credentials", credentials)]
    if not found:
        return checks, []
    [cloud] = found
    checks += [Prerequisite("region", "fine", cloud.region), _clock(cloud)]
    checks.append(_asked("your address", caller_cidr))
    more, ground = _ground(cloud, wanted.resolved)
    checks += more
    answers = permissions(
        cloud,
        wanted.policy,
        image_id=ground.base_image.image_id if ground else "",
        placement=ground.placements[0] if ground else None,
    )
    fine = [answer for answer in answers if answer.outcome == "allowed"]
    known = f"{len(fine)} of {len(answers)} are known to be allowed"
    checks.append(Prerequisite("permissions", "fine", known))
    checks += [
        Prerequisite(answer.action, answer.outcome, answer.how)
        for answer in answers
        if answer.outcome != "allowed"
    ]
    return checks, [answer.action for answer in answers if answer.outcome == "missing"]


def _clock(cloud: Cloud) -> Prerequisite:
    off_s = (datetime.now(UTC) - cloud.now()).total_seconds()
    how = f"{abs(off_s):.0f} s {'before' if off_s > 0 else 'behind'} AWS's"
    if abs(off_s) < _MOST_OFF_S:
        return Prerequisite("clock", "fine", how)
    advice = "Set this computer's clock: timedatectl set-ntp true"
    return Prerequisite("clock", "missing", how, advice)


def _ground(cloud: Cloud, resolved: Resolved) -> tuple[list[Prerequisite], PreflightResult | None]:
    """The base image, the network, the instance types and the quota that the recipe needs."""
    try:
        ground = preflight(cloud, resolved)
    except PreflightError as error:
        return [Prerequisite(f.place, "missing", f.message, f.hint) for f in error.findings], None
    zones = sorted({placement.zone for placement in ground.placements})
    types = dict.fromkeys(placement.instance_type for placement in ground.placements)
    checks = [
        Prerequisite(
            "base image", "fine", f"{ground.base_image.image_id} {ground.base_image.name}"
        ),
        Prerequisite("machines", "fine", f"{', '.join(types)} in {', '.join(zones)}"),
    ]
    return checks + [
        Prerequisite(f.place, "mind", f.message, f.hint) for f in ground.warnings
    ], ground
