"""`python wrong_clock.py SECONDS PROGRAM [WORD…]`: a Python program where the clock is wrong.

Only the clock of this program is wrong; programs that it starts have the right time.
"""

from __future__ import annotations

import datetime
import runpy
import sys
import time

SECONDS = float(sys.argv[1])
_right_time = time.time
_Right = datetime.datetime


class Wrong(_Right):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Wrong:
        return cls.fromtimestamp(time.time(), tz)

    @classmethod
    def utcnow(cls) -> Wrong:
        return cls.now(datetime.UTC).replace(tzinfo=None)


if __name__ == "__main__":
    time.time = lambda: _right_time() + SECONDS
    datetime.datetime = Wrong  # type: ignore[misc]
    sys.argv = sys.argv[2:]
    runpy.run_path(sys.argv[0], run_name="__main__")
