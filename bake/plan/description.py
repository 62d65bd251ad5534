"""The inputs of a plan's digests, kept in the tags of its image.

A digest shows that something differs, but not what differs. So an image carries a description in a
few tags. It is compressed, has hashes instead of long values, and contains no passwords.
"""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from collections.abc import Mapping
from types import MappingProxyType

from pydantic import BaseModel, ConfigDict

from bake.plan.plan import Plan
from bake.plan.stage_files import below, files_digest

# EC2 User Guide, "Tag your Amazon EC2 resources": a value has up to 256 characters, of which
# those of base64 are always allowed. A resource has up to 50 tags, most of them for other purposes.
LONGEST_VALUE = 256
MOST_PIECES = 6
# The keys of the tags are this and a number from 0.
PLAN_KEY = "bake:plan:"

# The longest input value that is kept in full, tried in this order until everything fits the tags.
_KEPT = (2000, 800, 400, 200, 120, 80, 60, 40, 20, 0)
# In a URL: the user and password, and the query.
_SECRETS = (re.compile(r"(://)[^\s/]+(@)"), re.compile(r"(://[^\s?#]*\?)[^\s#]+()"))
MASK = "***"


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True)


class Hash(_Value):
    """A short hash that replaces a value that is too long."""

    hash: str


class StageDescription(_Value):
    script: str  # hash of its bytes
    needs: tuple[str, ...]
    inputs: dict[str, str | Hash]
    files: dict[str, str] = {}  # each path in its header, and a hash of what is there


class CheckDescription(_Value):
    script: str  # hash of its bytes
    inputs: dict[str, str | Hash] = {}


class Description(_Value):
    """The inputs of a plan's digests, in a form that people can read.

    `base` are the stages of the recipe whose image is the base image, and of its own base. The
    digests do not cover them, because they cover the base image's id.
    """

    base_image_id: str
    base_image_name: str
    disk_gb: int
    lib: str  # hash of lib.sh
    stages: dict[str, StageDescription]
    checks: dict[str, CheckDescription] = {}
    base: dict[str, StageDescription] = {}

    @property
    def installed(self) -> dict[str, StageDescription]:
        """All stages whose results are in the image."""
        return self.base | self.stages


def describe(
    plan: Plan,
    *,
    base_image_name: str = "",
    base_tags: Mapping[str, str] = MappingProxyType({}),
    room: int = MOST_PIECES,
) -> dict[str, str]:
    """Return the description as tags; empty if even the shortest description does not fit.

    `base_tags` are the tags of the base image. `room` is the number of tags that the image has left
    for the description.
    """
    base = read(base_tags)
    for kept in _KEPT:
        described = description(plan, base_image_name, kept=kept)
        if base:
            shorter = {name: _shortened(stage, kept) for name, stage in base.installed.items()}
            described = described.model_copy(update={"base": shorter})
        text = _pack(described)
        if len(text) <= min(room, MOST_PIECES) * LONGEST_VALUE:
            starts = range(0, len(text), LONGEST_VALUE)
            return {f"{PLAN_KEY}{n}": text[i : i + LONGEST_VALUE] for n, i in enumerate(starts)}
    return {}


def read(tags: Mapping[str, str]) -> Description | None:
    """Read the tags that `describe` wrote; None if they are missing, incomplete or changed."""
    pieces: list[str] = []
    while piece := tags.get(f"{PLAN_KEY}{len(pieces)}"):
        pieces.append(piece)
    try:
        # zlib's checksum detects a change by hand.
        packed = base64.b64decode("".join(pieces), validate=True)
        return Description.model_validate_json(zlib.decompress(packed))
    except (ValueError, zlib.error):
        return None


def installed_stages(tags: Mapping[str, str]) -> frozenset[str]:
    """Return the stages whose results are in an image, also those of its base, by its tags."""
    described = read(tags)
    return frozenset(described.installed if described else ())


def is_same(described: str | Hash, value: str) -> bool:
    """Tell whether a value is the described one, which may be given as a hash."""
    if isinstance(described, Hash):
        return described.hash == short_hash(value.encode())
    return described == value


def description(plan: Plan, base_image_name: str = "", *, kept: int = _KEPT[0]) -> Description:
    """Describe a plan; values longer than `kept` characters become a hash."""

    def shortened(inputs: Mapping[str, str]) -> dict[str, str | Hash]:
        return {name: _kept(_masked(value), kept) for name, value in inputs.items()}

    return Description(
        base_image_id=plan.base_image_id,
        base_image_name=base_image_name,
        disk_gb=plan.recipe.builder.disk_gb,
        lib=short_hash(plan.lib),
        stages={
            stage.name: StageDescription(
                script=short_hash(stage.script.body),
                needs=stage.needs,
                inputs=shortened(stage.inputs),
                files={
                    path: files_digest(below(stage.files, path))[:8] for path in stage.script.files
                },
            )
            for stage in plan.stages
        },
        checks={
            check.name: CheckDescription(
                script=short_hash(check.script.body), inputs=shortened(check.inputs)
            )
            for check in plan.checks
        },
    )


def _shortened(stage: StageDescription, kept: int) -> StageDescription:
    inputs = {name: _kept(value, kept) for name, value in stage.inputs.items()}
    return stage.model_copy(update={"inputs": inputs})


def _kept(value: str | Hash, kept: int) -> str | Hash:
    if isinstance(value, Hash) or len(value) <= kept:
        return value
    return Hash(hash=short_hash(value.encode()))


def _masked(value: str) -> str:
    for secret in _SECRETS:
        value = secret.sub(rf"\1{MASK}\2", value)
    return value


def short_hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:8]


def _pack(described: Description) -> str:
    text = described.model_dump_json(exclude_defaults=True)
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()
