"""TODO docstring."""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from bake.plan.plan import Plan

# EC2 User Guide, "Tag your Amazon EC2 resources": a value has up to 256 characters, of which
# those of base64 are always allowed; a resource has up to 50 tags, most of which are needed else.
LONGEST_VALUE = 256


MOST_PIECES = 6


# What the tags' keys begin with, as aws/tags.py has it: the description's, and the digests'.
PLAN_KEY = "bake:plan:"


# How much of an input's value is kept, tried in this order until all of them fit into the tags.
_KEPT = (2000, 800, 400, 200, 120, 80, 60, 40, 20, 0)


# Of a URL: user and password, and what stands behind its question mark.
_SECRETS = (re.compile(r"(://)[^\s/]+(@)"), re.compile(r"(://[^\s?#]*\?)[^\s#]+()"))


_MASK = "***"


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True)


class Hash(_Value):
    """In place of a value that is too long."""

    hash: str


class StageDescription(_Value):
    script: str  # hash of its bytes
    needs: tuple[str, ...]
    inputs: dict[str, str | Hash]


class Description(_Value):
    """What a plan's digests are over, for people."""

    base_image_id: str
    base_image_name: str
    disk_gb: int
    lib: str  # hash of lib.sh
    stages: dict[str, StageDescription]


def describe(
    plan: Plan, *, base_image_name: str = "", room: int = MOST_PIECES, key: str = PLAN_KEY
) -> dict[str, str]:
    """The tags `key` + 0 … 5. Empty for a plan so large that no description fits.

    `room` is how many tags the image has left for it.
    """
    for kept in _KEPT:
        text = _pack(description(plan, base_image_name, kept=kept))
        if len(text) <= min(room, MOST_PIECES) * LONGEST_VALUE:
            starts = range(0, len(text), LONGEST_VALUE)
            return {f"{key}{n}": text[i : i + LONGEST_VALUE] for n, i in enumerate(starts)}
    return {}


def read(tags: Mapping[str, str], *, key: str = PLAN_KEY) -> Description | None:
    """What `describe` wrote; None where it is not there, cut, changed by hand or not understood."""
    pieces: list[str] = []
    while piece := tags.get(f"{key}{len(pieces)}"):
        pieces.append(piece)
    try:
        # zlib's checksum is what shows a change by hand.
        packed = base64.b64decode("".join(pieces), validate=True)
        return Description.model_validate_json(zlib.decompress(packed))
    except (ValueError, zlib.error):
        return None


def is_same(told: str | Hash, value: str) -> bool:
    """Whether that is what was described; it may be there as a hash alone."""
    return told.hash == _hash(value.encode()) if isinstance(told, Hash) else told == value


def description(plan: Plan, base_image_name: str = "", *, kept: int = _KEPT[0]) -> Description:
    """Values longer than `kept` are there as a hash."""
    return Description(
        base_image_id=plan.base_image_id,
        base_image_name=base_image_name,
        disk_gb=plan.recipe.builder.disk_gb,
        lib=_hash(plan.lib),
        stages={
            stage.name: StageDescription(
                script=_hash(stage.script.body),
                needs=stage.needs,
                inputs={
                    name: masked if len(masked) <= kept else Hash(hash=_hash(masked.encode()))
                    for name, masked in ((n, _masked(v)) for n, v in stage.inputs.items())
                },
            )
            for stage in plan.stages
        },
    )


def _masked(value: str) -> str:
    for secret in _SECRETS:
        value = secret.sub(rf"\1{_MASK}\2", value)
    return value


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:8]


def _pack(described: Description) -> str:
    return base64.b64encode(zlib.compress(described.model_dump_json().encode(), 9)).decode()
