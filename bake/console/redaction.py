"""Takes secrets out of text: in the forms in which programs print them, however a stream is cut.

Line ends are not looked at, so that a value is found where it was folded: `base64` breaks its
output after 76 characters. What is found becomes ***, and everything else stays as it is.
"""

from __future__ import annotations

import base64
import html
import json
import math
import shlex
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus

SHORTEST = 8  # of what is looked for, in characters: anything shorter stands everywhere

_STARS = b"***"
_LINE_ENDS = b"\r\n"
_SPECIAL = " \t'\"\\|&;()<>!{}*[]?^$`,"
_ESCAPED = {7: "a", 8: "b", 9: "t", 10: "n", 11: "v", 12: "f", 13: "r", 27: "E", 39: "'", 92: "\\"}


def parts(value: str) -> set[str]:
    """What may be printed of a secret: all of it, each line, and each text in it if it is JSON."""
    found = {value, *(line.strip() for line in value.splitlines())}
    try:
        document = json.loads(value)
    except (ValueError, RecursionError):
        document = None
    for text in _texts(document):
        found.update((text, *(line.strip() for line in text.splitlines())))
    return {part for part in found if len(part) >= SHORTEST}


def appearances(text: str) -> set[bytes]:
    """The text as it is and as programs write it: base64 (also amid other bytes), hex, URLs, JSON,
    HTML, Python, and the shell's ways to quote. Without line ends."""
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
        # Of what is encoded together with other bytes, only whole characters are the secret's own.
        encoded = base64.b64encode(bytes(shift) + raw)
        own = encoded[math.ceil(shift * 8 / 6) : (shift + len(raw)) * 8 // 6]
        yield own
        yield own.translate(bytes.maketrans(b"+/", b"-_"))


def _lower_hex(quoted: str) -> str:
    head, *rest = quoted.split("%")
    return "%".join([head, *(each[:2].lower() + each[2:] for each in rest)])


def _backslashed(text: str) -> str:
    """As bash's `printf %q`, for a text without control characters."""
    quoted = "".join(f"\\{char}" if char in _SPECIAL else char for char in text)
    return f"\\{quoted}" if text.startswith(("#", "~")) else quoted


class Redactor:
    """Takes the pieces of a stream; what may be a secret's beginning waits for the next one."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        found = {form for secret in secrets for part in parts(secret) for form in appearances(part)}
        self._forms = sorted(found)
        self._beginnings = {form[:length] for form in found for length in range(1, SHORTEST)}
        self._held = b""
        # So many bytes of what is held, line ends apart, belong to what has become *** already.
        self._gone = 0

    def feed(self, data: bytes) -> bytes:
        return self._take(data, last=False) if self._forms else data

    def finish(self) -> bytes:
        """The rest; a secret that is cut off by the end of the stream is taken out, too."""
        return self._take(b"", last=True)

    def redact(self, text: str) -> str:
        """A text that is whole."""
        other = Redactor()
        other._forms, other._beginnings = self._forms, self._beginnings
        data = text.encode("utf-8", "surrogateescape")
        return (other.feed(data) + other.finish()).decode("utf-8", "replace")

    def _take(self, data: bytes, *, last: bool) -> bytes:
        buffer = self._held + data
        flat = buffer.translate(None, _LINE_ENDS)
        spans = list(self._spans(flat))
        cut = begun = self._begun(flat)
        if last:
            cut = len(flat)
            if cut - begun >= SHORTEST:
                spans.append((begun, cut))
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

    def _begun(self, flat: bytes) -> int:
        """Where the first form begins of which the end may still come; the length if none does."""
        size = first = len(flat)
        for form in self._forms:
            begin = flat.find(form[:SHORTEST], max(0, size - len(form) + 1))
            while 0 <= begin < first:
                if form.startswith(flat[begin:]):
                    first = begin
                begin = flat.find(form[:SHORTEST], begin + 1)
        for length in range(min(SHORTEST - 1, size), 0, -1):
            if flat[size - length :] in self._beginnings:
                return min(first, size - length)
        return first


class _Places:
    """Where the bytes that are no line ends stand in a buffer; its length, for the one after."""

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
    """Those that overlap as one, in order; empty ones are none."""
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(span for span in spans if span[0] < span[1]):
        if merged and begin < merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((begin, end))
    return merged
