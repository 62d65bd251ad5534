"""Text that comes from anywhere, made safe for a terminal, and tables that fit into it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from textwrap import wrap

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


def folded(
    columns: Sequence[str], rows: Sequence[list[str]], column: int, width: int
) -> list[list[str]]:
    """Wrap one column if there is not enough room, so that the others need not be wrapped.

    Rich's tables break words that contain hyphens anywhere, and cut off columns in a narrow
    terminal if the other columns must not be wrapped.
    """
    room = max(room_for(columns, rows, column, width), 8)
    return [[*row[:column], "\n".join(wrap(row[column], room)), *row[column + 1 :]] for row in rows]


def room_for(columns: Sequence[str], rows: Sequence[Sequence[str]], column: int, width: int) -> int:
    """Return the width that the other columns leave to one, with two spaces between columns."""
    taken = 0
    for number, cells in enumerate(zip(columns, *rows, strict=True)):
        if number != column:
            taken += 2 + max(len(line) for cell in cells for line in cell.split("\n"))
    return width - taken
