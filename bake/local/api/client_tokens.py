"""Client tokens: a request that is repeated with the same token makes nothing twice.

Source: https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-idempotency.html
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from moto.ec2.exceptions import EC2ClientError

_NOT_COMPARED = ("ClientToken", "DryRun")


def fingerprint(request: Mapping[str, Any]) -> str:
    """Return a text that is equal for requests with the same parameters."""
    compared = {name: value for name, value in request.items() if name not in _NOT_COMPARED}
    return json.dumps(compared, sort_keys=True, default=str)


def check_same(token: str, first: str, again: str) -> None:
    """Raise EC2's error if two requests with the same token have different fingerprints."""
    if first != again:
        raise EC2ClientError(
            "IdempotentParameterMismatch",
            f"Arguments on this idempotent request with token '{token}' are inconsistent with "
            "arguments used in previous request(s).",
        )
