"""The sessions that are open on one SSH connection: sshd allows ten at the same time."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

# sshd_config(5), MaxSessions: 10 by default. Two fewer, because sshd frees a session a moment
# after the client has closed it.
MAX_SESSIONS = 8
# A stage or a watcher may keep its session for hours, and may need a short command meanwhile. The
# other sessions are for short commands, so that sessions never wait for each other in a circle.
MAX_LASTING_SESSIONS = 6


class Sessions:
    """The right to open sessions on one connection, shared by all threads that use it."""

    def __init__(self) -> None:
        self._all = threading.BoundedSemaphore(MAX_SESSIONS)
        self._lasting = threading.BoundedSemaphore(MAX_LASTING_SESSIONS)

    def take(self, *, lasting: bool, timeout_s: float) -> Callable[[], None] | None:
        """Wait until a session may be opened, and return the function that gives it back.

        Returns None if no session was free within `timeout_s`. Calling the function again has no
        effect.
        `lasting` is True for a command that ends only on request, or after a long time.
        """
        deadline = time.monotonic() + timeout_s
        taken = contextlib.ExitStack()
        for limit in (self._lasting, self._all) if lasting else (self._all,):
            if not limit.acquire(timeout=max(0.0, deadline - time.monotonic())):
                taken.close()
                return None
            taken.callback(limit.release)
        return taken.close
