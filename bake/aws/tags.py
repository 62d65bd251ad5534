"""The tags that make the cloud the database: everything a later run must know is in them."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from bake.errors import Finding, RecipeError

RUN = "bake:run"
EXPIRES = "bake:expires"
RECIPE = "bake:recipe"
DIGEST = "bake:digest"
STAGE = "bake:stage:"
VERIFIED = "bake:verified"
PAYLOAD = "bake:payload"
CHECKPOINT = "bake:checkpoint"  # on a snapshot of a builder: the digest of all that it contains
SECONDS = "bake:seconds"  # how long each step took, like `base=12.1 drivers=70.3`
LOGIN_USER = "bake:login-user"  # whom to log in as: an image does not say it otherwise
# How long a launched machine lives (see machine/lifetime.py), and what its power-off is then.
TTL = "bake:ttl"
IDLE = "bake:idle"
ENDS = "bake:ends"
AT_END = "bake:at-end"
VIA = "bake:via"  # how a machine is reached: "ssm", or not said where it is by its public address
NAME = "Name"

# EC2 User Guide, "Tag your Amazon EC2 resources", restrictions.
MOST_TAGS = 50
LONGEST_KEY = 128
LONGEST_VALUE = 256

# What a run's id begins with.
_ID = "%Y%m%d-%H%M%S"

Tags = dict[str, str]


@dataclass(frozen=True)
class Run:
    """One bake or one launch: what it makes carries its id.

    `tags` are the recipe's own; they never take the place of ours.
    """

    id: str
    recipe: str
    started_at: datetime
    expires_at: datetime | None = None  # None: what it makes is meant to stay
    tags: Mapping[str, str] = field(default_factory=dict)

    def temporary(self) -> Tags:
        """For what the run removes itself; after `expires_at`, anybody may."""
        if self.expires_at is None:
            raise ValueError(f"run {self.id} has no end")
        return self._with(
            {NAME: f"bake-{self.id}", RECIPE: self.recipe, EXPIRES: rfc3339(self.expires_at)}
        )

    def lasting(self, name: str) -> Tags:
        """For a launched machine and what belongs to it."""
        return self._with({NAME: name, RECIPE: self.recipe})

    def finished(
        self, *, name: str, digest: str, stages: Mapping[str, str], verified: str, payload: str
    ) -> Tags:
        """For an image: what it is made of (stage to digest), and what was proved on it."""
        return self._with(
            {
                NAME: name,
                RECIPE: self.recipe,
                DIGEST: digest,
                VERIFIED: verified,
                PAYLOAD: payload,
                **{STAGE + stage: value for stage, value in stages.items()},
            }
        )

    def _with(self, ours: Tags) -> Tags:
        return _checked(self.tags, {**ours, RUN: self.id})


def new_run(
    recipe: str,
    *,
    lifetime: timedelta | None = None,
    tags: Mapping[str, str] | None = None,
    now: datetime | None = None,
) -> Run:
    """A run that starts now; its id sorts by time and fits into names, paths and tokens."""
    started_at = now or datetime.now(UTC)
    run_id = f"{started_at.astimezone(UTC):{_ID}}-{secrets.token_hex(3)}"
    return Run(run_id, recipe, started_at, started_at + lifetime if lifetime else None, tags or {})


def began(run_id: str) -> datetime | None:
    """When the run of this id did; None where it is no id of ours."""
    try:
        return datetime.strptime(run_id.rpartition("-")[0], _ID).replace(tzinfo=UTC)
    except ValueError:
        return None


def _checked(theirs: Mapping[str, str], ours: Tags) -> Tags:
    """Both together; RecipeError where EC2 would refuse them, every reason at once."""
    tags = {**theirs, **ours}
    findings = []
    findings += [
        Finding(f"tags.{key}", "keys that begin with aws: or bake: are reserved")
        for key in theirs
        if key.lower().startswith(("aws:", "bake:"))
    ]
    for key, value in tags.items():
        place = f"tags.{key}"
        if not 1 <= len(key) <= LONGEST_KEY:
            findings.append(Finding(place, f"a tag's key has 1 to {LONGEST_KEY} characters"))
        if len(value) > LONGEST_VALUE:
            findings.append(Finding(place, f"a tag's value has at most {LONGEST_VALUE} characters"))
    if len(tags) > MOST_TAGS:
        hint = f"Leave out at least {len(tags) - MOST_TAGS} of the recipe's tags"
        findings.append(
            Finding("tags", f"EC2 allows {MOST_TAGS} tags, with ours these are {len(tags)}", hint)
        )
    if findings:
        raise RecipeError("EC2 would refuse these tags", findings=findings)
    return tags


def specifications(tags: Mapping[str, str], *resource_types: str) -> list[dict[str, Any]]:
    """`TagSpecifications` of a creating call: a resource that is never without its tags."""
    pairs = [{"Key": key, "Value": value} for key, value in tags.items()]
    return [{"ResourceType": resource, "Tags": pairs} for resource in resource_types]


def read(pairs: Iterable[Mapping[str, str]] | None) -> Tags:
    """AWS's list of keys and values as a mapping."""
    return {pair["Key"]: pair.get("Value", "") for pair in pairs or () if "Key" in pair}


def read_stages(tags: Mapping[str, str]) -> dict[str, str]:
    """What an image or a checkpoint contains: stage to digest."""
    return {key.removeprefix(STAGE): tags[key] for key in tags if key.startswith(STAGE)}


def write_seconds(seconds: Mapping[str, float]) -> str:
    """The value of `bake:seconds`; the shortest are left out where all do not fit."""
    words = {name: f"{name}={value:.1f}" for name, value in seconds.items()}
    longest_last = sorted(seconds, key=lambda name: seconds[name])
    while len(text := " ".join(words.values())) > LONGEST_VALUE:
        del words[longest_last.pop(0)]
    return text


def read_seconds(text: str) -> dict[str, float]:
    """What `write_seconds` wrote, in its order; what a hand has made of it is left out."""
    seconds = {}
    for word in text.split():
        name, _, value = word.rpartition("=")
        try:
            number = float(value)
        except ValueError:
            continue
        if name and math.isfinite(number) and number >= 0:
            seconds[name] = number
    return seconds


def rfc3339(moment: datetime) -> str:
    """In UTC and to the second, like 2026-11-21T06:30:00Z."""
    # Not strftime: it leaves out the zeros before the years that only a hand writes.
    return moment.astimezone(UTC).replace(microsecond=0, tzinfo=None).isoformat() + "Z"


def parse_time(text: str) -> datetime | None:
    """What `rfc3339` wrote; None where a hand has made something else of it."""
    try:
        return parse_aws_time(text).astimezone(UTC)
    except (ValueError, OverflowError):  # it may be one of another zone's year 0 or 10000
        return None


def parse_aws_time(text: str) -> datetime:
    """A time as AWS writes it, like 2026-11-21T06:30:00.000Z."""
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)
