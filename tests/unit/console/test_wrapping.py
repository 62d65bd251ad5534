"""Lines for a terminal break between words; ids, paths and commands stay in one piece."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from bake.console.wrapping import wrapped_text
from tests.support.hostile import texts


def lines(text: str, width: int) -> list[str]:
    return wrapped_text(text, width).split("\n")


def test_a_sentence_breaks_between_words() -> None:
    text = "The machine i-0123456789abcdef0 was shut down by its spot-market owner"
    assert lines(text, 30) == [
        "The machine",
        "i-0123456789abcdef0 was shut",
        "down by its spot-market owner",
    ]


@pytest.mark.parametrize(
    "command",
    [
        "invoke terminate lab1 --yes --local",
        ".venv/bin/invoke launch-from-ami --local --ami ami-0123456789abcdef0",
        "/opt/a/bin/invoke plan mxnet-cu101",
        "aws ec2 describe-regions --all-regions",
        "chmod 400 /home/me/.ssh/bake-20261121-013000-abcdef",
        'eval "$(invoke local.env)"',
    ],
)
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("→ Nothing was done. To confirm: ", ""),
        ("→ To confirm: ", "; or leave it out, if that is what you want"),
        ("→ To confirm: ", ". It asks before it does anything"),
        ("The recipe is left out (2 more: ", ") and the others are read"),
        ("Run `", "` first, and repeat this command"),
        ("Launch   ", ""),
        ("→ ", ""),
        ("", ""),
        ("    ", ""),
    ],
)
def test_a_command_is_never_broken(before: str, command: str, after: str) -> None:
    for width in (80, 40, 20):
        text = wrapped_text(f"{before}{command}{after}", width)
        assert command in text
        assert " ".join(text.split()) == " ".join(f"{before}{command}{after}".split())


def test_what_follows_a_mark_or_a_label_is_below_its_text() -> None:
    assert lines("✘ The image could not be made because of the disk", 30) == [
        "✘ The image could not be made",
        "  because of the disk",
    ]
    assert lines("Image    ami-0123456789abcdef0  bake/mxnet-cu101/20261121", 40) == [
        "Image    ami-0123456789abcdef0",
        "         bake/mxnet-cu101/20261121",
    ]
    assert lines("  waiting for the lease of another run", 24) == [
        "  waiting for the lease",
        "  of another run",
    ]


def test_a_path_that_is_longer_than_the_terminal_has_a_line_of_its_own() -> None:
    path = "/home/me/" + "x" * 60
    assert lines(f"The report is {path}", 40) == ["The report is", path]


def test_wide_characters_count_as_two_columns() -> None:
    assert lines("日本語 日本語", 12) == ["日本語", "日本語"]


@given(text=texts, width=st.integers(20, 100))
def test_nothing_is_lost_and_no_line_is_too_long_if_its_words_are_not(
    text: str, width: int
) -> None:
    text = text.replace("`", "'")
    shown = wrapped_text(text, width)
    assert shown.split() == text.split()
    if all(cell_len(word) < width // 2 for word in text.split()) and ": " not in text:
        assert all(cell_len(line.strip()) <= width for line in shown.split("\n"))


def test_a_figure_stays_with_its_unit() -> None:
    assert lines("✔ Stand-in upstreams  12 min 05 s  64 GB", 28) == [
        "✔ Stand-in upstreams  12 min",
        "  05 s  64 GB",
    ]
    assert lines("✔ Stand-in upstreams  4.2 s", 25) == ["✔ Stand-in upstreams", "  4.2 s"]
