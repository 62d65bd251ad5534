"""The console: steps with their duration, live lines, tables, results and failures.

Nothing else prints. Text for people goes to stderr; with `--json`, one document goes to stdout.
Threads may share a console; several bakes share one through its `named` views.
"""

from __future__ import annotations

import copy
import itertools
import json as json_library
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

from rich.console import Console as RichConsole
from rich.console import Group, JustifyMethod, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from bake.console.format import duration
from bake.errors import BakeError, error_document
from bake.threads import Cancelled

_REFRESHES_A_SECOND = 12.5  # as often as the spinner changes

# Control characters become visible symbols, except newline and tab. The last ones change the
# direction of writing.
_SIGNS = {
    **{code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"},
    **dict.fromkeys([127, *range(128, 160)], 0xFFFD),
    **dict.fromkeys([0x61C, 0x200E, 0x200F], 0xFFFD),
    **dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)], 0xFFFD),
}


def visible(text: str) -> str:
    """Replace control characters by visible ones; the length stays the same.

    They could change what a terminal or a browser shows.
    """
    return text.translate(_SIGNS)


def plain(text: str) -> str:
    """Replace control characters, and in GitHub's log its commands; the length stays the same."""
    text = visible(text)
    if os.environ.get("GITHUB_ACTIONS") == "true":  # a line that begins so is a command
        text = re.sub(r"(?m)^(\s*):(?=:)|#(?=#\[)", lambda found: f"{found[1] or ''}·", text)
    return text


class _Screen:
    """The shared part of all views of a console: the terminal, the running steps, and a lock.

    Rich takes its own locks in another order when it refreshes by itself, which can deadlock, and
    printing from several threads tears the live lines. So rich is only used under this lock.
    """

    def __init__(self) -> None:
        self.err = RichConsole(stderr=True, highlight=False, soft_wrap=True)
        self.lock = threading.RLock()
        self.thread = _Thread()
        self.spinner = Spinner("dots", style="cyan")
        self.numbers = itertools.count()
        self.width = 0
        self.answered = False
        self._running: list[Step] = []
        self._live: Live | None = None

    def begin(self, step: Step, *, live: bool) -> None:
        with self.lock:
            self._running.append(step)
            if live and self._live is None:
                self._live = Live(self, console=self.err, auto_refresh=False, transient=True)
                self._live.start()
                threading.Thread(target=self._refresh, args=(self._live,), daemon=True).start()

    def end(self, step: Step) -> None:
        with self.lock:
            self._running.remove(step)
            if not self._running and self._live is not None:
                self._live.stop()
                self._live = None

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
        running = sorted(self._running, key=lambda step: (step.work.number, step.place))
        room = max(self.err.height - 1, 2)
        if len(running) > room:
            running, rest = running[: room - 1], len(running) - room + 1
            return Group(*running, Text(f"… and {rest} more", "dim"))
        return Group(*running)


@dataclass
class _Work:
    """The shared part of one recipe's steps. `unwinding`: it failed and is cleaning up."""

    screen: _Screen
    name: str = ""
    unwinding: bool = False

    def __post_init__(self) -> None:
        self.number = next(self.screen.numbers)
        self.screen.width = max(self.screen.width, len(self.name))

    @property
    def prefix(self) -> str:
        return f"{self.name:<{self.screen.width}} │ " if self.name else ""


@dataclass
class Step:
    """A running step. `update` changes its live line; `done` sets the text of its last line.

    `place` is its number, after the numbers of the steps that it is a part of.
    """

    title: str
    started: float
    place: tuple[int, ...]
    work: _Work
    verbose: Callable[[Step, str], None]
    line: str = ""
    summary: str = ""

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
            f" {plain(self.title)}  ",
            (duration(now - self.started), "dim"),
            no_wrap=True,
            overflow="ellipsis",
        )
        return text.append(f"  {plain(self.line)}", "dim") if self.line else text


class _Thread(threading.local):
    """The innermost step in which one thread is."""

    step: Step | None = None


class Console:
    """Shows the progress, the messages and the result of a command.

    `quiet` shows only warnings, failures and the result; `verbose` shows every line that a stage
    prints; `json` writes the result as one document to stdout.
    """

    def __init__(self, *, json: bool = False, quiet: bool = False, verbose: bool = False) -> None:
        self.json = json
        self.quiet = quiet
        self.verbose = verbose
        self._screen = _Screen()
        self._work = _Work(self._screen)
        self._above: Step | None = None

    # Views ---------------------------------------------------------------------------------

    def named(self, name: str) -> Console:
        """Return a view for one of several recipes: its lines begin with the name.

        After a failure only the lines of its own view are dimmed, not those of a new one.
        """
        view = copy.copy(self)
        view._work = _Work(self._screen, name)
        return view

    def continue_after_failure(self) -> None:
        """End the dimming after a failure: it is cleaned up, and the work continues."""
        self._work.unwinding = False

    def within(self, step: Step) -> Console:
        """Return a view for another thread: its steps are parts of this step."""
        view = copy.copy(self)
        view._above = step
        return view

    # Steps ---------------------------------------------------------------------------------

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """A context that shows a step and its duration.

        An exception marks it as failed; an interrupt or a cancellation marks it as stopped.
        """
        thread = self._screen.thread
        before = thread.step
        above = before or self._above
        place = (*(above.place if above else ()), next(self._screen.numbers))
        step = Step(title, time.monotonic(), place, self._work, self._verbose_line)
        self._begin(step)
        thread.step = step
        try:
            yield step
        except BaseException as error:
            if isinstance(error, Cancelled | KeyboardInterrupt):
                step.done("stopped")
                self._end(step, "■", "yellow")
            else:
                self._end(step, "✘", "red")
            # Cleaning up is dimmed, so that the step that failed stays visible.
            self._work.unwinding = True
            raise
        else:
            self._end(step, "✔", "dim" if self._work.unwinding else "green")
        finally:
            thread.step = before

    def _begin(self, step: Step) -> None:
        on_terminal = self._screen.err.is_terminal
        self._screen.begin(step, live=on_terminal and not self.quiet)
        if not on_terminal and not self.quiet:
            self._print(Text(f"{step.indent}· {step.title} …"))

    def _end(self, step: Step, mark: str, style: str) -> None:
        with self._screen.lock:
            self._screen.end(step)
            if self.quiet:
                return
            elapsed = duration(time.monotonic() - step.started)
            words = f" {step.title}  "
            line = Text.assemble(step.indent, (mark, style), words, (elapsed, "dim"))
            if step.summary:
                line.append(f"  {step.summary}")
            if self._work.unwinding:
                line.stylize("dim")
            self._print(line)

    def _verbose_line(self, step: Step, line: str) -> None:
        if self.verbose and not self.quiet:
            self._print(Text.assemble((f"  {step.title} │ ", "dim"), line.rstrip()))

    @contextmanager
    def waiting(self) -> Iterator[Callable[[str], None]]:
        """A context that gives a function to report waits. Without a report, it shows nothing.

        A reason that is reported again in succession is shown once.
        """
        last = ""
        with ExitStack() as stack:
            step: Step | None = None

            def wait(text: str) -> None:
                nonlocal step, last
                step = step or stack.enter_context(self.step("Waiting"))
                if text != last:
                    last = text
                    self.note(f"  waiting {text}")
                    step.update(text)

            yield wait

    # Messages ------------------------------------------------------------------------------

    def note(self, text: str) -> None:
        """Show a message, wrapped to the width of the terminal; not with `quiet`."""
        if not self.quiet:
            self._print(Text(text), wrap=True)

    def warn(self, text: str) -> None:
        """Show a warning."""
        self._print(Text.assemble(("! ", "yellow"), text))

    @property
    def width(self) -> int:
        """The columns of the terminal; 80 without a terminal."""
        return self._screen.err.width

    def table(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
        *,
        empty: str,
        right: Collection[str] = (),
    ) -> None:
        """Show a table without lines, or `empty` if it has no rows; nothing with `--json`.

        `right` names the columns of numbers, which are aligned at the right.
        """
        if self.json:
            return
        if not rows:
            self._print(Text(empty))
            return
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for column in columns:
            side: JustifyMethod = "right" if column in right else "left"
            table.add_column(column, overflow="fold", justify=side)
        for row in rows:
            table.add_row(*(Text(plain(cell)) for cell in row))
        # A table wraps its own cells to the width of the terminal.
        with self._screen.lock:
            self._screen.err.print(table, soft_wrap=False)

    def result(self, document: Mapping[str, Any] | Sequence[Any], *lines: str) -> None:
        """Show the result of a command: `lines` for people, `document` for `--json`.

        A command calls this, or `output`, once.
        """
        self._answer()
        if self.json:
            self._write_document(document)
        else:
            self.print(*lines)

    def output(self, text: str) -> None:
        """Write the result of a command to stdout, with or without `--json`, for a program."""
        self._answer()
        sys.stdout.write(text if text.endswith("\n") or not text else f"{text}\n")
        sys.stdout.flush()

    def check_answered(self) -> None:
        """Raise a RuntimeError if the command promised a JSON document and has shown no result."""
        if self.json and not self._screen.answered:
            raise RuntimeError("a command with --json must show its result")

    def _answer(self) -> None:
        if self._screen.answered:
            raise RuntimeError("a command must show its result only once")
        self._screen.answered = True

    def _write_document(self, document: object) -> None:
        sys.stdout.write(json_library.dumps(document, indent=2, default=str) + "\n")
        sys.stdout.flush()

    def print(self, *lines: str) -> None:
        """Show lines without wrapping them, so that they can be pasted; nothing with `--json`."""
        for line in lines if not self.json else ():
            self._print(Text(line))

    def failure(self, error: BakeError) -> None:
        """Show what failed, the details, and what to do next.

        With `--json` it is also the document of the command, unless the command has shown its
        result already or the failure is of one of several recipes.
        """
        self._print(Text.assemble(("✘ ", "red"), (error.message, "bold")))
        if error.cloud_words:
            self._print(Text(f"  AWS says: {error.cloud_words}"))
        for detail in error.details:
            for line in detail.splitlines() or [""]:
                self._print(Text(f"  {line}"))
        if error.hint:
            self._print(Text.assemble(("→ ", "cyan"), error.hint))
        if self.json and not self._work.name and not self._screen.answered:
            self._screen.answered = True
            self._write_document({"error": error_document(error)})

    def _print(self, text: Text, *, wrap: bool = False) -> None:
        # Usually not wrapped, because a command must be in one piece to be pasted.
        prefix = self._work.prefix
        text.plain = plain(text.plain)
        with self._screen.lock:
            err = self._screen.err
            if prefix:
                room = max(err.width - len(prefix), 20)
                lines = text.wrap(err, room) if wrap else text.split("\n", allow_blank=True)
                text = Text("\n").join(Text.assemble((prefix, "dim"), line) for line in lines)
            err.print(text, soft_wrap=not wrap or bool(prefix))


def folded(
    columns: Sequence[str], rows: Sequence[list[str]], column: int, width: int
) -> list[list[str]]:
    """Wrap one column if there is not enough room, so that the others need not be wrapped.

    Rich's tables break words that contain hyphens anywhere, and cut off columns in a narrow
    terminal if the other columns must not be wrapped.
    """
    room = max(room_for(columns, rows, column, width), 8)
    return [[*row[:column], "\n".join(wrap(row[column], room)), *row[column + 1 :]] for row in rows]


def room_for(columns: Sequence[str], rows: Sequence[Sequence[str]], column: int, width: int) -> int:
    """Return the width that the other columns leave to one, with two spaces between columns."""
    taken = 0
    for number, cells in enumerate(zip(columns, *rows, strict=True)):
        if number != column:
            taken += 2 + max(len(line) for cell in cells for line in cell.split("\n"))
    return width - taken
