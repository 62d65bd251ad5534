"""On a terminal, each running step has a live line, whatever the number of threads."""

from __future__ import annotations

import os
import pty
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from bake.console.console import Console
from bake.threads import together
from tests.support.terminal import CTRL_C, Terminal, in_terminal

DIM = "\x1b[2m"


class OpenTerminal:
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
def a_terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenTerminal]:
    """A terminal that receives stderr (not a fixture: pytest replaces stderr between phases)."""
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("LINES", "10")
    monkeypatch.setenv("TERM", "xterm")
    screen = OpenTerminal()
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


def test_the_last_live_line_is_the_status_until_the_work_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with a_terminal(monkeypatch) as terminal:
        console = Console()
        with console.status(lambda: "2 of 7 stages done"):
            with (
                pytest.raises(KeyError),
                console.step("cuda", count="3 of 7", usual_s=240.0) as step,
            ):
                step.update("Unpacking")
                terminal.wait_for(lambda: "stages done" in terminal.text)
                console.note_without_terminal("not in a log")
                raise KeyError
            with console.step("Removing the builder"):
                time.sleep(0.3)
        terminal.wait_for(lambda: terminal.text.count("✔") == 1)
        [first, last] = next(frame for frame in terminal.frames() if "stages done" in frame[-1:][0])
        assert re.match(r"[⠀-⣿] cuda \(3 of 7\)  0.[0-9] s of about 4 min  Unpacking", first)
        assert last == "2 of 7 stages done"
        assert "stages done" not in terminal.text.partition("✘")[2]
        assert "not in a log" not in terminal.text


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


_AT_WORK = """
import time
from bake.console.console import Console
console = Console()
with console.step("Stages"), console.step("mxnet") as step:
    console.print("Image    ami-0123456789abcdef0")
    for number in range(1000):
        step.update(f"Unpacking {number} " + "x" * 200)
        time.sleep(0.02)
"""


@pytest.mark.parametrize("columns", [80, 40])
def test_after_ctrl_c_no_live_line_is_left_and_the_result_is_whole(columns: int) -> None:
    with Terminal(["-c", _AT_WORK], program=sys.executable, columns=columns) as terminal:
        terminal.wait_for("Unpacking")
        terminal.type(CTRL_C)
        terminal.wait_until_ended()
        assert terminal.screen[0] == "Image    ami-0123456789abcdef0"
        assert not [line for line in terminal.screen if re.match(" *[⠀-⣿]|.*Unpacking", line)]
        assert "■ Stages" in terminal.text


def test_without_a_terminal_there_are_no_live_lines_though_colours_are_forced(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Console().step("Stages"):
        pass
    assert not re.search(r"\x1b\[[0-9?]*[A-Zhl]", capsys.readouterr().err)


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
            together(*(partial(bake, console.named(f"recipe-{n}")) for n in range(8)))
        terminal.wait_for(lambda: terminal.text.count("✔") == 161)
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.text)
        notes = [line for line in re.split(r"[\r\n]+", plain) if "note" in line]
        assert sorted(line.strip() for line in notes) == sorted(
            f"recipe-{n} │ note {number}" for n in range(8) for number in range(20)
        )


def test_sentences_fit_into_a_terminal_of_the_type_dumb() -> None:
    code, terminal = in_terminal("plan", "nosuch", columns=60, environment={"TERM": "dumb"})
    assert code == 2
    assert len(terminal.lines) > 2
    assert not [line for line in terminal.broken() if " " in line], terminal.text
