"""What people see: steps with their time, a live line of what runs, tables, results, failures.

Nothing else prints. People's text goes to stderr; with `json` one document goes to stdout and
nothing else does.
"""

from __future__ import annotations

import json as json_library
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console as RichConsole
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bake.errors import BakeError

_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_FRAMES_A_SECOND = 8


def duration(seconds: float) -> str:
    """`0.8 s`, `42 s`, `3 min 05 s`, `2 h 04 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


@dataclass
class Step:
    """One running step. `update` changes its live line; `done` sets what its last line says."""

    title: str
    started: float
    depth: int
    verbose: Callable[[Step, str], None]
    line: str = ""
    summary: str = ""

    def update(self, line: str) -> None:
        self.line = line.strip()
        self.verbose(self, line)

    def done(self, summary: str) -> None:
        self.summary = summary

    def __rich__(self) -> RenderableType:
        now = time.monotonic()
        frame = _FRAMES[int((now - self.started) * _FRAMES_A_SECOND) % len(_FRAMES)]
        text = Text.assemble(
            "  " * self.depth,
            (frame, "cyan"),
            f" {self.title}  ",
            (duration(now - self.started), "dim"),
            no_wrap=True,
            overflow="ellipsis",
        )
        return text.append(f"  {self.line}", "dim") if self.line else text


class Console:
    """Where a command's words go.

    `quiet` keeps only warnings, failures and results; `verbose` prints every line of a stage's
    output; `json` turns the result into one document on stdout.
    """

    def __init__(self, *, json: bool = False, quiet: bool = False, verbose: bool = False) -> None:
        self.json = json
        self.quiet = quiet
        self.verbose = verbose
        self._err = RichConsole(stderr=True, highlight=False, soft_wrap=True)
        self._running: list[Step] = []
        self._live: Live | None = None
        self._lock = threading.RLock()
        self._unwinding = False

    # Steps ---------------------------------------------------------------------------------

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """A step that is timed, and marked as failed when an exception leaves it."""
        depth = sum(step.title != title for step in self._running)
        step = Step(title, time.monotonic(), min(depth, 1), self._verbose_line)
        self._begin(step)
        try:
            yield step
        except BaseException:
            self._end(step, "✘", "red")
            # From here on it is cleaning up: dimmed, so that the culprit stays visible.
            self._unwinding = True
            raise
        self._end(step, "✔", "dim" if self._unwinding else "green")

    def _begin(self, step: Step) -> None:
        with self._lock:
            self._running.append(step)
            if self.quiet:
                return
            if self._err.is_terminal:
                if self._live is None:
                    self._live = Live(
                        get_renderable=self._render_running,
                        console=self._err,
                        refresh_per_second=_FRAMES_A_SECOND,
                        transient=True,
                    )
                    self._live.start()
            else:
                self._print(Text(f"{'  ' * step.depth}· {step.title} …"))

    def _end(self, step: Step, mark: str, style: str) -> None:
        with self._lock:
            self._running.remove(step)
            if not self._running and self._live is not None:
                self._live.stop()
                self._live = None
            if self.quiet:
                return
            elapsed = duration(time.monotonic() - step.started)
            line = Text.assemble(
                "  " * step.depth, (mark, style), " ", step.title, "  ", (elapsed, "dim")
            )
            if step.summary:
                line.append(f"  {step.summary}")
            if self._unwinding:
                line.stylize("dim")
            self._print(line)

    def _render_running(self) -> RenderableType:
        with self._lock:
            return Group(*self._running)

    def _verbose_line(self, step: Step, line: str) -> None:
        if self.verbose and not self.quiet:
            self._print(Text.assemble((f"  {step.title} │ ", "dim"), line.rstrip()))

    # Words ---------------------------------------------------------------------------------

    def note(self, text: str) -> None:
        if not self.quiet:
            self._print(Text(text), wrap=True)

    def warn(self, text: str) -> None:
        self._print(Text.assemble(("! ", "yellow"), text))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], *, empty: str) -> None:
        """A plain table, readable when it is piped too. `empty` is said when there is no row."""
        if self.json:
            return
        if not rows:
            self._print(Text(empty))
            return
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        # Not soft-wrapped: a table folds its own cells to the width that there is.
        self._err.print(table, soft_wrap=False)

    def result(self, document: Mapping[str, Any] | Sequence[Any], *lines: str) -> None:
        """The answer of a command: `lines` for people, `document` for `--json`."""
        if self.json:
            sys.stdout.write(json_library.dumps(document, indent=2, default=str) + "\n")
            sys.stdout.flush()
            return
        for line in lines:
            self._print(Text(line))

    def failure(self, error: BakeError) -> None:
        """What happened, where, and what to do next."""
        self._print(Text.assemble(("✘ ", "red"), (error.message, "bold")))
        if error.code or error.reason:
            said = ": ".join(part for part in (error.code, error.reason) if part)
            self._print(Text(f"  AWS says: {said}"))
        for detail in error.details:
            for line in detail.splitlines() or [""]:
                self._print(Text(f"  {line}"))
        if error.hint:
            self._print(Text.assemble(("→ ", "cyan"), error.hint))
        if self.json:
            document = {
                "error": type(error).__name__,
                "message": error.message,
                "code": error.code,
                "reason": error.reason,
                "details": list(error.details),
                "hint": error.hint,
            }
            self.result({key: value for key, value in document.items() if value})

    def _print(self, text: Text, *, wrap: bool = False) -> None:
        # Not wrapped as a rule: a command must be in one piece when it is pasted.
        with self._lock:
            self._err.print(text, soft_wrap=not wrap)
