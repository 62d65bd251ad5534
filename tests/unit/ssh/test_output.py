from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bake.console.redaction import Redactor
from bake.ssh.output import Output


def shown(*pieces: bytes) -> tuple[list[str], tuple[str, ...]]:
    live: list[str] = []
    output = Output(io.BytesIO(), live.append)
    for piece in pieces:
        output.write(piece)
    output.finish()
    return live, output.last_lines


@given(st.lists(st.binary(max_size=300)))
def test_the_log_gets_the_exact_bytes(pieces: list[bytes]) -> None:
    log = io.BytesIO()
    output = Output(log)
    for piece in pieces:
        output.write(piece)
    output.finish()
    assert log.getvalue() == b"".join(pieces)
    assert output.size == len(log.getvalue())


@given(st.text(alphabet="aä€😀\r\n\x1b[1m", max_size=60), st.integers(1, 7))
def test_the_size_of_the_pieces_does_not_change_the_shown_lines(text: str, piece: int) -> None:
    data = text.encode()
    cut = [data[begin : begin + piece] for begin in range(0, len(data), piece)]
    assert shown(*cut) == shown(data)


def test_a_last_line_without_its_end_is_shown() -> None:
    assert shown(b"one\ntw", b"o") == (["one", "two"], ("one", "two"))


def test_a_progress_bar_moves_while_it_runs_and_leaves_its_last_state() -> None:
    live, last = shown(b"get\n\r 10%\r 50%\r100%\r\ndone\n")
    assert live == ["get", " 10%", " 50%", "100%", "done"]
    assert last == ("get", "100%", "done")


def test_control_sequences_are_left_out() -> None:
    live, _ = shown(b"\x1b]0;title\x07\x1b[31mred\x1b[0m \x1b[2Kte\x08xt\xc2\x9b1m\x00\n")
    assert live == ["red text"]


def test_bytes_that_are_not_utf8_are_shown_as_replaced() -> None:
    assert shown(b"caf\xe9\n")[0] == ["caf\ufffd"]


def test_output_without_line_ends_is_shown_in_pieces_and_not_buffered() -> None:
    live, _ = shown(*[b"x" * 1000] * 100)
    assert len(live) > 20
    assert "".join(live) == "x" * 100_000


def test_only_the_last_lines_are_kept() -> None:
    _, last = shown(b"".join(b"%d\n" % number for number in range(100)))
    assert last == tuple(str(number) for number in range(80, 100))


@pytest.mark.parametrize("blank", [b"\n", b"\r\n", b"  \n", b"\x1b[0m\n"])
def test_blank_lines_are_not_shown(blank: bytes) -> None:
    assert shown(b"a\n" + blank + b"b\n")[0] == ["a", "b"]


def test_a_secret_in_any_pieces_is_neither_logged_nor_shown() -> None:
    log, live = io.BytesIO(), list[str]()
    output = Output(log, live.append, Redactor(["first-half\nsecond-half"]))
    for piece in (b"a first-", b"half\nsecon", b"d-half b\nc second", b"-half\rd first-ha"):
        output.write(piece)
    output.finish()
    assert log.getvalue() == b"a *** b\nc ***\rd ***"
    assert live == ["a *** b", "c ***", "d ***"]
    assert output.last_lines == ("a *** b", "d ***")
    assert output.size == len("a first-half\nsecond-half b\nc second-half\rd first-ha")
