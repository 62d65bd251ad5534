"""The doctor: it finds out what a bake lacks here and at AWS, and changes nothing."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from bake import files
from bake.aws.client.caller import caller_cidr
from bake.aws.client.credentials import CredentialsEnd
from bake.aws.client.session import Cloud
from bake.aws.disk_key import customer_key, missing_key_actions
from bake.aws.permission import Policy, in_partition, permissions, statements
from bake.errors import BakeError, CloudError, NoAnswerError, PreflightError
from bake.machine import session_manager
from bake.pipeline.preflight import PreflightResult, preflight
from bake.recipe.resolved import Resolved

Outcome = Literal["missing", "not checked", "warning", "ok"]

# In the order in which they are shown.
OUTCOMES: tuple[Outcome, ...] = ("missing", "not checked", "warning", "ok")
# AWS refuses requests whose time differs by five minutes (Signature Version 4). A clock that is
# wrong by half a minute is not synchronized, and will be wrong by more.
_MOST_OFF_S = 30
# The programs that commands start on this computer, what for, and Debian's packages.
_PROGRAMS = (
    ("ssh", "connect, run, put and get need it", "openssh-client"),
    ("rsync", "put and get need it", "rsync"),
)
_NO_CHECKS: Mapping[str, Callable[[], str]] = {}


@dataclass(frozen=True)
class Prerequisite:
    """One thing that a bake needs. `advice` says what to do if it is missing.

    "warning" is a warning: a bake is possible, but not everything will be as the recipe wants it.
    """

    subject: str
    outcome: Outcome
    detail: str
    advice: str = ""


@dataclass(frozen=True)
class DoctorResult:
    """All prerequisites, and the policy `statements` that the caller's policy lacks."""

    checks: Sequence[Prerequisite]
    statements: Sequence[Mapping[str, Any]] = field(default=())

    @property
    def missing(self) -> list[str]:
        """The results of the checks that failed. Of "not checked" prerequisites, more may be."""
        return [f"{c.subject}: {c.detail}" for c in self.checks if c.outcome == "missing"]

    @property
    def well(self) -> bool:
        """True if nothing is known to be missing."""
        return not self.missing


@dataclass(frozen=True)
class Wanted:
    """The bake that is to be possible: this recipe, under this policy. `connect` logs in to AWS.

    `key_policy` is what the caller needs if the disks have a customer-managed KMS key.
    """

    resolved: Resolved
    policy: Policy
    key_policy: Policy
    connect: Callable[[], Cloud]


def examine(
    wanted: Wanted | None, also: Mapping[str, Callable[[], str]] = _NO_CHECKS
) -> DoctorResult:
    """Check everything that a bake needs, the worst result first. None: only this computer.

    `also` maps the name of an extra check to the function that performs it: it returns a detail,
    or raises a BakeError.
    """
    checks = [Prerequisite("Python", "ok", platform.python_version()), *check_programs()]
    checks += [_check(subject, perform) for subject, perform in also.items()]
    lacking: list[dict[str, Any]] = []
    if wanted:
        more, lacking = _check_cloud(wanted)
        checks += more
    checks.sort(key=lambda check: OUTCOMES.index(check.outcome))
    return DoctorResult(checks, lacking)


def _check(subject: str, perform: Callable[[], str]) -> Prerequisite:
    try:
        with files.any_file():
            return Prerequisite(subject, "ok", perform())
    except BakeError as error:
        return Prerequisite(subject, "missing", error.full_message, error.hint)


def _check_cloud(wanted: Wanted) -> tuple[list[Prerequisite], list[dict[str, Any]]]:
    """Check everything at AWS; return also the statements that the caller's policy lacks."""
    try:
        with files.any_file():
            cloud = wanted.connect()
    except BakeError as error:
        return _check_access(error), []
    checks = [
        Prerequisite("credentials", "ok", cloud.caller or f"account {cloud.account_id}"),
        Prerequisite("region", "ok", cloud.region),
        check_clock((datetime.now(UTC) - cloud.now()).total_seconds()),
        _check("your address", caller_cidr),
        *_check_disk_key(cloud, wanted.key_policy),
        *check_credentials_end(cloud.credentials_end()),
    ]
    more, checked = _check_resources(cloud, wanted.resolved)
    checks += more
    policy = in_partition(wanted.policy, cloud.partition)
    answers = permissions(
        cloud,
        policy,
        image_id=checked.base_image.image_id if checked else "",
        placement=checked.placements[0] if checked else None,
    )
    allowed = [answer for answer in answers if answer.outcome == "allowed"]
    summary = f"{len(allowed)} of {len(answers)} are known to be allowed"
    checks.append(Prerequisite("permissions", "ok", summary))
    checks += [
        Prerequisite(answer.action, answer.outcome, answer.how)
        for answer in answers
        if answer.outcome != "allowed"
    ]
    missing = [answer.action for answer in answers if answer.outcome == "missing"]
    return checks, statements(policy, missing)


def _check_access(error: BakeError) -> list[Prerequisite]:
    """Return what is missing if no connection to AWS could be made. Pure."""
    detail, advice = error.full_message, error.hint
    if isinstance(error, NoAnswerError):
        return [
            Prerequisite("network", "missing", detail, advice),
            Prerequisite("credentials", "not checked", "AWS cannot be reached"),
        ]
    if error.code in ("NoRegionError", "UnknownRegionError"):
        return [
            Prerequisite("region", "missing", detail, advice),
            Prerequisite("credentials", "not checked", "their check is a request to a region"),
        ]
    return [Prerequisite("credentials", "missing", detail, advice)]


def check_programs() -> list[Prerequisite]:
    """Check the programs of this computer that commands for launched machines start.

    A bake needs none of them.
    """
    checks = []
    for name, use, package in _PROGRAMS:
        if path := shutil.which(name):
            checks.append(Prerequisite(name, "ok", path))
        else:
            advice = f"Install {name}: sudo apt-get install {package} (or brew install {name})"
            checks.append(Prerequisite(name, "warning", f"not installed: {use}", advice))
    missing = " and ".join(session_manager.missing_programs())
    detail = f"{missing} not installed: only --via ssm needs that" if missing else "installed"
    return [*checks, Prerequisite("Session Manager", "ok", detail)]


def check_clock(ahead_s: float) -> Prerequisite:
    """Check this computer's clock, which is `ahead_s` seconds ahead of AWS's clock. Pure."""
    detail = f"{abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} AWS's"
    if abs(ahead_s) < _MOST_OFF_S:
        return Prerequisite("clock", "ok", detail)
    advice = "Set this computer's clock: timedatectl set-ntp true"
    return Prerequisite("clock", "missing", detail, advice)


def check_credentials_end(end: CredentialsEnd | None) -> list[Prerequisite]:
    """Return a warning if the credentials end at a time that AWS does not tell. Pure."""
    if end is None or end.at is not None:  # the preflight compares a known end with the bake's
        return []
    detail = "temporary (they have a session token); AWS does not tell when they end"
    advice = (
        "Make sure that the credentials last as long as a bake (builder.timeout_hours), and set "
        "AWS_CREDENTIAL_EXPIRATION to their end: then bake warns in time (docs/accounts.md)"
    )
    return [Prerequisite("end of credentials", "warning", detail, advice)]


def _check_disk_key(cloud: Cloud, policy: Policy) -> list[Prerequisite]:
    """Check whether the caller may use the KMS key with which EBS encrypts the disks."""
    try:
        key = customer_key(cloud)
        missing = missing_key_actions(cloud, key, policy) if key else []
    except CloudError:
        return []  # the check of this permission reports it
    if key is None:
        return [Prerequisite("disk key", "ok", "the one that AWS manages")]
    if missing == []:
        return [Prerequisite("disk key", "ok", key)]
    unknown = "whether it may be used is unknown"
    detail = f"{key}: " + (f"not allowed by a policy: {', '.join(missing)}" if missing else unknown)
    advice = (
        "Disks are encrypted with a customer-managed KMS key. Either the policy of this user or "
        "role, or the policy of the key, has to allow its use (docs/accounts.md)"
    )
    return [Prerequisite("disk key", "warning", detail, advice)]


def _check_resources(
    cloud: Cloud, resolved: Resolved
) -> tuple[list[Prerequisite], PreflightResult | None]:
    """Check the base image, the network, the instance types and the quota for the recipe."""
    try:
        checked = preflight(cloud, resolved)
    except PreflightError as error:
        return [Prerequisite(f.place, "missing", f.message, f.hint) for f in error.findings], None
    image = checked.base_image
    zones = sorted({placement.zone for placement in checked.placements})
    types = dict.fromkeys(placement.instance_type for placement in checked.placements)
    checks = [
        Prerequisite("base image", "ok", f"{image.image_id} {image.name}"),
        Prerequisite("machines", "ok", f"{', '.join(types)} in {', '.join(zones)}"),
    ]
    checks += [Prerequisite(f.place, "warning", f.message, f.hint) for f in checked.warnings]
    return checks, checked
