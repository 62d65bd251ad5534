"""Secrets are redacted in every form in which programs print them; other text stays the same."""

from __future__ import annotations

import base64
import html
import json
import re
import shlex
import subprocess
import time
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bake.console.redaction import Redactor, parts

SECRET = "k7#Q p/+w%\"'\\x$Zé-9"
KEY = "-----BEGIN X-----\n" + "\n".join(c * 3 + "9876543210+/AbC" for c in "abc") + "\n--END X--\n"


def redacted(data: bytes, *secrets: str, piece: int = 0) -> bytes:
    redactor = Redactor(secrets)
    pieces = [data[at : at + piece] for at in range(0, len(data), piece)] if piece else [data]
    return b"".join(map(redactor.feed, pieces)) + redactor.finish()


def by_bash(script: str) -> str:
    run = subprocess.run(
        ["bash", "-c", script, "bash", SECRET], capture_output=True, text=True, check=True
    )
    return run.stdout + run.stderr


FORMS = {
    "itself": SECRET,
    "base64": base64.b64encode(SECRET.encode()).decode(),
    "base64, with its line end": base64.encodebytes(SECRET.encode() + b"\n").decode().strip(),
    "base64 for URLs": base64.urlsafe_b64encode(SECRET.encode()).decode(),
    "hex": SECRET.encode().hex(),
    "HEX": SECRET.encode().hex().upper(),
    "URL": quote(SECRET, safe=""),
    "URL's path": quote(SECRET),
    "form": quote_plus(SECRET),
    "url, small letters": re.sub("%..", lambda match: match[0].lower(), quote(SECRET)),
    "JSON": json.dumps(SECRET)[1:-1],
    "JSON, not ASCII": json.dumps(SECRET, ensure_ascii=False)[1:-1],
    "HTML": html.escape(SECRET),
    "Python": repr(SECRET)[1:-1],
    "Python's bytes": repr(SECRET.encode())[2:-1],
    "quoted for a shell": shlex.quote(SECRET)[1:-1],
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("piece", [0, 1, 5])
def test_every_form_is_redacted(form: str, piece: int) -> None:
    said = redacted(f"before [{form}] after\n".encode(), SECRET, piece=piece).decode()
    assert "***" in said
    assert said.startswith("before [")
    assert said.endswith("] after\n")
    assert len(said) <= len("before [***] after\n") + 4  # base64's last, mixed character


@pytest.mark.parametrize(
    "script",
    ['set -x; : "$1"', "printf '%q' \"$1\"", "X=$1; declare -p X", "printf '%s' \"$1\" | base64"],
)
def test_output_of_bash_is_redacted(script: str) -> None:
    said = by_bash(script)
    assert "***" in redacted(said.encode(), SECRET).decode()
    for length in range(6, len(SECRET)):
        assert SECRET[:length] not in redacted(said.encode(), SECRET).decode()


@given(st.binary(max_size=7), st.binary(max_size=7), st.integers(20, 90))
def test_base64_is_redacted_inside_other_bytes_and_wrapped_anywhere(
    before: bytes, after: bytes, width: int
) -> None:
    value = "V4lue-0f-a-t0ken-that-1s-longer-than-one-line-of-what-base64-prints-usually"
    encoded = base64.b64encode(before + value.encode() + after)
    folded = b"\n".join(encoded[at : at + width] for at in range(0, len(encoded), width))
    said = redacted(folded, value, piece=13)
    assert said.count(b"***") == 1
    # What is left is what stood before and after, and a character that each shares with the value.
    assert len(said.replace(b"\n", b"")) <= 3 + 4 * 2 + 12 + 2


def test_lines_of_a_long_secret_and_texts_of_a_document_are_redacted() -> None:
    for line in KEY.splitlines():
        assert redacted(b"x " + line.encode() + b" y", KEY) == b"x *** y"
    document = json.dumps({"user": "somebody-1", "keys": [{"private": KEY}], "port": 1234567890})
    assert redacted(b"somebody-1 user 1234567890", document) == b"*** user 1234567890"
    assert redacted(KEY.encode(), document) == b"***\n"
    assert parts("a\nb\nlonger than 8\n") == {"a\nb\nlonger than 8\n", "longer than 8"}


def test_without_secrets_every_byte_is_passed_on_at_once() -> None:
    redactor = Redactor()
    assert redactor.feed(b"\x00\xff\r\n") == b"\x00\xff\r\n"
    assert redactor.finish() == b""


def test_only_a_possible_beginning_of_a_secret_waits() -> None:
    redactor = Redactor(["password-1"])
    assert redactor.feed(b"a line\nand p") == b"a line\nand "
    assert redactor.feed(b"as") == b""
    assert redactor.feed(b"t\n") == b"past\n"
    assert redactor.feed(b"password-") == b""
    assert redactor.feed(b"1!") == b"***!"


@pytest.mark.parametrize(("cut", "left"), [("pass", b"pass"), ("password", b"***")])
def test_a_secret_that_the_end_cuts_off_is_redacted_if_it_is_long_enough(
    cut: str, left: bytes
) -> None:
    assert redacted(b"x " + cut.encode(), "password-1") == b"x " + left


SMALL = st.text(alphabet="ab\n", min_size=8, max_size=14)


@given(
    st.lists(SMALL, min_size=1, max_size=3), st.text(alphabet="ab\nc", max_size=80),
    st.integers(1, 9),
)  # fmt: skip
def test_the_result_does_not_depend_on_how_a_stream_is_cut(
    secrets: list[str], text: str, piece: int
) -> None:
    whole = redacted(text.encode(), *secrets)
    assert redacted(text.encode(), *secrets, piece=piece) == whole
    flat = whole.replace(b"\n", b"").decode()
    for part in {part for secret in secrets for part in parts(secret)}:
        if len(part.replace("\n", "")) >= 8:
            assert part.replace("\n", "") not in flat


def test_a_stream_of_beginnings_is_not_kept_in_memory() -> None:
    redactor = Redactor(["abababab", "abababac"])
    for _ in range(1000):
        redactor.feed(b"ab" * 50)
        assert len(redactor._held) < 100


def test_the_longest_secret_in_a_long_log_is_fast() -> None:
    # 64 kB in 1000 lines, and 700 kB of output in small pieces.
    key = "\n".join(f"{number:04}" + "x1Y2z3/+" * 7 for number in range(1000))
    redactor = Redactor([key])
    piece = b"Collecting something==1.2.3 from a mirror, and telling of it in a line\n" * 50
    began = time.process_time()
    for _ in range(200):
        assert redactor.feed(piece) == piece
    assert time.process_time() - began < 20
