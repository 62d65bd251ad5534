"""Consoles, exit codes, signals and JSON documents of the commands."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from invoke.exceptions import Exit

import tasks
from bake.aws import machine as aws_machine
from bake.aws.client import session
from bake.cli import bake as cli_bake
from bake.cli import bench as cli_bench
from bake.cli import environment
from bake.cli.command import command, raise_for, running
from bake.cli.documents.document import Document
from bake.cli.documents.local import LocalDownDocument
from bake.cli.documents.recipes import ReportDocument
from bake.cli.options import CommonOptions
from bake.console.console import Console
from bake.errors import CloudError, Finding, RecipeError
from bake.local import control
from bake.pipeline import bake as pipeline
from bake.pipeline import rebuild as rebuilding
from bake.plan import lock
from bake.recipe import recipes
from bake.record.report import report
from tests.support.benches import ONE, a_bench
from tests.support.commands import invoke
from tests.support.documents import checked, documents
from tests.support.environment import REPOSITORY
from tests.support.proved_images import PROVED
from tests.support.terminal import Terminal


@pytest.mark.parametrize(
    ("error", "code"),
    [(RecipeError("bad"), 2), (CloudError("refused"), 1), (KeyboardInterrupt(), 130)],
)
def test_a_failure_becomes_a_message_and_an_exit_code(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Exit) as exit_, running(Console()):
        raise error
    assert exit_.value.code == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err


def test_a_programming_error_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), running(Console()):
        _ = 1 / 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_interrupts_and_a_second_one_does_not_interrupt_the_removal(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    cleaned = []
    with pytest.raises(Exit) as exit_, running(Console()):
        try:
            os.kill(os.getpid(), number)
        finally:
            os.kill(os.getpid(), number)
            cleaned.append(True)
    assert exit_.value.code == 130
    assert cleaned == [True]
    assert "Still cleaning up" in capsys.readouterr().err
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)


def test_a_signal_that_is_ignored_stays_ignored_as_nohup_means() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with running(Console()):
        os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_a_failure_shows_what_failed_why_and_what_to_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    error = CloudError(
        "No machine could be started",
        hint="Try another region",
        code="InsufficientInstanceCapacity",
        reason="We do not have enough capacity.",
        details=["us-east-1a: none", "us-east-1b: none"],
    )
    Console().failure(error)
    shown = capsys.readouterr().err.splitlines()
    assert shown == [
        "✘ No machine could be started",
        "  Reason: InsufficientInstanceCapacity: We do not have enough capacity.",
        "  us-east-1a: none",
        "  us-east-1b: none",
        "→ Try another region",
    ]


def test_with_json_a_failure_is_one_document_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    findings = [Finding("cuda.version", "10.1 is a number", 'Write "10.1"')]
    with pytest.raises(Exit), running(Console(json=True)):
        raise RecipeError("1 error in x.toml", findings=findings)
    document = json.loads(capsys.readouterr().out)
    assert document == {
        "error": {
            "type": "RecipeError",
            "message": "1 error in x.toml",
            "code": None,
            "reason": None,
            "details": ['cuda.version: 10.1 is a number. Write "10.1"'],
            "hint": None,
        }
    }


# One document for each call with --json ---------------------------------------------------------


def run(body: Callable[..., None], **options: Any) -> None:
    command("json", document="recipes.ReportDocument")(body)(None, json=True, **options)


def test_a_second_result_is_a_programming_error(capsys: pytest.CaptureFixture[str]) -> None:
    def twice(console: Console, common: CommonOptions) -> None:
        console.named("first").result(ReportDocument(path=Path("1")))
        console.result(ReportDocument(path=Path("2")))

    with pytest.raises(RuntimeError, match="only once"):
        run(twice)
    assert json.loads(capsys.readouterr().out)["path"] == "1"


def test_a_result_for_a_program_is_the_only_one(capsys: pytest.CaptureFixture[str]) -> None:
    def both(console: Console, common: CommonOptions) -> None:
        console.output("1")
        console.result(ReportDocument(path=Path("2")))

    with pytest.raises(RuntimeError, match="only once"):
        command()(both)(None)
    assert capsys.readouterr().out == "1\n"


@pytest.mark.parametrize("document", [None, LocalDownDocument(was_running=True)])
def test_no_result_or_one_of_another_type_is_a_programming_error(
    document: Document | None, capsys: pytest.CaptureFixture[str]
) -> None:
    def show(console: Console, common: CommonOptions) -> None:
        if document:
            console.result(document)

    with pytest.raises(RuntimeError, match="must show its result, a ReportDocument"):
        run(show)
    assert "RuntimeError" in json.loads(capsys.readouterr().out)["error"]["message"]


def test_a_command_with_json_names_the_type_of_its_document() -> None:
    with pytest.raises(TypeError, match="has a document, or neither"):
        command("json")(lambda console, common: None)


def test_a_failure_after_the_result_is_in_the_same_document(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(console: Console, common: CommonOptions) -> None:
        console.result(ReportDocument(path=Path("1")))
        raise CloudError("The machine was lost")

    with pytest.raises(Exit) as ended:
        run(fail)
    assert ended.value.code == 1
    shown = capsys.readouterr()
    document = json.loads(shown.out)
    assert document["path"] == "1"
    assert document["error"]["message"] == "The machine was lost"
    assert "The machine was lost" in shown.err


def test_a_document_that_was_written_already_stays_the_only_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(console: Console, common: CommonOptions) -> None:
        console.result(ReportDocument(path=Path("1")))
        console.write_document()
        raise CloudError("The machine was lost")

    with pytest.raises(Exit):
        run(fail)
    assert json.loads(capsys.readouterr().out) == {"error": None, "path": "1"}


@pytest.mark.parametrize(
    ("raised", "kind"),
    [(KeyboardInterrupt(), "InterruptError"), (ZeroDivisionError("1 / 0"), "BakeError")],
)
def test_an_interrupt_and_an_unexpected_error_have_a_document_too(
    raised: BaseException, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(console: Console, common: CommonOptions) -> None:
        raise raised

    with pytest.raises((Exit, ZeroDivisionError)):
        run(fail)
    assert json.loads(capsys.readouterr().out)["error"]["type"] == kind


def test_parts_that_failed_are_the_error_of_the_whole(capsys: pytest.CaptureFixture[str]) -> None:
    def fail(console: Console, common: CommonOptions) -> None:
        console.result(ReportDocument(path=Path("1")))
        raise_for(console, {"one": CloudError("It broke", code="Broken"), "two": None})

    with pytest.raises(Exit) as ended:
        run(fail)
    assert ended.value.code == 1
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["message"], error["details"]) == ("1 of 2 failed", ["one: It broke: Broken"])


@pytest.mark.parametrize(
    ("errors", "code", "kind"),
    [
        ([RecipeError("a"), RecipeError("b")], 2, "RequestError"),
        ([RecipeError("a"), CloudError("b")], 1, "BakeError"),
        ([RecipeError("a"), None], 1, "BakeError"),
        ([RecipeError("a")], 2, "RecipeError"),
    ],
)
def test_the_exit_status_is_that_of_the_error(
    errors: list[Any], code: int, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Exit) as ended, running(console := Console(json=True)):
        raise_for(console, dict(enumerate(errors)))  # type: ignore[arg-type]
    assert ended.value.code == code
    assert json.loads(capsys.readouterr().out)["error"]["type"] == kind


def test_names_of_files_that_are_not_utf_8_and_commands_that_lack_an_option_are_made_fit(
    capsys: pytest.CaptureFixture[str],
) -> None:
    odd = "a\udcff.json"

    def fail(console: Console, common: CommonOptions) -> None:
        console.result(ReportDocument(path=Path(odd)))
        raise CloudError(f"Cannot read {odd}", hint="List them: invoke images")

    failing = command("json", "local", document="recipes.ReportDocument")(fail)
    with pytest.raises(Exit):
        failing(None, json=True, local=True)
    document = json.loads(capsys.readouterr().out)
    assert document["path"] == "a\ufffd.json"
    assert document["error"]["message"] == "Cannot read a?.json"
    assert document["error"]["hint"].endswith(" images --local")


@pytest.mark.parametrize("columns", [80, 40])
def test_a_document_is_neither_wrapped_nor_coloured_in_a_terminal(columns: int) -> None:
    with Terminal(["recipes", "--json"], columns=columns) as terminal:
        assert terminal.wait_until_ended() == 0
        document = checked("recipes", terminal.written.replace("\r\n", "\n"))
    assert max(map(len, json.dumps(document, indent=1).splitlines())) > 80


def with_json() -> list[str]:
    return list(documents())


# Words without which a command reports a wrong request before it needs the cloud.
WORDS: dict[str, dict[str, Any]] = {
    "lock": {"recipe": ("mxnet-cu101",)},
    "copy": {"to": "us-west-2"},
    "extend": {"words": ("2h",)},
    "quota": {"raise_": 8},
}


# What each command calls sooner or later.
FAILING = [
    (session, "connect"),
    (control, "status"),
    (control, "up"),
    (control, "down"),
    (lock, "newest_record"),
    (report, "make"),
]


@pytest.mark.parametrize(
    "error",
    [
        CloudError("Nothing works", code="Broken", hint="Repair it"),
        PermissionError(errno.EACCES, "Permission denied", "/root/known_hosts"),
    ],
    ids=["cloud", "file"],
)
@pytest.mark.parametrize("name", with_json())
def test_a_command_that_fails_prints_its_error_as_the_one_document(
    name: str,
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise error

    for owner, function in [*FAILING, *([(recipes, "read_all")] if name == "recipes" else [])]:
        monkeypatch.setattr(owner, function, fail)
    monkeypatch.setenv("BAKE_BUILDS", str(tmp_path))
    with pytest.raises(Exit):
        tasks.namespace[name](None, json=True, **WORDS.get(name, {}))
    document = checked(name, capsys.readouterr().out)
    assert document["error"]["message"]


def test_several_interrupted_machines_are_one_document(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Endpoint:
        def request(self, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
            return {"time": f"2026-12-01T10:{parameters['after_s'] // 60:02}:00Z"}

    monkeypatch.setattr(control, "status", Endpoint)
    tasks.namespace["local.interrupt"](None, json=True, machine=("i-1", "i-2"))
    document = checked("local.interrupt", capsys.readouterr().out)
    assert document["machines"] == [
        {"instance_id": "i-1", "ends_at": "2026-12-01T10:02:00Z"},
        {"instance_id": "i-2", "ends_at": "2026-12-01T10:02:00Z"},
    ]


def test_a_machine_is_interrupted_by_its_name_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    class Endpoint:
        def request(self, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
            asked.append(parameters["instance_id"])
            return {"time": "2026-12-01T10:00:00Z"}

    monkeypatch.setattr(control, "status", Endpoint)
    monkeypatch.setattr(environment, "open_cloud", lambda *_: None)
    monkeypatch.setattr(
        aws_machine, "find_own_machine", lambda _, name: mock.Mock(instance_id=f"i-of-{name}")
    )
    tasks.namespace["local.interrupt"](None, machine=("i-1", "lab1"))
    assert asked == ["i-1", "i-of-lab1"]


def test_a_matrix_is_one_document_even_if_a_recipe_is_given_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given_up = [rebuilding.RecipeReport("mxnet-cu101", "not tried", why=("It failed 3 times.",))]
    monkeypatch.setattr(cli_bake, "requests_for", lambda *args, **options: ([], []))
    monkeypatch.setattr(rebuilding, "plan_groups", lambda *args: ([], given_up))
    tasks.namespace["rebuild"](None, json=True, matrix=True)
    document = checked("rebuild", capsys.readouterr().out)
    assert document["matrix"] == {"include": []}
    assert [each["status"] for each in document["recipes"]] == ["not_tried"]


def test_what_was_measured_is_shown_also_if_it_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BAKE_BUILDS", str(tmp_path / "nothing"))
    monkeypatch.setattr(cli_bench, "open_cloud", lambda *_: None)
    monkeypatch.setattr(cli_bench, "_measure_machine", lambda *_, **__: a_bench(ONE))
    with pytest.raises(Exit) as ended:
        tasks.namespace["bench"](None, json=True)
    assert ended.value.code == 1
    shown = capsys.readouterr()
    document = checked("bench", shown.out)
    assert document["machines"][0]["instance_type"] == ONE.instance_type
    assert "bench.json: No such file or directory" in shown.err


def test_reports_are_shown_also_if_the_summary_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reports = [rebuilding.RecipeReport("mxnet-cu101", "up to date")]
    monkeypatch.setattr(cli_bake, "requests_for", lambda *args, **options: ([], []))
    monkeypatch.setattr(rebuilding, "rebuild_all", lambda *args: reports)
    with pytest.raises(Exit) as ended:
        tasks.namespace["rebuild"](None, json=True, summary=str(tmp_path))
    assert ended.value.code == 1
    shown = capsys.readouterr()
    document = checked("rebuild", shown.out)
    assert [each["status"] for each in document["recipes"]] == ["up_to_date"]
    assert "Is a directory" in document["error"]["message"]
    assert f"Cannot write {tmp_path}: Is a directory" in shown.err


def test_a_name_for_an_image_that_exists_is_not_dropped_in_silence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = pipeline.Outcome("mxnet-cu101", "up to date", 1, image=PROVED)
    request = (mock.Mock(here="--local"), mock.Mock())
    monkeypatch.setattr(cli_bake, "requests_for", lambda *args, **options: ([request], []))
    monkeypatch.setattr(pipeline, "bake", lambda *args: there)
    tasks.namespace["bake"](None, recipe=("mxnet-cu101",), name="mine")
    shown = capsys.readouterr().err
    assert f"--name mine was not used: the image exists already, as {PROVED.name}" in shown


def test_only_the_console_prints() -> None:
    for path in (REPOSITORY / "bake" / "cli").rglob("*.py"):
        assert not re.search(r"(?<![.\w])print\(|sys\.stdout\.write", path.read_text()), path


# Wrong requests ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["bake", "--jobs", "many"], "Invalid value for --jobs: many"),
        (["rebuild", "--give-up-after", "x"], "Invalid value for --give-up-after: x"),
        (["bake", "--cudda"], "Unknown option: --cudda"),
        (["connect", "a", "b"], "This command takes one machine, not several: a b"),
        (["bake", "mxnet-cu101", "--jobs", "0"], "--jobs 0: at least one machine is needed"),
        (["rebuild", "--give-up-after", "0"], "no recipe would ever be tried"),
        (["rebuild", "--summary", "nowhere/to/be"], "cannot be written to nowhere/to/be"),
        (["bake", "--all", "mxnet-cu101"], "--all means all recipes"),
        (
            ["bake", "mxnet-cu101", "--quiet", "--verbose"],
            "--quiet and --verbose exclude each other",
        ),
        (["bake", "mxnet-cu101", "--name", "   "], "Invalid image name: '   '"),
        (["bake", "mxnet-cu101", "--name", "a:b"], "Invalid image name: 'a:b'"),
        (["bake", "mxnet-cu101", "--name", "ab"], "Invalid image name: 'ab'"),
        (["copy", "--to", "us-west-2", "--name", "déjà"], "Invalid image name: 'déjà'"),
        (["bake", "mxnet-cu101", "--instance-type", ","], "This list is empty: ','"),
        (["launch-from-ami", "--instance-type", " "], "This list is empty: ' '"),
        (
            ["bake", "mxnet-cu101", "--instance-type", "g4dn.xlarge,g4dn"],
            "  --instance-type: 'g4dn' is not a valid instance type",
        ),
        (
            ["plan", "mxnet-cu101", "--instance-type", "p2.xlarge"],
            "  --instance-type: p2.xlarge (K80) is no longer offered",
        ),
        (["bake", "mxnet-cu101", "--cuda", "10.7"], "  --cuda: unknown CUDA release: 10.7"),
        (["bake", "mxnet-cu101", "--framework", "jax"], "  --framework: "),
        (["bake", "mxnet-cu100", "mxnet-cu101", "--name", "x"], "--name is for one image"),
        (["bake", "mxnet-cu100", "mxnet-cu101", "--cuda", "11.2"], "are for one recipe"),
        (["bake", "--cuda", "10.1", "--shell-on-failure"], "is for one recipe, in a terminal"),
        (["bake", "mxnet-cu101", "--cuda", "11.2"], "mxnet 1.7.0 has no wheel for CUDA 11.2"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, list) else "",
)
def test_contradicting_options_are_reported_before_any_request(words: list[str], says: str) -> None:
    run = invoke(*words)
    assert run.returncode == 2, run.stderr
    assert says in run.stderr
    assert "Traceback" not in run.stderr
