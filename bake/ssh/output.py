"""The output of a stage as it arrives: bytes are written to the log, lines are shown to people.

Secrets are removed from both.
"""

from __future__ import annotations

import codecs
import re
from collections import deque
from collections.abc import Callable
from typing import BinaryIO

from bake.console.redaction import Redactor

_KEPT_LINES = 20
_LONGEST_LINE = 4096  # a longer line is shown in pieces
_ENDED = re.compile(r"([\r\n])")
# Escape sequences (colours, cursor, title) and control characters: a terminal would obey them.
_UNPRINTABLE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-_]"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)


class Output:
    """The receiver of a stage's output, which arrives in pieces of any size.

    `size` counts the received bytes; `last_lines` are shown in an error. For `on_line` a carriage
    return ends a line, so that a progress bar moves. `last_lines` keep only the bar's last state,
    as a terminal does.
    """

    def __init__(
        self,
        log: BinaryIO,
        on_line: Callable[[str], None] | None = None,
        redactor: Redactor | None = None,
    ) -> None:
        self.size = 0
        self._redactor = redactor or Redactor()
        self._log = log
        self._on_line = on_line
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._open_line = ""
        self._overwritten = ""
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)

    def write(self, data: bytes) -> None:
        self.size += len(data)
        self._write_redacted(self._redactor.feed(data))

    def finish(self) -> None:
        """Handle the last line, which may have no line end."""
        self._write_redacted(self._redactor.finish())
        self._split(self._decoder.decode(b"", final=True) + "\n")

    @property
    def last_lines(self) -> tuple[str, ...]:
        return tuple(self._lines)

    def _write_redacted(self, data: bytes) -> None:
        self._log.write(data)
        self._log.flush()
        self._split(self._decoder.decode(data))

    def _split(self, text: str) -> None:
        *ended, rest = _ENDED.split(self._open_line + text)
        for line, end in zip(ended[::2], ended[1::2], strict=True):
            self._show(line, done=end == "\n")
        while len(rest) > _LONGEST_LINE:
            self._show(rest[:_LONGEST_LINE], done=True)
            rest = rest[_LONGEST_LINE:]
        self._open_line = rest

    def _show(self, raw: str, *, done: bool) -> None:
        line = _UNPRINTABLE.sub("", raw).rstrip()
        if line and self._on_line is not None:
            self._on_line(line)
        self._overwritten = line or self._overwritten
        if done:
            if self._overwritten:
                self._lines.append(self._overwritten)
            self._overwritten = ""
