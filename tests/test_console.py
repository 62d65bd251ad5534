"""What people read, on a terminal and off it."""

from __future__ import annotations

import json

import pytest

from bake.console import Console, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (42.4, "42 s"), (59.7, "1 min 00 s"), (185, "3 min 05 s"),
     (7440, "2 h 04 min")],
)  # fmt: skip
def test_durations_read_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_off_a_terminal_steps_are_plain_lines_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    with console.step("Stages"), console.step("cuda") as step:
        step.update("Unpacking …")
        step.done("11.8")
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = [line.split("  0.0 s")[0] for line in captured.err.splitlines()]
    assert lines == ["· Stages …", "  · cuda …", "  ✔ cuda", "✔ Stages"]
    assert "11.8" in captured.err
    assert "Unpacking" not in captured.err


def test_verbose_prints_what_a_step_says(capsys: pytest.CaptureFixture[str]) -> None:
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


def test_a_failed_step_is_marked_and_its_error_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
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


def test_markup_in_what_machines_say_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    Console().note("[red]E: Unable to locate [/] package[/red]")
    assert capsys.readouterr().err == "[red]E: Unable to locate [/] package[/red]\n"


def test_a_table_fits_into_80_columns_and_says_when_it_is_empty(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console = Console()
    console.table(["image", "name"], [["ami-1", "a long name " * 20]], empty="No images.")
    console.table(["image"], [], empty="No images.")
    shown = capsys.readouterr().err.splitlines()
    assert max(map(len, shown)) <= 80
    assert shown[-1] == "No images."
