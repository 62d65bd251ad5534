"""The candidates for a place in a command line, as the scripts of the shells get them."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

import tasks
from bake import catalog
from bake.aws.placement import Market
from bake.cli.completion import values
from bake.cli.completion.candidate import Candidate, Place
from bake.cli.completion.line import complete
from bake.cli.parser import ParsedTask
from bake.recipe.project import Project
from tests.support.commands import invoke
from tests.support.environment import REPOSITORY

COMMANDS: dict[str, ParsedTask] = {
    name: tasks.namespace[name] for name in tasks.namespace.task_names
}
RECIPES = sorted(path.stem for path in (REPOSITORY / "manifests").glob("*.toml"))
MACHINES = [Candidate("lab1", "g4dn.xlarge, running"), Candidate("lab2")]
IMAGES = [Candidate("bake/mxnet-cu101/20261101")]


@pytest.fixture(autouse=True)
def no_cloud(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bake.cli.completion.cloud_names.machine_names", lambda *_, **__: MACHINES)
    monkeypatch.setattr("bake.cli.completion.cloud_names.image_names", lambda *_, **__: IMAGES)


def candidates(line: str) -> list[str]:
    run = invoke("--complete", "--", line)
    assert run.stderr == ""
    assert run.returncode == (0 if run.stdout else 1)
    return run.stdout.splitlines()


def takes_files(line: str) -> bool:
    run = invoke("--complete", "--", line)
    return (run.returncode, run.stdout, run.stderr) == (0, "", "")


@pytest.mark.parametrize("line", ["invoke ", "invoke b", ".venv/bin/invoke ", "A=1 inv --echo "])
def test_commands_are_candidates_in_front(line: str) -> None:
    assert candidates(line) == list(COMMANDS)


def test_invokes_own_options_are_candidates_in_front_of_the_command() -> None:
    assert {"--list", "--help"} <= set(candidates("invoke -"))
    assert "bake" in candidates("invoke --help ")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_options_of_each_command_are_candidates(name: str) -> None:
    page = COMMANDS[name].page(name)
    shown = [*page.sections["Options"], *page.sections["Common options"]]
    expected = {entry.name.removeprefix("-h, ").split()[0] for entry in shown}
    assert set(candidates(f"invoke {name} --")) == expected


def test_an_option_that_was_given_is_not_offered_again() -> None:
    left = candidates("invoke bake --cuda 10.1 --json -")
    assert "--fresh" in left
    assert not {"--cuda", "--json"} & set(left)


def test_options_are_offered_where_a_command_takes_no_words() -> None:
    assert candidates("invoke machines ") == candidates("invoke machines --")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("invoke bake ", RECIPES),
        ("invoke bake mxnet", RECIPES),
        ("invoke bake --fresh ", RECIPES),
        ("invoke bake --region us-west-2 ", RECIPES),
        ("invoke bake mxnet-cu101 ", [name for name in RECIPES if name != "mxnet-cu101"]),
        ("invoke doctor mxnet-cu101 ", []),  # it takes one recipe
        ("invoke images --recipe ", RECIPES),
        ("invoke images --recipe=", [f"--recipe={name}" for name in RECIPES]),
        ("invoke terminate ", ["lab1", "lab2"]),
        ("invoke terminate lab1 ", ["lab2"]),
        ("invoke connect ", ["lab1", "lab2"]),
        ("invoke run ", ["lab1", "lab2"]),
        ("invoke run lab1 ", []),
        ("invoke put --machine ", ["lab1", "lab2"]),
        ("invoke get ", ["lab1:", "lab2:"]),
        ("invoke extend lab1 ", []),
        ("invoke copy ", [*RECIPES, *(each.name for each in IMAGES)]),
        ("invoke launch-from-ami --ami ", [*RECIPES, *(each.name for each in IMAGES)]),
        ("invoke launch-from-ami --market spot,", ["spot,on-demand"]),
        ("invoke launch-from-ami --market=spot,", ["--market=spot,on-demand"]),
        ("invoke launch-from-ami --at-end ", ["stop", "terminate"]),
        ("invoke launch-from-ami --name ", []),
        ("invoke bake --framework ", [*catalog.load().frameworks]),
        ("invoke completion ", ["bash", "zsh", "fish"]),
        ("invoke nosuch ", list(COMMANDS)),
        ("invoke machines images --recipe ", RECIPES),  # one command behind another
        ("invoke bake 'mxnet", RECIPES),
        ('invoke bake "', RECIPES),
        ("invoke bake \\", RECIPES),
    ],
)
def test_values_are_candidates_where_they_belong(line: str, expected: list[str]) -> None:
    assert candidates(line) == expected


@pytest.mark.parametrize(
    "line",
    [
        "invoke put ",
        "invoke put train.py lab1:",
        "invoke get lab1:x ",
        "invoke run -- ",
        "invoke run lab1 -- python ",
        "invoke lock mxnet-cu101 --record ",
        "invoke rebuild --summary=",
    ],
)
def test_the_shell_completes_names_of_files(line: str) -> None:
    assert takes_files(line)


def test_regions_and_instance_types_are_candidates_also_in_a_list() -> None:
    regions = candidates("invoke copy x --to us-west-2,")
    assert "us-west-2,eu-central-1" in regions
    assert "us-west-2,us-west-2" not in regions
    assert "us-east-1" in candidates("invoke machines --region ")
    assert "g4dn.xlarge,g5.xlarge" in candidates("invoke bench --instance-type g4dn.xlarge,")
    assert "10.1" in candidates("invoke bake --cuda ")
    assert "t4" in candidates("invoke gpus --gpu ")


def test_each_candidate_explains_itself_if_the_script_wants_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BAKE_COMPLETION", "1")
    lines = dict(line.split("\t") for line in candidates("invoke bake "))
    assert lines["mxnet-cu101"].startswith("MXNet 1.7 for CUDA 10.1")
    assert "lab1\tg4dn.xlarge, running" in candidates("invoke stop ")
    assert "us-west-2\tUS West (Oregon)" in candidates("invoke images --region ")


def test_a_name_that_a_shell_would_run_is_not_a_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["$(reboot)", "a b", "`id`", "x;y", "\x1b[2J", "*", "good-1"]
    hostile = [Candidate(name, "\x1b[2Jtab\there\nline") for name in names]
    monkeypatch.setattr("bake.cli.completion.cloud_names.machine_names", lambda *_, **__: hostile)
    monkeypatch.setenv("BAKE_COMPLETION", "1")
    assert candidates("invoke stop ") == ["good-1\t␛[2Jtab here line"]


def test_no_line_is_an_error() -> None:
    syntaxes = {name: each.syntax() for name, each in COMMANDS.items()}
    parts = [
        "bake",
        "--cuda",
        "--cuda=",
        "--",
        "-",
        "'",
        "\\",
        "=",
        ",",
        " ",
        "\t",
        "\0",
        "é",
        "get",
    ]
    for words in itertools.product(parts, repeat=3):
        for between in ("", " "):
            complete(f"invoke {between.join(words)}", syntaxes, syntaxes["machines"])
    complete("", syntaxes, syntaxes["machines"])


def test_a_broken_recipe_is_a_candidate_by_the_name_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "manifests"
    folder.mkdir()
    (folder / "syntax.toml").write_text("name = = 1")
    (folder / "latin.toml").write_bytes(b"\xff")
    (folder / "file.toml").write_text('name = "other"')
    monkeypatch.setattr("bake.cli.environment.project", lambda: Project(tmp_path))
    assert candidates("invoke bake ") == ["other", "latin", "syntax"]


def test_runs_on_this_computer_are_candidates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "20261130-1").mkdir()
    (tmp_path / "20261130-1" / "record.json").touch()
    monkeypatch.setenv("BAKE_BUILDS", str(tmp_path))
    assert candidates("invoke report ") == [*RECIPES, "20261130-1"]


def test_each_kind_of_value_belongs_to_an_argument() -> None:
    names = {each.name for command in COMMANDS.values() for each in command.get_arguments()}
    assert values.SOURCES.keys() | values.FILES | values.LISTS <= names


def test_the_fixed_values_are_those_that_the_commands_accept() -> None:
    def fixed(name: str) -> set[str]:
        place = Place(name, "", command="", number=0, local=False, region=None)
        return {each.name for each in values.values_for(place) or []}

    assert fixed("market") == set(Market.__args__)
    assert fixed("cuda") == catalog.load().cuda.keys()
    for name in fixed("sort"):
        assert "Unknown order" not in invoke("gpus", "--sort", name, "--help").stderr


def test_an_answer_comes_at_once_and_without_boto() -> None:
    program = Path(sys.executable).with_name("invoke")
    run = subprocess.run(
        [sys.executable, "-X", "importtime", program, "--complete", "--", "invoke bake --region "],
        cwd=REPOSITORY,
        env={**os.environ, "BAKE_COMPLETION": "1"},
        capture_output=True,
        text=True,
    )
    assert "us-west-2\tUS West (Oregon)" in run.stdout
    for slow in ("boto3", "pydantic", "rich", "fabric"):
        assert f" {slow}\n" not in run.stderr
