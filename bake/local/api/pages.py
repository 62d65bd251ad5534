"""Pages of a response: MaxResults and NextToken, where moto returns everything at once."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from functools import cache
from typing import Any

import botocore.loaders
from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError


def page(operation: str, parameters: Mapping[str, Any], result: ActionResult) -> ActionResult:
    """Return the part of a result that a request asks for, and the token of the next part."""
    size, token = parameters.get("MaxResults"), parameters.get("NextToken")
    name = _paginated().get(operation)
    content = result.result
    if name is None or not isinstance(content, dict) or "NextToken" in content:
        return result
    if size is None and not token:
        return result
    everything = list(content[name])
    start = _start(token) if token else 0
    end = len(everything) if size is None else start + int(size)
    rest = {"NextToken": _token(end)} if end < len(everything) else {}
    return ActionResult({**content, name: everything[start:end], **rest})


def _token(position: int) -> str:
    return base64.urlsafe_b64encode(f"from {position}".encode()).decode()


def _start(token: str) -> int:
    try:
        word, _, position = base64.urlsafe_b64decode(token).decode().partition(" ")
        if word == "from":
            return int(position)
    except (binascii.Error, ValueError):
        pass
    raise EC2ClientError("InvalidPaginationToken", f"The token '{token}' is invalid")


@cache
def _paginated() -> dict[str, str]:
    """Return the name of the list in the response of each operation that has pages."""
    model = botocore.loaders.create_loader().load_service_model("ec2", "paginators-1")
    return {
        operation: page["result_key"]
        for operation, page in model["pagination"].items()
        if isinstance(page["result_key"], str) and page.get("output_token") == "NextToken"
    }
