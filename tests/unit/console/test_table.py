"""Tables fold names and never ids, become records in a narrow terminal, and are flat in a pipe."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bake.console.table import Table, lay_out

ID = "ami-0123456789abcdef0"
IMAGES = Table(
    ["image", "recipe", "GB", "why", "name"],
    [
        [ID, "mxnet-cu118-debian12", "64", "kept (one of the 3 newest)", "bake/one/1"],
        [ID, "mxnet-cu101", "1024", "in use\nprotected", "bake/two/2"],
    ],
    right=["GB"],
    fold=["recipe", "why"],
    optional=1,
)


def lines(table: Table, width: int | None) -> list[str]:
    return [line for line, _ in lay_out(table, width)]


def test_without_a_terminal_each_row_is_one_line_with_all_columns() -> None:
    assert lines(IMAGES, None) == [
        "image                  recipe                  GB  why                         name",
        f"{ID}  mxnet-cu118-debian12    64  kept (one of the 3 newest)  bake/one/1",
        f"{ID}  mxnet-cu101           1024  in use; protected           bake/two/2",
    ]


def test_optional_columns_are_shown_where_they_fit() -> None:
    assert lines(IMAGES, 100)[1].endswith("bake/one/1")
    assert lines(IMAGES, 80)[0].split() == ["image", "recipe", "GB", "why"]


def test_the_widest_name_is_folded_first_at_a_hyphen_or_between_words() -> None:
    assert lines(IMAGES, 60) == [
        "image                  recipe          GB  why",
        f"{ID}  mxnet-cu118-    64  kept (one of",
        "                       debian12            the 3 newest)",
        f"{ID}  mxnet-cu101   1024  in use",
        "                                           protected",
    ]


@pytest.mark.parametrize("width", [40, 20])
def test_in_a_narrow_terminal_each_row_is_a_record(width: int) -> None:
    shown = lines(IMAGES, width)
    assert shown[0] == ID
    assert "  recipe  mxnet-cu118-debian12" in shown
    assert [line for line, heading in lay_out(IMAGES, width) if heading] == [ID, ID]


def test_a_long_name_without_hyphens_is_folded_too() -> None:
    table = Table(["machine", "id"], [["x" * 60, "i-1"]], fold=["machine"])
    assert max(map(len, lines(table, 40))) <= 40
    assert "".join(line.split()[0] for line in lines(table, 40)[1:]) == "x" * 60


@given(
    rows=st.lists(
        st.lists(st.text(alphabet="abc- .\n日", max_size=30), min_size=3, max_size=3), max_size=4
    ),
    width=st.integers(10, 120),
)
def test_no_text_is_lost_at_any_width(rows: list[list[str]], width: int) -> None:
    table = Table(["a", "b", "c"], rows, fold=["a", "b"])
    for columns in (width, None):
        shown = "".join("".join(lines(table, columns)).split())
        for letter in "日.":
            assert shown.count(letter) == sum(cell.count(letter) for row in rows for cell in row)
