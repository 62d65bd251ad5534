"""The output of a console without a terminal, for people and for programs."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bake.cli.documents.recipes import ReportDocument
from bake.console.console import Console
from bake.errors import BakeError, Finding, PreflightError
from bake.threads import Cancelled
from tests.support.terminal import shown_in_terminal


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


def test_a_step_is_shown_with_its_number_and_its_usual_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console = Console()
    with console.status(lambda: "2 of 7 stages done"):
        with console.step("cuda", count="3 of 7", usual_s=240.0):
            pass
        console.note_without_terminal("3 of 7 stages done")
        console.note_without_terminal("")
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "· cuda (3 of 7), usually 4 min …"
    assert said[1].startswith("✔ cuda (3 of 7)  0.0 s")
    assert said[2:] == ["3 of 7 stages done"]  # the status is a live line


def test_a_log_gets_the_status_again_and_again_until_the_work_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bake.console.console.STATUS_EVERY_S", 0.01)
    told = threading.Semaphore(0)

    def describe() -> str:
        told.release()
        return "2 of 7 stages done"

    console = Console().named("one")
    with pytest.raises(KeyError), console.status(describe), console.step("cuda"):
        assert all(told.acquire(timeout=10) for _ in range(3))
        raise KeyError
    said = capsys.readouterr().err
    assert said.count("one │ 2 of 7 stages done\n") >= 2
    time.sleep(0.1)
    assert capsys.readouterr().err == ""


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
    console.result(ReportDocument(path=Path()), "ami-1")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("ami-1\n", "! a warning\n")


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
    console.result(ReportDocument(path=Path("1")), "for people")
    console.write_document()
    console.write_document()
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"error": None, "path": "1"}
    assert captured.err == ""


def test_markup_in_output_of_machines_is_shown_unchanged(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Console().note("[red]E: Unable to locate [/] package[/red]")
    assert capsys.readouterr().err == "[red]E: Unable to locate [/] package[/red]\n"


def test_an_empty_table_is_a_message_and_not_a_result(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Console().table(["image"], [], empty="No images.")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "No images.\n")


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
    console.result(ReportDocument(path=Path("1")))
    console.write_document()
    captured = capsys.readouterr()
    assert captured.err.splitlines() == [
        "mxnet-cu101 │ ✘ no room",
        "mxnet-cu101 │   in any zone",
        "mxnet-cu101 │ → Try another region",
    ]
    assert json.loads(captured.out) == {"error": None, "path": "1"}


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


# In a terminal -----------------------------------------------------------------------------------


def test_a_failure_of_one_of_several_recipes_is_wrapped_behind_its_name() -> None:
    error = BakeError(
        "No machine could be launched in us-west-2",
        details=["us-west-2a: InsufficientInstanceCapacity"],
        hint="Terminate machines that you no longer need: `invoke machines` lists them",
    )
    lines = shown_in_terminal(
        lambda: Console().named("mxnet-cu101").failure(error), 40
    ).splitlines()
    assert lines == [
        "mxnet-cu101 │ ✘ No machine could be",
        "mxnet-cu101 │   launched in us-west-2",
        "mxnet-cu101 │   us-west-2a:",
        "mxnet-cu101 │   InsufficientInstanceCapacity",
        "mxnet-cu101 │ → Terminate machines that",
        "mxnet-cu101 │   you no longer need:",
        "mxnet-cu101 │   `invoke machines` lists",
        "mxnet-cu101 │   them",
    ]


def test_in_a_terminal_a_result_is_wrapped_at_words_and_its_commands_are_whole() -> None:
    launch = "invoke launch-from-ami --local --ami ami-0123456789abcdef0"
    lines = [
        "Image    ami-0123456789abcdef0  bake/mxnet-cu101/20261121-a1b2c3",
        "Proved   cpu, stand-in",
        f"Launch   {launch}",
    ]
    shown = shown_in_terminal(lambda: Console().print(*lines), 40).splitlines()
    assert shown == [
        "Image    ami-0123456789abcdef0",
        "         bake/mxnet-cu101/20261121-a1b2c3",
        "Proved   cpu, stand-in",
        "Launch",
        f"         {launch}",
    ]


def test_commands_below_a_message_are_never_wrapped() -> None:
    command = "invoke quota --type g4dn.xlarge --raise 4 --region us-west-2"
    shown = shown_in_terminal(lambda: Console().note("To request more vCPUs in all:", command), 40)
    assert shown.splitlines() == ["To request more vCPUs in all:", command]


def test_a_long_table_is_readable_in_a_narrow_terminal() -> None:
    row = ["ami-0123456789abcdef0", "mxnet-cu118-debian12", "64"]
    columns = ["image", "recipe", "GB"]
    assert shown_in_terminal(
        lambda: Console().table(columns, [row], empty="", fold=["recipe"]), 40
    ).splitlines() == [
        "image                  recipe        GB",
        "ami-0123456789abcdef0  mxnet-cu118-  64",
        "                       debian12",
    ]


def test_words_are_whole_in_a_terminal_of_ten_columns() -> None:
    shown = shown_in_terminal(lambda: Console().note("It takes about one hour or two"), 10)
    assert shown.splitlines() == ["It takes", "about one", "hour or", "two"]


def test_the_commands_in_findings_are_complete(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(complete=lambda text: text.replace("invoke bake", "bake build"))
    console.failure(PreflightError("no", findings=[Finding("base", "no image", "invoke bake b")]))
    console.failure(BakeError("no", details=["the log names invoke bake"]))
    said = capsys.readouterr().err
    assert "base: no image. bake build b\n" in said
    assert "the log names invoke bake\n" in said
