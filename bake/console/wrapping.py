"""Lines of whole words for a terminal: an id, a path or a command is never broken."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rich.cells import cell_len

# The first words of what people paste: commands, and a line of OpenSSH's configuration.
_PROGRAMS = (
    *("Include", "invoke", "aws", "ssh", "scp", "ssh-keygen", "chmod", "make", "apt-get", "sudo"),
    *("bake", "podman", "docker", "curl", "pip", "export", "unset", "eval", "timedatectl"),
)
# A command is one piece with its arguments, so that it can be pasted. In a sentence it is in
# backticks, or it begins after a colon, an arrow or a label. It ends with the line or the sentence.
_COMMAND = (
    r"`[^`\n]*`"
    r"|(?:^|(?<=: )|(?<=→ )|(?<=  ))"
    rf"(?:[\w.~/-]*/)?(?:{'|'.join(_PROGRAMS)}) .+?"
    r"(?=\)?\.?$|  |; |\. [A-Z]|\)[ ,]|, (?:or|and|then) )"
)
_FIGURE = r"(?<![\w.])\d[\d.,]* (?:s|min|h|d|GB)(?!\w)"
_PIECE = re.compile(rf"(?:{_COMMAND}|{_FIGURE}|\S)+")
_LABEL = re.compile(r"\s*(?:[·✔✘■!→] |\S+(?: \S+)?  +)?")


def wrapped(line: str, width: int) -> Iterator[tuple[int, int]]:
    """Return the beginning and the end of each part of a line, which fit into `width` columns.

    The parts after the first one are shown after an indent (`hanging`). A piece that is too long
    has a part of its own, because a terminal can show it on several lines without breaking it.
    """
    begin = end = used = 0
    room = width
    for piece in _PIECE.finditer(line):
        more = cell_len(line[end : piece.end()])
        if end > begin and used + more > room and line[begin:end].strip():
            yield begin, end
            begin, used, room = piece.start(), 0, width - hanging(line, width)
            more = cell_len(piece[0])
        used, end = used + more, piece.end()
    yield begin, end


def hanging(line: str, width: int) -> int:
    """Return how many columns the parts of a line are indented, except the first one.

    They are below the text after a mark or a label (`Image    ami-1 …`).
    """
    label = _LABEL.match(line)
    indent = cell_len(label[0]) if label else 0
    return indent if indent <= width // 3 else 0


def wrapped_text(text: str, width: int) -> str:
    """Return a text with lines of whole words."""
    lines = []
    for line in text.split("\n"):
        indent = " " * hanging(line, width)
        for number, (begin, end) in enumerate(wrapped(line, width)):
            lines.append((indent if number else "") + line[begin:end])
    return "\n".join(lines)
