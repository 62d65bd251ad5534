"""Tags: they hold everything that a later run needs to know about a resource."""

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
CHECKPOINT = (
    "bake:checkpoint"  # on a snapshot of a builder: the digest of all stages that it contains
)
SECONDS = "bake:seconds"  # the duration of each stage, such as `base=12.1 drivers=70.3`
LOGIN_USER = "bake:login-user"  # the user for SSH, which an image does not record otherwise
# The lifetime of a launched machine (machine/lifetime.py), and the effect of its power-off.
TTL = "bake:ttl"
IDLE = "bake:idle"
ENDS = "bake:ends"
AT_END = "bake:at-end"
USED_BY = "bake:used-by"  # the command that launched a machine for itself: bench; else missing
VIA = "bake:via"  # "ssm" for a machine that is reached by Session Manager; else missing
NAME = "Name"

# EC2 User Guide, "Tag your Amazon EC2 resources", restrictions.
MOST_TAGS = 50
LONGEST_KEY = 128
LONGEST_VALUE = 256

# The time at the start of a run's id.
_ID = "%Y%m%d-%H%M%S"

Tags = dict[str, str]


@dataclass(frozen=True)
class Run:
    """One bake or one launch. Everything that it creates has the tag `bake:run` with its id.

    `tags` are the recipe's own tags; they never replace those of bake.
    """

    id: str
    recipe: str
    started_at: datetime
    expires_at: datetime | None = None  # None: its resources are meant to stay
    tags: Mapping[str, str] = field(default_factory=dict)

    def temporary(self) -> Tags:
        """Return the tags of a temporary resource: others may remove it after `expires_at`."""
        if self.expires_at is None:
            raise ValueError(f"run {self.id} has no expiry time")
        return self._with(
            {NAME: f"bake-{self.id}", RECIPE: self.recipe, EXPIRES: rfc3339(self.expires_at)}
        )

    def lasting(self, name: str) -> Tags:
        """Return the tags of a launched machine, or of another resource that stays."""
        return self._with({NAME: name, RECIPE: self.recipe})

    def finished(
        self, *, name: str, digest: str, stages: Mapping[str, str], verified: str, payload: str
    ) -> Tags:
        """Return the tags of a finished image; `stages` maps each stage to its digest."""
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

    def _with(self, own: Tags) -> Tags:
        return _checked(self.tags, {**own, RUN: self.id})


def new_run(
    recipe: str,
    *,
    lifetime: timedelta | None = None,
    tags: Mapping[str, str] | None = None,
    now: datetime | None = None,
) -> Run:
    """Return a run that starts now; its id sorts by time and is valid in names and paths."""
    started_at = now or datetime.now(UTC)
    run_id = f"{started_at.astimezone(UTC):{_ID}}-{secrets.token_hex(3)}"
    return Run(run_id, recipe, started_at, started_at + lifetime if lifetime else None, tags or {})


def temporary_name(run_id: str, snapshot_id: str = "") -> str:
    """Return the name of the image that a run registers from a checkpoint, or its beginning."""
    return f"bake-{run_id}/{snapshot_id}"


def start_time(run_id: str) -> datetime | None:
    """Return the start time of the run with this id; None if it is not the id of a run."""
    try:
        return datetime.strptime(run_id.rpartition("-")[0], _ID).replace(tzinfo=UTC)
    except ValueError:
        return None


def _checked(recipe_tags: Mapping[str, str], own: Tags) -> Tags:
    """Return all tags together. RecipeError with every reason for which EC2 would refuse them."""
    tags = {**recipe_tags, **own}
    findings = []
    findings += [
        Finding(f"tags.{key}", "keys that begin with aws: or bake: are reserved")
        for key in recipe_tags
        if key.lower().startswith(("aws:", "bake:"))
    ]
    for key, value in tags.items():
        place = f"tags.{key}"
        if not 1 <= len(key) <= LONGEST_KEY:
            findings.append(
                Finding(place, f"the key of a tag must have 1 to {LONGEST_KEY} characters")
            )
        if len(value) > LONGEST_VALUE:
            findings.append(
                Finding(place, f"the value of a tag must have at most {LONGEST_VALUE} characters")
            )
    if len(tags) > MOST_TAGS:
        hint = f"Remove at least {len(tags) - MOST_TAGS} of the recipe's tags"
        findings.append(
            Finding(
                "tags",
                f"EC2 allows {MOST_TAGS} tags, but with bake's own tags there are {len(tags)}",
                hint,
            )
        )
    if findings:
        raise RecipeError("EC2 would refuse these tags", findings=findings)
    return tags


def specifications(tags: Mapping[str, str], *resource_types: str) -> list[dict[str, Any]]:
    """Return `TagSpecifications` for a creating call, so that a resource always has its tags."""
    pairs = [{"Key": key, "Value": value} for key, value in tags.items()]
    return [{"ResourceType": resource, "Tags": pairs} for resource in resource_types]


def read(pairs: Iterable[Mapping[str, str]] | None) -> Tags:
    """Return AWS's list of tags as a mapping from key to value."""
    return {pair["Key"]: pair.get("Value", "") for pair in pairs or () if "Key" in pair}


def read_stages(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the stages of an image or a checkpoint, each with its digest."""
    return {key.removeprefix(STAGE): tags[key] for key in tags if key.startswith(STAGE)}


def write_seconds(seconds: Mapping[str, float]) -> str:
    """Return the value of `bake:seconds`, without the shortest durations if it is too long."""
    words = {name: f"{name}={value:.1f}" for name, value in seconds.items()}
    longest_last = sorted(seconds, key=lambda name: seconds[name])
    while len(text := " ".join(words.values())) > LONGEST_VALUE:
        del words[longest_last.pop(0)]
    return text


def read_seconds(text: str) -> dict[str, float]:
    """Return the durations that `write_seconds` wrote, without invalid parts."""
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
    """Return a time in UTC with seconds, such as 2026-11-21T06:30:00Z."""
    # Not strftime, which does not pad years before 1000 with zeros.
    return moment.astimezone(UTC).replace(microsecond=0, tzinfo=None).isoformat() + "Z"


def parse_time(text: str) -> datetime | None:
    """Return the time that `rfc3339` wrote; None if the text is not a valid time."""
    try:
        return parse_aws_time(text).astimezone(UTC)
    except (ValueError, OverflowError):  # in UTC the year may be 0 or 10000
        return None


def parse_aws_time(text: str) -> datetime:
    """Return a time that AWS wrote, such as 2026-11-21T06:30:00.000Z; ValueError if invalid."""
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)
