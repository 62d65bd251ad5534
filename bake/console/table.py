"""The layout of a table: one line for each row if there is room, else names folded, or records.

Only columns that may be folded are wrapped, at words and hyphens. Ids, addresses, figures and
commands stay in one piece in a terminal of any width.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len

from bake.console.wrapping import wrapped_text

_GAP = "  "
# A part of a name that is longer than any word may be broken after so many characters.
_LONGEST_PART, _PIECE = 24, 12
# Sentences in a column that is narrower are hard to read.
_READABLE = 16
# An AWS id, an instance type, an option, an address or a path has hyphens that must not break it.
_WHOLE = re.compile(r"[a-z]+-[0-9a-f]{8,}|[\w-]+\.\w+|--?\w.*|\S*[/:@]\S*")


@dataclass(frozen=True)
class Table:
    """Columns and rows of text. A cell may have several lines.

    `right` names the columns that are aligned at the right, `fold` those that may be wrapped, and
    `optional` the last ones, which are shown only if there is room.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Collection[str] = ()
    fold: Collection[str] = ()
    optional: int = 0


def lay_out(table: Table, width: int | None) -> Iterator[tuple[str, bool]]:
    """Return lines, and for each one whether it is a heading. `width` is None without a limit.

    Without a limit, each row is one line with all its columns, for programs.
    """
    if width is None:
        whole = [[_one_line(cell) for cell in row] for row in table.rows]
        yield from _grid(table, table.columns, whole)
        return
    columns, rows = _with_room(table, width)
    # Names are broken only if sentences would become narrow otherwise.
    for split, narrowest in ((str.split, _READABLE), (_parts, 1)):
        if widths := _fitted(table, columns, rows, width, split, narrowest):
            folded = [
                ["\n".join(_folded(cell, room)) for cell, room in zip(row, widths, strict=True)]
                for row in rows
            ]
            yield from _grid(table, columns, folded)
            return
    yield from _records(columns, rows, width)


def _one_line(cell: str) -> str:
    return "; ".join(line.strip() for line in cell.split("\n"))


def _with_room(table: Table, width: int) -> tuple[Sequence[str], list[Sequence[str]]]:
    """Return the columns and rows, without the optional columns that do not fit."""
    count = len(table.columns)
    least = count - table.optional
    while count > least and _total(_widths(table.columns, table.rows)[:count]) > width:
        count -= 1
    return table.columns[:count], [row[:count] for row in table.rows]


def _widths(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    return [
        max(cell_len(line) for cell in cells for line in cell.split("\n"))
        for cells in zip(columns, *rows, strict=True)
    ]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _fitted(
    table: Table,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    width: int,
    split: Callable[[str], list[str]],
    narrowest: int,
) -> list[int] | None:
    """Return the width of each column, or None if they do not fit, even folded.

    The widest column that can be folded becomes narrower first, but not narrower than `narrowest`
    and the longest of the parts into which `split` divides its cells.
    """
    widths = _widths(columns, rows)
    least = list(widths)
    for number, column in enumerate(columns):
        if column in table.fold:
            cells = [column, *(row[number] for row in rows)]
            longest = max(cell_len(part) for cell in cells for part in split(cell) or [""])
            least[number] = min(widths[number], max(longest, narrowest))
    while _total(widths) > width:
        spare = [number for number in range(len(widths)) if widths[number] > least[number]]
        if not spare:
            return None
        widths[max(spare, key=lambda number: widths[number])] -= 1
    return widths


def _parts(cell: str) -> list[str]:
    """Return the parts of a cell that cannot be broken; a hyphen ends one."""
    parts: list[str] = []
    for word in cell.split():
        for part in [word] if _WHOLE.fullmatch(word) else re.findall(r"[^-]*-+|[^-]+", word):
            size = _PIECE if len(part) > _LONGEST_PART else len(part)
            parts += [part[begin : begin + size] for begin in range(0, len(part), size)]
    return parts


def _folded(cell: str, room: int) -> list[str]:
    """Return a cell in lines that fit into its column."""
    lines = []
    for line in cell.split("\n"):
        current = ""
        for word in line.split(" "):
            space = " " if current else ""
            for part in [word] if cell_len(word) <= room else _parts(word):
                if current and cell_len(current + space + part) > room:
                    lines.append(current)
                    current, space = "", ""
                current, space = current + space + part, ""
        lines.append(current)
    return lines


def _grid(
    table: Table, columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> Iterator[tuple[str, bool]]:
    widths = _widths(columns, rows)
    for number, row in enumerate([columns, *rows]):
        cells = [cell.split("\n") for cell in row]
        for line in range(max(map(len, cells))):
            texts = [cell[line] if line < len(cell) else "" for cell in cells]
            aligned = [
                _aligned(text, room, right=column in table.right)
                for text, room, column in zip(texts, widths, columns, strict=True)
            ]
            yield _GAP.join(aligned).rstrip(), number == 0


def _aligned(text: str, room: int, *, right: bool) -> str:
    space = " " * (room - cell_len(text))
    return space + text if right else text + space


def _records(
    columns: Sequence[str], rows: Sequence[Sequence[str]], width: int
) -> Iterator[tuple[str, bool]]:
    """Return each row as a heading, its first cell, and a line for each of the other cells."""
    room = max(cell_len(column) for column in columns[1:])
    for row in rows:
        yield _one_line(row[0]), True
        for column, cell in zip(columns[1:], row[1:], strict=True):
            label = f"  {_aligned(column, room, right=False)}  "
            text = wrapped_text(_one_line(cell), max(width - len(label), 8))
            for number, line in enumerate(text.split("\n")):
                yield (label if number == 0 else " " * len(label)) + line, False
