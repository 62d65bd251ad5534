"""AWS's time, as its answers tell it.

A computer whose clock is wrong must neither make things that have expired already, nor take those
of others for expired.
"""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any


class CloudTime:
    """For several threads. Before AWS has answered, it is this computer's time.

    An answer was written at its `Date` (RFC 9110, to the second) or up to a second later, and has
    taken a while to come: so each says that it is now at least so late, and the latest of all that
    is the closest. A time that goes back is never told.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._began: datetime | None = None  # AWS's time when the monotonic clock stood at 0

    def now(self) -> datetime:
        began = self._began
        return datetime.now(UTC) if began is None else began + _monotonic()

    def observe(self, http_response: Any, **_: Any) -> None:
        """For botocore's event `after-call`, which tells of refusals too."""
        try:
            said = parsedate_to_datetime(http_response.headers["Date"])
        except (KeyError, TypeError, ValueError):
            return
        began = said.astimezone(UTC) - _monotonic()
        with self._lock:
            self._began = max(began, self._began or began)


def _monotonic() -> timedelta:
    return timedelta(seconds=time.monotonic())
