"""Parameters of SSM's Parameter Store: small notes that other runs find; one of many creates one.

Creating and overwriting are kept apart: only the first call says who was first, and only it can
give tags (PutParameter refuses them together with `Overwrite`).
"""

from __future__ import annotations

import json
import unicodedata
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bake import files
from bake.aws.client.session import Cloud, pages
from bake.aws.tags import Tags
from bake.errors import CloudError

# A standard parameter's value (PutParameter, `Value`). More would have to be an advanced one,
# which costs money.
MOST_CHARACTERS = 4096


@dataclass(frozen=True)
class Parameter:
    """`version` is 1 at first, and one higher with each overwriting; `written_at` is AWS's time."""

    name: str
    version: int
    value: str
    written_at: datetime


def create(cloud: Cloud, name: str, value: str, tags: Tags) -> None:
    """CloudError with ParameterAlreadyExists when there is one: only one of many can create it."""
    pairs = [{"Key": key, "Value": text} for key, text in tags.items() if _is_allowed(key + text)]
    cloud.ssm("PutParameter", Name=name, Value=value, Type="String", Tier="Standard", Tags=pairs)


def overwrite(cloud: Cloud, name: str, value: str) -> None:
    """Refused when there is none: without a type, SSM cannot create it by mistake."""
    cloud.ssm("PutParameter", Name=name, Value=value, Tier="Standard", Overwrite=True)


def read(cloud: Cloud, name: str) -> Parameter:
    """CloudError with ParameterNotFound when there is none."""
    return _parameter(cloud.ssm("GetParameter", Name=name)["Parameter"])


def below(cloud: Cloud, path: str, *, recursive: bool = False) -> list[Parameter]:
    """Those right under a path, or all. Each change shows after a moment, as everywhere at AWS."""
    asked = {"Path": path, "Recursive": recursive}
    return [
        _parameter(each) for each in pages(cloud.ssm, "GetParametersByPath", "Parameters", **asked)
    ]


def delete(cloud: Cloud, name: str) -> None:
    """No error when there is none (any more).

    AWS wants 30 s to pass before the name is used again (DeleteParameter).
    """
    try:
        cloud.ssm("DeleteParameter", Name=name)
    except CloudError as error:
        if error.code != "ParameterNotFound":
            raise


def encode(document: dict[str, Any]) -> str:
    """As JSON in ASCII; two opening braces in a row are SSM's own notation, and refused."""
    return json.dumps(document, separators=(",", ":")).replace("{{", "{\\u007b")


def decode(value: str) -> dict[str, Any]:
    """What `encode` wrote; nothing where a hand has made something else of it."""
    try:
        document = files.parse_json(value)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _parameter(answer: dict[str, Any]) -> Parameter:
    return Parameter(answer["Name"], answer["Version"], answer["Value"], answer["LastModifiedDate"])


def _is_allowed(text: str) -> bool:
    """Whether SSM takes it in a tag (botocore's model, TagKey and TagValue): less than EC2 does."""
    return all(unicodedata.category(char)[0] in "LNZ" or char in "_.:/=+-@" for char in text)
