"""Values that may arrive from people or programs where a plain one is expected."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

LONG = 100_000

# What a shell, a terminal, Markdown, YAML, GitHub's log, AWS or Python would make something of.
KNOWN = (
    *("", " ", "'", '"', "\\", "`id`", "$(id)", "${HOME}", "$((1/0))", "; id", "| id", "&& id &"),
    *("> /tmp/x", "*", "~root", "!!", "#", "-rf", "--help", "-oProxyCommand=id", "\t", "EOF"),
    *("a\nb", "a\r\nexport EVIL=1", "'\nid\n'", "\x00", "a\x00b", "\x07", "\x7f", "\x85"),
    *("\x1b[2J\x1b]0;title\x07", "\x9b31m", "\u202eevil", "\u2066", "\u2028", "\ufeff", "\ufffd"),
    *("é", "e\u0301", "日本語", "👩\u200d💻", "\U0010ffff", "٣", "ﬁ", "\u00a0"),
    *("../../etc/passwd", "/", "..", "{{ x }}", "${{ secrets.X }}", "%s%n", "{0}", "{{"),
    *("<script>alert(1)</script>", "[link](http://example.org)", "| a | b |", "@someone #1"),
    *("::set-output name=x::y", "##[set-env name=x]y", "a: &x [*x]", "aws:x", "bake:run"),
    *("null", "NaN", "1e400", "-0", "9" * 5000, "0x" + "f" * 5000, "[" * 5000, "{" * 5000),
    *("9999-99-99T99:99:99Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"),
    *("x" * LONG, "'" * LONG, "é" * (LONG // 2)),
)
SHORT = tuple(text for text in KNOWN if len(text) < 100)

short_texts = st.sampled_from(SHORT) | st.text(max_size=30)
texts = st.one_of(
    st.sampled_from(KNOWN),
    st.text(max_size=60),
    st.lists(short_texts, max_size=4).map("".join),
)
numbers = st.one_of(
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.sampled_from([10**400, -(10**400), 2**63, 2**64]),
)
scalars = texts | numbers | st.booleans()
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(short_texts, inner, max_size=3),
    max_leaves=8,
)


# JSON of anything, and what is nearly JSON: cut off, nested without end, numbers without end.
documents = st.one_of(
    st.recursive(
        short_texts | st.integers() | st.floats() | st.none(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(short_texts, inner, max_size=3),
        max_leaves=8,
    ).map(json.dumps),
    texts,
    st.sampled_from(["[" * 100_000, '{"a":' * 100_000, "9" * 5000, "-", "1e999", '"\\ud800"']),
)


def toml(value: Any) -> str:
    """Return a value as TOML, with all necessary escapes."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return repr(value)
        case list() | tuple():
            return f"[{', '.join(map(toml, value))}]"
        case Mapping():
            pairs = (f"{toml(str(key))} = {toml(each)}" for key, each in value.items())
            return f"{{{', '.join(pairs)}}}"
        case _:
            return f'"{"".join(map(_escaped, str(value)))}"'


def _escaped(character: str) -> str:
    special = character in '"\\' or ord(character) < 32 or 127 <= ord(character) < 160
    return f"\\u{ord(character):04x}" if special else character
