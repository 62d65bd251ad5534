"""The output of a console, with and without a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from bake.console.console import Console
from bake.errors import BakeError
from bake.threads import Cancelled


def test_without_a_terminal_steps_are_plain_lines_on_stderr(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console = Console()
    with console.step("Stages"), console.step("cuda") as step:
        step.update("Unpacking …")
        step.done("11.8")
    captured = capsys.readouterr()
    assert captured.out == ""
    shown = [re.sub(r"  [0-9.]+ s.*", "", line) for line in captured.err.splitlines()]
    assert shown == ["· Stages …", "  · cuda …", "  ✔ cuda", "✔ Stages"]
    assert "11.8" in captured.err
    assert "Unpacking" not in captured.err


def test_verbose_prints_the_lines_of_a_step(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(verbose=True)
    with console.step("cuda") as step:
        step.update("Unpacking nvcc\n")
    assert "cuda │ Unpacking nvcc" in capsys.readouterr().err


def test_quiet_keeps_warnings_and_results(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(quiet=True)
    with console.step("cuda"):
        console.note("a note")
        console.warn("a warning")
    console.result({}, "ami-1")
    assert capsys.readouterr().err == "! a warning\nami-1\n"


def test_a_failed_step_is_marked_and_its_error_is_raised(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console = Console()
    with pytest.raises(KeyError), console.step("Stages"), console.step("cuda"):
        raise KeyError
    shown = capsys.readouterr().err
    assert "✘ cuda" in shown
    assert "✘ Stages" in shown


def test_json_puts_one_document_on_stdout_and_no_table(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(json=True)
    console.table(["a"], [["1"]], empty="none")
    console.result([{"id": "ami-1"}], "for people")
    captured = capsys.readouterr()
    assert json.loads(captured.out) == [{"id": "ami-1"}]
    assert captured.err == ""


def test_markup_in_output_of_machines_is_shown_unchanged(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Console().note("[red]E: Unable to locate [/] package[/red]")
    assert capsys.readouterr().err == "[red]E: Unable to locate [/] package[/red]\n"


def test_a_table_fits_into_80_columns_and_an_empty_one_has_a_message(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console = Console()
    console.table(["image", "name"], [["ami-1", "a long name " * 20]], empty="No images.")
    console.table(["image"], [], empty="No images.")
    shown = capsys.readouterr().err.splitlines()
    assert max(map(len, shown)) <= 80
    assert shown[-1] == "No images."


# Many at once ------------------------------------------------------------------------------------


def in_threads(*work: Callable[[], None]) -> None:
    """Do all work at the same time, and raise the first error."""
    with ThreadPoolExecutor(len(work)) as pool:
        for future in [pool.submit(piece) for piece in work]:
            future.result()


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the lines on stderr without the durations."""
    return [re.sub(r"  [0-9.]+ s", "", line) for line in capsys.readouterr().err.splitlines()]


def test_one_recipe_has_no_prefix_and_several_have_their_names(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console = Console(verbose=True)
    short, long = console.named("mxnet-cu101"), console.named("pytorch-cu126-x")
    with short.step("Stages"), short.step("cuda") as step:
        step.update("Unpacking")
    long.note("one\n\nthree")
    long.warn("careful")
    console.note("all of them")
    assert lines(capsys) == [
        "mxnet-cu101     │ · Stages …",
        "mxnet-cu101     │   · cuda …",
        "mxnet-cu101     │   cuda │ Unpacking",
        "mxnet-cu101     │   ✔ cuda",
        "mxnet-cu101     │ ✔ Stages",
        "pytorch-cu126-x │ one",
        "pytorch-cu126-x │ ",
        "pytorch-cu126-x │ three",
        "pytorch-cu126-x │ ! careful",
        "all of them",
    ]


def test_a_named_console_is_the_same_console_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(quiet=True, json=True)
    view = console.named("mxnet-cu101")
    with view.step("cuda"):
        view.note("a note")
    view.failure(BakeError("no room", details=["in any zone"], hint="Try another region"))
    console.result({"id": "ami-1"})
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        "mxnet-cu101 │ ✘ no room",
        "mxnet-cu101 │   in any zone",
        "mxnet-cu101 │ → Try another region",
    ]
    assert json.loads(captured.out) == {"id": "ami-1"}


def test_steps_of_other_threads_do_not_nest_in_each_other(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console = Console()
    both_run = threading.Barrier(2)

    def stage(view: Console, title: str) -> None:
        with view.step(title), view.step("inside"):
            both_run.wait(10)

    with console.step("Stages") as stages:
        view = console.within(stages)
        in_threads(lambda: stage(view, "cuda"), lambda: stage(view, "conda"))
    said = lines(capsys)
    assert said[0] == "· Stages …"
    assert {"  · cuda …", "  · conda …", "    · inside …", "    ✔ inside"} < set(said)
    assert {"  ✔ cuda", "  ✔ conda"} < set(said)
    assert said[-1] == "✔ Stages"


def test_a_cancelled_step_has_not_failed(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    with pytest.raises(Cancelled), console.step("conda"):
        raise Cancelled
    with pytest.raises(KeyboardInterrupt), console.step("cuda"):
        raise KeyboardInterrupt
    assert [line for line in lines(capsys) if "…" not in line] == [
        "■ conda  stopped",
        "■ cuda  stopped",
    ]


# On a terminal -----------------------------------------------------------------------------------

DIM = "\x1b[2m"


class Terminal:
    """A real terminal that remembers its output."""

    def __init__(self) -> None:
        self.ours, self.theirs = pty.openpty()
        self.written = b""
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        while True:
            try:
                self.written += os.read(self.ours, 65536)
            except OSError:  # the other side is closed
                return

    @property
    def text(self) -> str:
        return self.written.decode(errors="replace")

    def frames(self) -> list[list[str]]:
        """Return the lines between one erasure and the next, without colours."""
        plain = re.sub(r"\x1b\[[0-9;]*m|\x1b\[\?25[lh]", "", self.text)
        frames = re.split(r"(?:\r|\x1b\[2K|\x1b\[1A)*\x1b\[2K", plain)
        return [[line for line in frame.splitlines() if line.strip()] for frame in frames]

    def wait_for(self, seen: Callable[[], bool]) -> None:
        for _ in range(200):
            if seen():
                return
            time.sleep(0.05)
        raise AssertionError(self.text)


@contextmanager
def a_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    """A terminal that receives stderr (not a fixture: pytest replaces stderr between phases)."""
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("LINES", "10")
    monkeypatch.setenv("TERM", "xterm")
    screen = Terminal()
    with Path(os.ttyname(screen.theirs)).open("w") as stderr, monkeypatch.context() as context:
        context.setattr("sys.stderr", stderr)
        yield screen
    os.close(screen.theirs)
    screen.reader.join(10)
    os.close(screen.ours)


def test_the_live_display_shows_as_many_steps_as_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with a_terminal(monkeypatch) as terminal:
        console = Console()
        seen = threading.Event()
        running = threading.Barrier(25)

        def stage(view: Console, title: str) -> None:
            with view.step(title) as step:
                step.update(f"last line of {title}")
                running.wait(10)
                assert seen.wait(10)

        def shown() -> bool:
            return any("… and 16 more" in frame[-1:] for frame in terminal.frames())

        views = [console.named(f"recipe-{number:02}") for number in range(12)]
        stages = [(view, title) for view in views for title in ("cuda", "conda")]
        with ThreadPoolExecutor(len(stages)) as pool:
            futures = [pool.submit(stage, *each) for each in stages]
            running.wait(10)
            terminal.wait_for(shown)
            seen.set()
        for future in futures:
            future.result()
        terminal.wait_for(lambda: terminal.text.count("✔") == 24)
        frame = next(frame for frame in terminal.frames() if "… and 16 more" in frame[-1:])
        assert len(frame) == 9
        for line, (view, _) in zip(frame, stages, strict=False):
            if "more" not in line:
                assert re.match(rf"{view._work.name} │ [⠀-⣿] c", line)
                assert "last line of" in line
        assert not re.search(r"… and 1[0-9]+ more", "\n".join(terminal.frames()[-1]))


def test_a_failure_dims_only_later_lines_of_its_own_recipe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with a_terminal(monkeypatch) as terminal:
        console = Console()
        failing, other = console.named("failing"), console.named("other")
        with pytest.raises(KeyError), failing.step("cuda"):
            raise KeyError
        with failing.step("Removing the builder"):
            pass
        with other.step("conda"):
            pass
        with console.named("failing").step("once more"):
            pass
        terminal.wait_for(lambda: terminal.text.count("✔") == 3)
        ended = {
            re.sub(r"\x1b\[[0-9;]*m", "", line).split("│ ")[1].split("  ")[0]: line
            for line in terminal.text.splitlines()
            if re.search("[✔✘]", line)
        }
        style = {title: re.search(r"(\x1b\[[0-9;]*m)[✔✘]", line) for title, line in ended.items()}
        marks = {title: match[1] if match else "" for title, match in style.items()}
        assert marks == {
            "✘ cuda": "\x1b[31m",
            "✔ Removing the builder": DIM,
            "✔ conda": "\x1b[32m",
            "✔ once more": "\x1b[32m",
        }


def test_many_threads_on_one_terminal_neither_hang_nor_tear_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with a_terminal(monkeypatch) as terminal:
        console = Console()

        def bake(view: Console) -> None:
            for number in range(20):
                with view.step(f"step {number}") as step:
                    step.update("at work")
                    view.note(f"note {number}")

        with console.step("all"):
            in_threads(*(partial(bake, console.named(f"recipe-{n}")) for n in range(8)))
        terminal.wait_for(lambda: terminal.text.count("✔") == 161)
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.text)
        notes = [line for line in re.split(r"[\r\n]+", plain) if "note" in line]
        assert sorted(line.strip() for line in notes) == sorted(
            f"recipe-{n} │ note {number}" for n in range(8) for number in range(20)
        )


def test_a_wait_is_shown_if_reported_and_each_reason_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console = Console()
    with console.waiting():
        pass
    assert capsys.readouterr().err == ""
    with console.waiting() as wait:
        for reason in ("for run a", "for run a", "for a machine"):
            wait(reason)
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == ["· Waiting …", "  waiting for run a", "  waiting for a machine"]
    assert lines[3].startswith("✔ Waiting")
