"""Replaces secrets in text by ***, in all forms in which programs print them.

A stream may be cut into pieces anywhere. Line ends are ignored, so that a value is also found if it
was wrapped: `base64` breaks its output after 76 characters. All other text stays the same.
"""

from __future__ import annotations

import base64
import html
import json
import math
import shlex
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus

SHORTEST = 8  # characters of a secret that is replaced: shorter ones occur everywhere

_STARS = b"***"
_LINE_ENDS = b"\r\n"
_SPECIAL = " \t'\"\\|&;()<>!{}*[]?^$`,"
_ESCAPED = {7: "a", 8: "b", 9: "t", 10: "n", 11: "v", 12: "f", 13: "r", 27: "E", 39: "'", 92: "\\"}


def parts(value: str) -> set[str]:
    """Return what may be printed of a secret: all of it, its lines, the texts of its JSON."""
    found = {value, *(line.strip() for line in value.splitlines())}
    try:
        document = json.loads(value)
    except (ValueError, RecursionError):
        document = None
    for text in _texts(document):
        found.update((text, *(line.strip() for line in text.splitlines())))
    return {part for part in found if len(part) >= SHORTEST}


def appearances(text: str) -> set[bytes]:
    """Return the text and its encodings, without line ends.

    These are base64 (also inside other bytes), hex, URLs, JSON, HTML, Python, and shell quoting.
    """
    raw = text.encode("utf-8", "surrogateescape")
    bare = text.encode("utf-8", "replace").decode()
    slashes = "".join(f"\\{char}" if char in '"\\$`' else char for char in text)
    percent = {
        quote(raw, safe=""),
        quote(raw),
        quote_plus(raw),
        quote(raw, safe="!'()*~"),  # as JavaScript's encodeURIComponent
    }
    forms = {
        text,
        raw.hex(),
        raw.hex().upper(),
        *percent,
        *(_lower_hex(form) for form in percent),
        json.dumps(text)[1:-1],
        json.dumps(text, ensure_ascii=False)[1:-1],
        json.dumps(text)[1:-1].replace("/", "\\/"),
        repr(text)[1:-1],
        repr(raw)[2:-1],
        html.escape(bare),
        shlex.quote(text)[1:-1] if shlex.quote(text) != text else text,
        text.replace("'", "'\\''"),  # bash's xtrace
        slashes,  # `declare -p`
        _backslashed(text),
        "".join(f"\\{_ESCAPED[ord(c)]}" if ord(c) in _ESCAPED else c for c in text),  # $'…'
    }
    found = {form.encode("utf-8", "surrogateescape") for form in forms} | set(_base64(raw))
    flat = {form.translate(None, _LINE_ENDS) for form in found}
    return {form for form in flat if len(form) >= SHORTEST}


def _texts(document: object) -> Iterator[str]:
    waiting = [document]
    while waiting:
        match waiting.pop():
            case str() as text:
                yield text
            case list() as several:
                waiting += several
            case dict() as named:
                waiting += named.values()


def _base64(raw: bytes) -> Iterator[bytes]:
    for whole in (raw, raw + b"\n"):
        yield base64.b64encode(whole)
        yield base64.urlsafe_b64encode(whole)
    for shift in range(3):
        # Inside other bytes, the first and the last character also encode bits of the neighbours.
        encoded = base64.b64encode(bytes(shift) + raw)
        own = encoded[math.ceil(shift * 8 / 6) : (shift + len(raw)) * 8 // 6]
        yield own
        yield own.translate(bytes.maketrans(b"+/", b"-_"))


def _lower_hex(quoted: str) -> str:
    head, *rest = quoted.split("%")
    return "%".join([head, *(each[:2].lower() + each[2:] for each in rest)])


def _backslashed(text: str) -> str:
    """Quote like bash's `printf %q`, for a text without control characters."""
    quoted = "".join(f"\\{char}" if char in _SPECIAL else char for char in text)
    return f"\\{quoted}" if text.startswith(("#", "~")) else quoted


class Redactor:
    """Redacts a stream in pieces. A possible beginning of a secret waits for the next piece."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        found = {form for secret in secrets for part in parts(secret) for form in appearances(part)}
        self._forms = sorted(found)
        self._prefixes = {form[:length] for form in found for length in range(1, SHORTEST)}
        self._held = b""
        # The number of held bytes, without line ends, that belong to a secret already shown as ***.
        self._gone = 0

    def feed(self, data: bytes) -> bytes:
        return self._take(data, last=False) if self._forms else data

    def finish(self) -> bytes:
        """Return the rest. A secret that the end of the stream cuts off is redacted, too."""
        return self._take(b"", last=True)

    def redact(self, text: str) -> str:
        """Redact a complete text."""
        other = Redactor()
        other._forms, other._prefixes = self._forms, self._prefixes
        data = text.encode("utf-8", "surrogateescape")
        return (other.feed(data) + other.finish()).decode("utf-8", "replace")

    def _take(self, data: bytes, *, last: bool) -> bytes:
        buffer = self._held + data
        flat = buffer.translate(None, _LINE_ENDS)
        spans = list(self._spans(flat))
        cut = unfinished = self._unfinished(flat)
        if last:
            cut = len(flat)
            if cut - unfinished >= SHORTEST:
                spans.append((unfinished, cut))
        places = _Places(buffer, flat)
        shown = bytearray()
        at = gone = 0
        for begin, end in _merged([(0, self._gone), *spans]):
            is_shown = begin == 0 < self._gone
            if begin >= cut and not is_shown:
                break
            if not is_shown:
                shown += buffer[at : places[begin]] + _STARS
            at = places[min(end, cut) - 1] + 1 if cut else 0
            gone = max(0, end - cut)
        shown += buffer[at : places[cut]]
        self._held, self._gone = buffer[places[cut] :], gone
        return bytes(shown)

    def _spans(self, flat: bytes) -> Iterator[tuple[int, int]]:
        for form in self._forms:
            begin = flat.find(form)
            while begin >= 0:
                yield begin, begin + len(form)
                begin = flat.find(form, begin + 1)

    def _unfinished(self, flat: bytes) -> int:
        """Return the start of the first form that may go on in the next piece, else the length."""
        size = first = len(flat)
        for form in self._forms:
            begin = flat.find(form[:SHORTEST], max(0, size - len(form) + 1))
            while 0 <= begin < first:
                if form.startswith(flat[begin:]):
                    first = begin
                begin = flat.find(form[:SHORTEST], begin + 1)
        for length in range(min(SHORTEST - 1, size), 0, -1):
            if flat[size - length :] in self._prefixes:
                return min(first, size - length)
        return first


class _Places:
    """Maps positions in the text without line ends to positions in the buffer with them."""

    def __init__(self, buffer: bytes, flat: bytes) -> None:
        self._size = len(buffer)
        self._count = len(flat)
        self._places: list[int] | None = None
        self._buffer = buffer

    def __getitem__(self, index: int) -> int:
        if index >= self._count:
            return self._size
        if self._size == self._count:
            return index
        if self._places is None:
            self._places = [at for at, byte in enumerate(self._buffer) if byte not in _LINE_ENDS]
        return self._places[index]


def _merged(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Join spans that overlap, drop empty ones, and sort the result."""
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(span for span in spans if span[0] < span[1]):
        if merged and begin < merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((begin, end))
    return merged
