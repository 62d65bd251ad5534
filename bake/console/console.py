"""What people see: steps with their time, live lines of what runs, tables, results, failures.

Nothing else prints. People's text goes to stderr; with `json` one document goes to stdout and
nothing else does. Threads may share a console; many bakes share one through its `named` views.
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
from rich.table import Table
from rich.text import Text

from bake.console.format import duration
from bake.errors import BakeError, error_document
from bake.threads import Cancelled

_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_FRAMES_A_SECOND = 8


# What a terminal would obey, as signs that say so; a newline and a tab are only that. The last ones
# turn the direction of writing.
_SIGNS = {
    **{code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"},
    **dict.fromkeys([127, *range(128, 160)], 0xFFFD),
    **dict.fromkeys([0x61C, 0x200E, 0x200F], 0xFFFD),
    **dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A)], 0xFFFD),
}


def visible(text: str) -> str:
    """Of the same length, and without anything that a terminal or a browser would obey unseen."""
    return text.translate(_SIGNS)


def plain(text: str) -> str:
    """Of the same length, and without anything that a terminal or GitHub's log would obey."""
    text = visible(text)
    if os.environ.get("GITHUB_ACTIONS") == "true":  # there a line is a command that begins so
        text = re.sub(r"(?m)^(\s*):(?=:)|#(?=#\[)", lambda found: f"{found[1] or ''}·", text)
    return text


class _Screen:
    """What all views of a console share: the terminal, what runs, and one lock for both.

    Rich's own refreshing would take the locks in another order than we do, and its printing from
    several threads tears the live lines: so all that it does, it does under this lock.
    """

    def __init__(self) -> None:
        self.err = RichConsole(stderr=True, highlight=False, soft_wrap=True)
        self.lock = threading.RLock()
        self.here = _Here()
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
            time.sleep(1 / _FRAMES_A_SECOND)
            with self.lock:
                if self._live is not live:
                    return
                live.refresh()

    def __rich__(self) -> RenderableType:
        running = sorted(self._running, key=lambda step: (step.work.number, step.place))
        room = max(self.err.height - 1, 2)
        if len(running) > room:
            running, rest = running[: room - 1], len(running) - room + 1
            return Group(*running, Text(f"… and {rest} more", "dim"))
        return Group(*running)


@dataclass
class _Work:
    """What one recipe's steps have in common. `unwinding`: it has failed, and is cleaning up."""

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
    """One running step. `update` changes its live line; `done` sets what its last line says.

    `place` is its number below those of the steps that it is in.
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
        frame = _FRAMES[int((now - self.started) * _FRAMES_A_SECOND) % len(_FRAMES)]
        text = Text.assemble(
            (self.work.prefix, "dim"),
            self.indent,
            (frame, "cyan"),
            f" {plain(self.title)}  ",
            (duration(now - self.started), "dim"),
            no_wrap=True,
            overflow="ellipsis",
        )
        return text.append(f"  {plain(self.line)}", "dim") if self.line else text


class _Here(threading.local):
    """Of one thread: the innermost step that it is in."""

    step: Step | None = None


class Console:
    """Where a command's words go.

    `quiet` keeps only warnings, failures and results; `verbose` prints every line of a stage's
    output; `json` turns the result into one document on stdout.
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
        """The same console for one recipe of several: its lines begin with the name.

        Its failure dims no other one's lines. A second view of the same name starts anew.
        """
        view = copy.copy(self)
        view._work = _Work(self._screen, name)
        return view

    def goes_on(self) -> None:
        """What failed is cleaned up, and something else is tried: nothing is dimmed any more."""
        self._work.unwinding = False

    def within(self, step: Step) -> Console:
        """The same console for another thread, whose steps are parts of this one."""
        view = copy.copy(self)
        view._above = step
        return view

    # Steps ---------------------------------------------------------------------------------

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """A step that is timed. It is marked as failed when an exception leaves it, and as
        stopped when it was interrupted or called off."""
        here = self._screen.here
        before = here.step
        above = before or self._above
        place = (*(above.place if above else ()), next(self._screen.numbers))
        step = Step(title, time.monotonic(), place, self._work, self._verbose_line)
        self._begin(step)
        here.step = step
        try:
            yield step
        except BaseException as error:
            if isinstance(error, Cancelled | KeyboardInterrupt):
                step.done("stopped")
                self._end(step, "■", "yellow")
            else:
                self._end(step, "✘", "red")
            # From here on it is cleaning up: dimmed, so that the culprit stays visible.
            self._work.unwinding = True
            raise
        else:
            self._end(step, "✔", "dim" if self._work.unwinding else "green")
        finally:
            here.step = before

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
        """What to tell when something has to be waited for, and for what; silent when nothing has.

        What is said again is shown once.
        """
        said: list[str] = []
        with ExitStack() as stack:
            step: Step | None = None

            def wait(text: str) -> None:
                nonlocal step
                step = step or stack.enter_context(self.step("Waiting"))
                if text not in said[-1:]:
                    said.append(text)
                    self.note(f"  waiting {text}")
                    step.update(text)

            yield wait

    # Words ---------------------------------------------------------------------------------

    def note(self, text: str) -> None:
        if not self.quiet:
            self._print(Text(text), wrap=True)

    def warn(self, text: str) -> None:
        self._print(Text.assemble(("! ", "yellow"), text))

    @property
    def width(self) -> int:
        """Columns of the terminal; 80 where there is none."""
        return self._screen.err.width

    def table(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
        *,
        empty: str,
        right: Collection[str] = (),
    ) -> None:
        """A plain table, readable when it is piped too. `empty` is said when there is no row.

        `right` are the columns of figures, which end at the same place.
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
        # Not soft-wrapped: a table folds its own cells to the width that there is.
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
        """Lines for people, as they are: not wrapped, so that they can be pasted."""
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
        # Not wrapped as a rule: a command must be in one piece when it is pasted.
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
    """With one column in several lines where there is no room, so that the others stay whole."""
    room = max(room_for(columns, rows, column, width), 8)
    return [[*row[:column], "\n".join(wrap(row[column], room)), *row[column + 1 :]] for row in rows]


def room_for(columns: Sequence[str], rows: Sequence[Sequence[str]], column: int, width: int) -> int:
    """What the others leave of the width to a column; two blanks stand between each."""
    taken = 0
    for number, cells in enumerate(zip(columns, *rows, strict=True)):
        if number != column:
            taken += 2 + max(len(line) for cell in cells for line in cell.split("\n"))
    return width - taken
