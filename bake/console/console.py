"""The console: steps with their duration, live lines, tables, results and failures.

Nothing else prints. The result of a command goes to stdout: lines and tables, or with `--json` one
document, which is written when the command ends and contains its error. Everything else goes to
stderr: steps, notes, warnings, questions, failures.

In a terminal, lines are wrapped at words; ids, paths and commands are not broken. Elsewhere a line
stays one line. Threads may share a console; several bakes share one through its `named` views.
"""

from __future__ import annotations

import copy
import json as json_library
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console as RichConsole
from rich.text import Text

from bake.console.format import duration, duration_about
from bake.console.screen import Screen, Step, Work
from bake.console.streams import stdin_is_terminal, write_stdout
from bake.console.table import Table, lay_out
from bake.console.text import plain
from bake.console.wrapping import hanging, wrapped
from bake.errors import BakeError, RequestError, error_document
from bake.threads import Cancelled

if TYPE_CHECKING:
    from pydantic import BaseModel

# Fields of documents that may name a command.
_WITH_COMMANDS = {"hint", "advice", "message"}

STATUS_EVERY_S = 60  # in a log
_NARROWEST = 16  # columns of text behind the name of a recipe, in a terminal that has as many


class Console:
    """Shows the progress, the messages and the result of a command.

    `quiet` shows only warnings, failures and the result; `verbose` shows every line that a stage
    prints; `json` writes the result as one document to stdout. `complete` returns a message with
    complete commands, which can be pasted.
    """

    def __init__(
        self,
        *,
        json: bool = False,
        quiet: bool = False,
        verbose: bool = False,
        complete: Callable[[str], str] = str,
    ) -> None:
        self.complete = complete
        self.json = json
        self.quiet = quiet
        self.verbose = verbose
        self._screen = Screen()
        self._work = Work(self._screen)
        self._above: Step | None = None

    # Views ---------------------------------------------------------------------------------

    def named(self, name: str) -> Console:
        """Return a view for one of several recipes: its lines begin with the name.

        After a failure only the lines of its own view are dimmed, not those of a new one.
        """
        view = copy.copy(self)
        view._work = Work(self._screen, name)
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
    def step(self, title: str, *, count: str = "", usual_s: float | None = None) -> Iterator[Step]:
        """A context that shows a step and its duration.

        `count` is its number among others, such as `3 of 7`; `usual_s` its usual duration.

        An exception marks it as failed; an interrupt or a cancellation marks it as stopped.
        """
        thread = self._screen.thread
        before = thread.step
        above = before or self._above
        place = (*(above.place if above else ()), next(self._screen.numbers))
        step = Step(title, time.monotonic(), place, self._work, self._verbose_line, count, usual_s)
        try:
            self._begin(step)
            thread.step = step
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
        on_terminal = self._on_terminal
        self._screen.begin(step, live=on_terminal and not self.quiet)
        if not on_terminal and not self.quiet:
            usual = f", usually {duration_about(step.usual_s)}" if step.usual_s else ""
            self._print(Text(f"{step.indent}· {step.counted}{usual} …"))

    def _end(self, step: Step, mark: str, style: str) -> None:
        with self._screen.lock:
            self._screen.end(step)
            if self.quiet:
                return
            elapsed = duration(time.monotonic() - step.started)
            words = f" {step.counted}  "
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
    def status(self, describe: Callable[[], str]) -> Iterator[None]:
        """A context in which the last of the live lines is what `describe` returns, "" for none.

        It disappears when the work fails and is cleaned up. Without a terminal, it is a message
        every minute, so that a log shows that the work continues.
        """
        self._work.status = describe
        ended = threading.Event()
        if not self._on_terminal:
            threading.Thread(target=self._repeat_status, args=(ended,), daemon=True).start()
        try:
            yield
        finally:
            ended.set()
            self._work.status = None

    def _repeat_status(self, ended: threading.Event) -> None:
        while not ended.wait(STATUS_EVERY_S):
            self.note_without_terminal(self._work.status_text())

    def note_without_terminal(self, text: str) -> None:
        """Show a message unless it is empty, or live lines show it: for logs."""
        if text and not self._on_terminal:
            self.note(text)

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

    # Questions -----------------------------------------------------------------------------

    @property
    def can_ask(self) -> bool:
        """True if a person sees questions and can answer them: in a terminal, without `--json`."""
        return not self.json and self._on_terminal and stdin_is_terminal()

    @property
    def _on_terminal(self) -> bool:
        """True if stderr is a terminal, whatever the environment says of colours."""
        return self._screen.err.file.isatty()

    def ask(self, question: str, *details: str) -> bool:
        """Show a question, also with `quiet`, and return True only if the answer is yes.

        `details` are lines to read before the answer.
        """
        for line in details:
            self._print(Text(line))
        return self._answer_to(f"{question} [y/N]").lower() in {"y", "yes"}

    def choose(self, question: str, choices: Sequence[str]) -> int | None:
        """Show numbered choices, and return the index of the chosen one; None for other answers."""
        for number, choice in enumerate(choices, 1):
            self._print(Text(f"{number:3}  {choice}"))
        answer = self._answer_to(f"{question} [1-{len(choices)}]")
        known = [str(number) for number in range(1, len(choices) + 1)]
        return known.index(answer) if answer in known else None

    def _answer_to(self, prompt: str) -> str:
        lines = self._wrapped(self._screen.err, Text(prompt))
        answer = ""
        try:
            with self._screen.whole():
                self._screen.err.print(Text("\n").join(lines), end=" ")
            answer = sys.stdin.readline()
        finally:
            if not answer.endswith("\n"):  # Ctrl-D or Ctrl-C
                self._print(Text(""))
        return answer.strip()

    # Messages ------------------------------------------------------------------------------

    def note(self, text: str, *commands: str) -> None:
        """Show a message, and commands on lines of their own; not with `quiet`."""
        if not self.quiet:
            self._print(Text(self.complete(text)), *commands)

    def warn(self, text: str, *commands: str) -> None:
        """Show a warning, and commands on lines of their own."""
        self._print(Text.assemble(("! ", "yellow"), self.complete(text)), *commands)

    def gap(self) -> None:
        """Separate the result from what a terminal shows above it, by an empty line."""
        if self._on_terminal and not (self.quiet or self.json):
            self._print(Text(""))

    # Results -------------------------------------------------------------------------------

    def table(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
        *,
        empty: str,
        right: Collection[str] = (),
        fold: Collection[str] = (),
        optional: int = 0,
    ) -> None:
        """Show a table without lines, or the message `empty` if it has no rows; not with `--json`.

        `right` names the columns of numbers, which are aligned at the right. `fold` names those
        that may be wrapped in a narrow terminal; the others stay in one piece. The last `optional`
        columns are left out if the terminal is too narrow for them.
        """
        if self.json:
            return
        if not rows:
            if empty:
                self._print(Text(self.complete(empty)))
            return
        safe = [[plain(cell) for cell in row] for row in rows]
        table = Table(columns, safe, right=right, fold=fold, optional=optional)
        out = self._screen.out
        lines = [
            Text(line, style="bold" if heading else "")
            for line, heading in lay_out(table, out.width if out.file.isatty() else None)
        ]
        self._print_result(lines)

    def result(self, document: BaseModel, *lines: str) -> None:
        """Show the result of a command: `lines` for people, `document` for `--json`.

        A command calls this, or `output`, once. The document is written when the command ends.
        """
        self._answer()
        if self.json:
            self._screen.document = document
        else:
            self.print(*lines)

    def output(self, text: str) -> None:
        """Write the result of a command to stdout, for a program; `result` does it for `--json`."""
        self._answer()
        self._write_result(text if text.endswith("\n") or not text else f"{text}\n")

    def check_answered(self, promised: type[BaseModel]) -> None:
        """Raise a RuntimeError if the result with `--json` is not a document of this type."""
        if type(self._screen.document) is not promised:
            raise RuntimeError(f"a command with --json must show its result, a {promised.__name__}")

    def _answer(self) -> None:
        if self._screen.answered:
            raise RuntimeError("a command must show its result only once")
        self._screen.answered = True

    def fail(self, error: BakeError) -> None:
        """Put an error into the document of `--json`; it has been shown to people in another way.

        The first error of a command stays.
        """
        self._screen.error = self._screen.error or error

    def write_document(self) -> None:
        """Write the document of `--json`, once: the result, and the error if there is one.

        A command that waits for the user's end, such as an open tunnel, calls this before it waits.
        """
        screen = self._screen
        if screen.written or not self.json or not (screen.document or screen.error):
            return
        screen.written = True
        document = screen.document.model_dump(mode="json") if screen.document else {}
        document["error"] = error_document(screen.error)
        self._write_result(json_library.dumps(self._completed(document), indent=2) + "\n")

    def _completed(self, value: Any) -> Any:
        """Return a value of the document in which the commands of all hints are complete."""
        if isinstance(value, list):
            return [self._completed(each) for each in value]
        if not isinstance(value, dict):
            return value
        return {
            name: self.complete(each)
            if name in _WITH_COMMANDS and isinstance(each, str)
            else self._completed(each)
            for name, each in value.items()
        }

    def print(self, *lines: str) -> None:
        """Show lines of the result; nothing with `--json`."""
        if lines and not self.json:
            self._print_result(self._wrapped(self._screen.out, Text("\n".join(lines))))

    def failure(self, error: BakeError) -> None:
        """Show what failed, the details, and what to do next.

        With `--json` it is also in the document, unless it is the failure of one of several
        recipes, which has it in its own part of the document.
        """
        error.hint = self.complete(error.hint)
        self._print(Text.assemble(("✘ ", "red"), (self.complete(error.message), "bold")))
        if error.cloud_words:
            self._print(Text(f"  Reason: {error.cloud_words}"))
        found = isinstance(error, RequestError) and bool(error.findings)
        for detail in error.details:  # without findings, it may be the end of a log
            for line in (self.complete(detail) if found else detail).splitlines() or [""]:
                self._print(Text(f"  {line}"))
        if error.hint:
            self._print(Text.assemble(("→ ", "cyan"), error.hint))
        if not self._work.name:
            self.fail(error)

    def _print(self, text: Text, *commands: str) -> None:
        """Write lines to stderr; the commands are not wrapped, so that they can be pasted."""
        prefix = self._work.prefix
        lines = self._wrapped(self._screen.err, text, prefix)
        lines += [Text.assemble((prefix, "dim"), plain(command)) for command in commands]
        with self._screen.whole():
            self._screen.err.print(Text("\n").join(lines))

    def _print_result(self, lines: Sequence[Text]) -> None:
        with self._screen.whole(), self._screen.out.capture() as captured:
            self._screen.out.print(Text("\n").join(lines))
        self._write_result(captured.get())

    def _write_result(self, text: str) -> None:
        if self._screen.out.file.isatty():
            with self._screen.without_live_lines():
                write_stdout(text)
        else:
            write_stdout(text)

    def _wrapped(self, stream: RichConsole, text: Text, prefix: str = "") -> list[Text]:
        """Return lines that each begin with the prefix; in a terminal they are wrapped to fit."""
        text.plain = plain(text.plain)
        width = max(stream.width - len(prefix), min(stream.width, _NARROWEST))
        lines: list[Text] = []
        for line in text.split("\n", allow_blank=True):
            if stream.file.isatty():
                indent = " " * hanging(line.plain, width)
                parts = [line[begin:end] for begin, end in wrapped(line.plain, width)]
                lines += parts[:1] + [Text.assemble(indent, part) for part in parts[1:]]
            else:
                lines.append(line)
        return [Text.assemble((prefix, "dim"), line) for line in lines]
