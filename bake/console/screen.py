"""The live part of a terminal: one line for each running step, shared by all views of a console."""

from __future__ import annotations

import itertools
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, cast

from rich.console import Console as RichConsole
from rich.console import Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from bake.console.format import duration, duration_about
from bake.console.streams import Stderr, Stdout
from bake.console.text import plain
from bake.errors import BakeError
from bake.threads import in_one_piece

if TYPE_CHECKING:
    from pydantic import BaseModel

_REFRESHES_A_SECOND = 12.5  # as often as the spinner changes
# A terminal shows `^C` behind the last live line. On a line of its own, it would be in the way when
# the live lines are removed, and one of them would stay.
_ROOM_FOR_KEYS = 4


def _without_empty_size() -> dict[str, str]:
    """Return the environment without a size of 0, for which rich would show nothing.

    A terminal of unknown size, for example on a serial line, sets COLUMNS=0.
    """
    sizes = ("COLUMNS", "LINES")
    return {
        name: value
        for name, value in os.environ.items()
        if name not in sizes or re.fullmatch(r"0*[1-9][0-9]*", value)
    }


def _rich_console(stream: Stderr | Stdout) -> RichConsole:
    environment = _without_empty_size()
    columns, lines = _dumb_size(stream, environment)
    return RichConsole(
        file=cast(IO[str], stream),
        highlight=False,
        soft_wrap=True,
        width=columns,
        height=lines,
        _environ=environment,
    )


def _dumb_size(
    stream: Stderr | Stdout, environment: Mapping[str, str]
) -> tuple[int, int] | tuple[None, None]:
    """Return the size of a terminal without movements of the cursor, such as an editor's.

    Rich takes 80 columns for each of them. It finds the size of others.
    """
    if environment.get("TERM", "").lower() in ("dumb", "unknown") and stream.isatty():
        with suppress(OSError, ValueError):
            size = os.get_terminal_size(stream.fileno())
            columns = int(environment.get("COLUMNS", size.columns))
            if columns and size.lines:
                return columns, size.lines
    return None, None


class Screen:
    """The shared part of all views of a console: the terminal, the running steps, and a lock.

    Rich takes its own locks in another order when it refreshes by itself, which can deadlock, and
    printing from several threads tears the live lines. So rich is only used under this lock.
    """

    def __init__(self) -> None:
        self.err = _rich_console(Stderr())
        self.out = _rich_console(Stdout())
        self.lock = threading.RLock()
        self.thread = Innermost()
        self.spinner = Spinner("dots", style="cyan")
        self.numbers = itertools.count()
        self.width = 0
        # The result of the command, for --json: at most one document, and the first error.
        self.answered = False
        self.document: BaseModel | None = None
        self.error: BakeError | None = None
        self.written = False
        self._running: list[Step] = []
        self._live: Live | None = None

    @contextmanager
    def whole(self) -> Iterator[None]:
        """A context for what must reach the terminal whole: from one thread, not interrupted."""
        with self.lock, in_one_piece():
            yield

    def begin(self, step: Step, *, live: bool) -> None:
        with self.whole():
            self._running.append(step)
            if live and self._live is None:
                self._start_live()

    def _start_live(self) -> None:
        # Results are written to stdout itself, which may not be the terminal.
        self._live = Live(
            self, console=self.err, auto_refresh=False, transient=True, redirect_stdout=False
        )
        self._live.start()
        threading.Thread(target=self._refresh, args=(self._live,), daemon=True).start()

    def end(self, step: Step) -> None:
        with self.whole():
            if step in self._running:  # not if it was interrupted before it had begun
                self._running.remove(step)
            if not self._running and self._live is not None:
                self._live.stop()
                self._live = None

    @contextmanager
    def without_live_lines(self) -> Iterator[None]:
        """A context in which no live lines are on the terminal, for a result on stdout."""
        with self.whole():
            live, self._live = self._live, None
            if live is not None:
                live.stop()
            try:
                yield
            finally:
                if live is not None:
                    self._start_live()

    def _refresh(self, live: Live) -> None:
        while True:
            time.sleep(1 / _REFRESHES_A_SECOND)
            with self.lock:
                if self._live is not live:
                    return
                live.refresh()

    def frame(self, now: float) -> Text:
        """Return what the spinner shows at this time."""
        frame = self.spinner.render(now)
        assert isinstance(frame, Text)  # noqa: S101 - a spinner without a text of its own
        return frame

    def __rich__(self) -> RenderableType:
        steps = sorted(self._running, key=lambda step: (step.work.number, step.place))
        lines: list[RenderableType] = []
        for _, of_one in itertools.groupby(steps, key=lambda step: step.work.number):
            lines += (own := list(of_one))
            lines += own[0].work.status_lines()
        room = max(self.err.height - 1, 2)
        if len(lines) > room:
            lines, rest = lines[: room - 1], len(lines) - room + 1
            return Group(*lines, Text(f"… and {rest} more", "dim"))
        return Group(*lines)


@dataclass
class Work:
    """The shared part of one recipe's steps. `unwinding`: it failed and is cleaning up.

    `status` returns the text of a live line below those of the steps.
    """

    screen: Screen
    name: str = ""
    unwinding: bool = False
    status: Callable[[], str] | None = None

    def __post_init__(self) -> None:
        self.number = next(self.screen.numbers)
        self.screen.width = max(self.screen.width, len(self.name))

    @property
    def prefix(self) -> str:
        return f"{self.name:<{self.screen.width}} │ " if self.name else ""

    def status_text(self) -> str:
        return self.status() if self.status and not self.unwinding else ""

    def status_lines(self) -> list[Text]:
        """Return the live line with the status, if there is one."""
        text = self.status_text()
        line = Text(f"{self.prefix}{plain(text)}", "dim", no_wrap=True, overflow="ellipsis")
        line.truncate(self.screen.err.width - _ROOM_FOR_KEYS, overflow="ellipsis")
        return [line] if text else []


@dataclass
class Step:
    """A running step. `update` changes its live line; `done` sets the text of its last line.

    `place` is its number, after the numbers of the steps that it is a part of. `count` is
    its number among other steps, such as `3 of 7`, and `usual_s` its usual duration in seconds.
    """

    title: str
    started: float
    place: tuple[int, ...]
    work: Work
    verbose: Callable[[Step, str], None]
    count: str = ""
    usual_s: float | None = None
    line: str = ""
    summary: str = ""

    @property
    def counted(self) -> str:
        return f"{self.title} ({self.count})" if self.count else self.title

    @property
    def indent(self) -> str:
        return "  " * (len(self.place) - 1)

    def update(self, line: str) -> None:
        self.line = line.strip()
        self.verbose(self, line)

    def done(self, summary: str) -> None:
        self.summary = summary

    def __rich__(self) -> RenderableType:
        now = time.monotonic()
        text = Text.assemble(
            (self.work.prefix, "dim"),
            self.indent,
            self.work.screen.frame(now),
            f" {plain(self.counted)}  ",
            (duration(now - self.started), "dim"),
            (f" of about {duration_about(self.usual_s)}" if self.usual_s else "", "dim"),
            no_wrap=True,
            overflow="ellipsis",
        )
        if self.line:
            text.append(f"  {plain(self.line)}", "dim")
        text.truncate(self.work.screen.err.width - _ROOM_FOR_KEYS, overflow="ellipsis")
        return text


class Innermost(threading.local):
    """The innermost step in which one thread is."""

    step: Step | None = None
