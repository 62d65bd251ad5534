"""This computer's clock, set wrong for a test."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import boto3


def put_wrong(session: boto3.Session) -> Callable[[timedelta], None]:
    """Set how far AWS's clock is ahead of this computer's."""
    late = [timedelta()]

    def shift(http_response: Any, **_: Any) -> None:
        http_response.headers["Date"] = format_datetime(datetime.now(UTC) + late[0], usegmt=True)

    session.events.register_first("after-call", shift)
    return lambda wrong: late.__setitem__(0, wrong)
