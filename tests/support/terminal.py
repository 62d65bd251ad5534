"""Programs in a real terminal: a pty, and an emulator of the screen that a person would see.

with Terminal(["terminate", "lab1"], columns=40) as terminal:
    terminal.wait_for("[y/N]")
    terminal.type("y\\n")
    assert terminal.wait_until_ended() == 0
    print(terminal.screen)
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from types import TracebackType
from typing import Self
from unittest import mock

import pexpect
import pyte
from rich.cells import cell_len

from tests.support.environment import REPOSITORY

INVOKE = str(Path(sys.executable).with_name("invoke"))
CTRL_C, CTRL_D, TAB = "\x03", "\x04", "\t"
# What a test of another width or without colours would have set, and what a terminal sets itself.
_OF_TERMINALS = ("COLUMNS", "LINES", "TERM", "NO_COLOR", "FORCE_COLOR")
_CONTROL_SEQUENCE = re.compile(r"\x1b(?:\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07|[=>()][0-9A-B]?)")


class Terminal:
    """A program in a terminal of the given size; by default `invoke` with the words.

    stdin, stdout and stderr are the terminal. Its output is read whenever a method waits.
    """

    def __init__(
        self,
        words: Sequence[str] = (),
        *,
        program: str = INVOKE,
        columns: int = 80,
        rows: int = 24,
        environment: Mapping[str, str] | None = None,
        folder: Path = REPOSITORY,
        timeout_s: float = 30,
    ) -> None:
        self.columns = columns
        self.timeout_s = timeout_s
        self.written = ""
        self._emulator = pyte.HistoryScreen(columns, rows, history=10_000)
        self._stream = pyte.Stream(self._emulator)
        inherited = {key: each for key, each in os.environ.items() if key not in _OF_TERMINALS}
        self._child = pexpect.spawn(
            program,
            list(words),
            cwd=str(folder),
            env={**inherited, "TERM": "xterm-256color", **(environment or {})},
            dimensions=(rows, columns),
            encoding="utf-8",
            codec_errors="replace",
            timeout=timeout_s,
        )
        self._child.delaybeforesend = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._child.close(force=True)

    # What a person does ------------------------------------------------------------------------

    def type(self, keys: str) -> None:
        """Type keys: text, `\\n`, CTRL_C, TAB."""
        self._child.send(keys)

    def wait_for(self, text: str | Callable[[], bool]) -> None:
        """Wait until the screen shows the text, or until a condition holds."""
        seen = text if callable(text) else lambda: text in self.text
        deadline = time.monotonic() + self.timeout_s
        while not seen():
            alive = self._read()
            if not seen() and (not alive or time.monotonic() > deadline):
                raise AssertionError(f"{text} was not shown, but:\n{self.text}")

    def wait_until_ended(self) -> int:
        """Wait until the program has ended, and return its exit code."""
        deadline = time.monotonic() + self.timeout_s
        while self._read():
            assert time.monotonic() < deadline, f"it has not ended, and shows:\n{self.text}"
        self._child.close()
        if self._child.signalstatus is not None:
            return -int(self._child.signalstatus)
        return int(self._child.exitstatus or 0)

    def _read(self) -> bool:
        """Read what the program writes in a moment. Return False once it has ended."""
        try:
            part = self._child.read_nonblocking(65536, timeout=0.1)
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False
        self.written += part
        self._stream.feed(part)
        return True

    # What a person sees ------------------------------------------------------------------------

    @property
    def screen(self) -> list[str]:
        """The lines on the screen, with those that have scrolled away, as a person sees them."""
        above = [
            "".join(line[column].data for column in range(self.columns))
            for line in self._emulator.history.top
        ]
        lines = [line.rstrip() for line in [*above, *self._emulator.display]]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    @property
    def text(self) -> str:
        """What the screen shows, as one text."""
        return "\n".join(self.screen)

    @property
    def lines(self) -> list[str]:
        """The lines that the program has written, without colours and movements of the cursor.

        A line that is longer than the screen is broken by the terminal, anywhere. Pasted, it is one
        line.
        """
        plain = _CONTROL_SEQUENCE.sub("", self.written).replace("\r\n", "\n")
        return [line.rpartition("\r")[2] for line in plain.splitlines()]

    def broken(self) -> list[str]:
        """Return the lines that are too long for the screen."""
        return [line for line in self.lines if cell_len(line) > self.columns]


class _Screen(StringIO):
    def isatty(self) -> bool:
        return True


def shown_in_terminal(show: Callable[[], object], columns: int = 80) -> str:
    """Return what a function of this process shows where stdout and stderr say they are terminals.

    It is without colours; the result comes before the messages.
    """
    with (
        mock.patch.dict(os.environ, COLUMNS=str(columns), NO_COLOR="1", TERM="xterm"),
        mock.patch.object(sys, "stdout", _Screen()) as out,
        mock.patch.object(sys, "stderr", _Screen()) as err,
    ):
        show()
    return _CONTROL_SEQUENCE.sub("", out.getvalue() + err.getvalue())


def in_terminal(
    *words: str, columns: int = 80, environment: Mapping[str, str] | None = None
) -> tuple[int, Terminal]:
    """Run `invoke WORDS` in a terminal until it ends; return its exit code, and what is shown."""
    with Terminal(words, columns=columns, rows=40, environment=environment) as terminal:
        return terminal.wait_until_ended(), terminal
