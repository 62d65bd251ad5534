"""AWS's time, read from its responses.

A computer whose clock is wrong must not create resources that have already expired, and must not
treat the resources of others as expired.
"""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any


class CloudTime:
    """AWS's clock, for several threads. Before the first response it is this computer's clock.

    A response was written at its `Date` (RFC 9110, to the second) or up to a second later, and then
    travelled for a while. So it is now at least as late as each response shows, and the latest
    value is the best one. The time never goes back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began: datetime | None = None  # AWS's time when the monotonic clock was 0

    def now(self) -> datetime:
        began = self._began
        return datetime.now(UTC) if began is None else began + _monotonic()

    def observe(self, http_response: Any, **_: Any) -> None:
        """Read the time of a response. It handles botocore's event `after-call`, also on errors."""
        try:
            date = parsedate_to_datetime(http_response.headers["Date"])
        except (KeyError, TypeError, ValueError):
            return
        began = date.astimezone(UTC) - _monotonic()
        with self._lock:
            self._began = max(began, self._began or began)


def _monotonic() -> timedelta:
    return timedelta(seconds=time.monotonic())
