"""JSON that machines, AWS and people have written."""

from __future__ import annotations

import json
from typing import Any


def read(text: str) -> Any:
    """ValueError for whatever is no JSON, also for what is nested without end."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
