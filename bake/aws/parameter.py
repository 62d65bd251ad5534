"""Parameters in SSM's Parameter Store: small documents that all runs can read.

Creating and overwriting are separate functions: only creating shows which of several runs was
first, and only creating can set tags (PutParameter refuses tags together with `Overwrite`).
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

# The limit of a standard parameter (PutParameter, `Value`). Advanced parameters cost money.
MOST_CHARACTERS = 4096


@dataclass(frozen=True)
class Parameter:
    """A parameter. `version` starts at 1 and grows with each change; `written_at` is AWS's time."""

    name: str
    version: int
    value: str
    written_at: datetime


def create(cloud: Cloud, name: str, value: str, tags: Tags) -> None:
    """Create a parameter. CloudError with ParameterAlreadyExists if another run has created it."""
    pairs = [{"Key": key, "Value": text} for key, text in tags.items() if _is_allowed(key + text)]
    cloud.ssm("PutParameter", Name=name, Value=value, Type="String", Tier="Standard", Tags=pairs)


def overwrite(cloud: Cloud, name: str, value: str) -> None:
    """Change a parameter. CloudError if it does not exist: without a type, SSM cannot create it."""
    cloud.ssm("PutParameter", Name=name, Value=value, Tier="Standard", Overwrite=True)


def read(cloud: Cloud, name: str) -> Parameter:
    """Return a parameter. CloudError with ParameterNotFound if it does not exist."""
    return _parameter(cloud.ssm("GetParameter", Name=name)["Parameter"])


def list_below(cloud: Cloud, path: str, *, recursive: bool = False) -> list[Parameter]:
    """Return the parameters directly below a path, or with `recursive` all below it.

    A change becomes visible after a moment, as everywhere in AWS.
    """
    request = {"Path": path, "Recursive": recursive}
    return [
        _parameter(each)
        for each in pages(cloud.ssm, "GetParametersByPath", "Parameters", **request)
    ]


def delete(cloud: Cloud, name: str) -> None:
    """Delete a parameter, if it exists.

    AWS requires a pause of 30 s before the name is used again (DeleteParameter).
    """
    try:
        cloud.ssm("DeleteParameter", Name=name)
    except CloudError as error:
        if error.code != "ParameterNotFound":
            raise


def encode(document: dict[str, Any]) -> str:
    """Return JSON in ASCII, without `{{`, which SSM reserves and refuses."""
    return json.dumps(document, separators=(",", ":")).replace("{{", "{\\u007b")


def decode(value: str) -> dict[str, Any]:
    """Return the document that `encode` wrote; an empty one if the value is invalid."""
    try:
        document = files.parse_json(value)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _parameter(found: dict[str, Any]) -> Parameter:
    return Parameter(found["Name"], found["Version"], found["Value"], found["LastModifiedDate"])


def _is_allowed(text: str) -> bool:
    """Return whether SSM allows the text in a tag (TagKey and TagValue in botocore's model)."""
    return all(unicodedata.category(char)[0] in "LNZ" or char in "_.:/=+-@" for char in text)
