"""Text that comes from anywhere, made safe for a terminal."""

from __future__ import annotations

import os
import re

# Control characters become visible symbols, except newline and tab. The last ones change the
# direction of writing.
_SIGNS = {
    **{code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"},
    **dict.fromkeys([127, *range(128, 160)], 0xFFFD),
    **dict.fromkeys([0x61C, 0x200E, 0x200F], 0xFFFD),
    **dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)], 0xFFFD),
}


def visible(text: str) -> str:
    """Replace control characters by visible ones; the length stays the same.

    They could change what a terminal or a browser shows.
    """
    return text.translate(_SIGNS)


def plain(text: str) -> str:
    """Replace control characters, and in GitHub's log its commands; the length stays the same."""
    text = visible(text)
    if os.environ.get("GITHUB_ACTIONS") == "true":  # a line that begins so is a command
        text = re.sub(r"(?m)^(\s*):(?=:)|#(?=#\[)", lambda found: f"{found[1] or ''}·", text)
    return text
