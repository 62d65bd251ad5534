"""Which machines the commands mean, what they ask, and what they say of a bake's builder."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from unittest import mock

import pytest
from invoke.exceptions import Exit

from bake.aws import lease_holder
from bake.aws.client import session
from bake.aws.machine import Machine, find_machine
from bake.aws.tags import USED_BY
from bake.cli.confirm import confirm
from bake.console.console import Console
from bake.errors import RequestError
from bake.machine import ssh_config
from bake.machine.key_store import key_path
from tests.support.aws_in_process import Aws
from tests.support.commands import invoke
from tests.support.runs import a_builder, a_machine, a_run, an_account, ended, lease

QUESTION = "Terminate lab1 (i-1, g4dn.xlarge)?"
COMMAND = "invoke terminate lab1 --yes"


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    with an_account() as aws:
        monkeypatch.setattr(session, "connect", lambda region: aws.cloud)
        yield aws


def state(aws: Aws, machine: Machine) -> str:
    found = find_machine(aws.cloud, machine.instance_id)
    return found.state if found else "terminated"


@pytest.mark.parametrize(
    "words",
    [
        ["terminate", "--yes"],
        ["stop"],
        ["start"],
        ["extend", "2h"],
        ["connect"],
        ["run", "hostname"],
        ["put", "README.md", "there"],
        ["get", "there", "."],
        ["jupyter", "--no-browser"],
        ["bench"],
    ],
)
def test_a_machine_of_a_bake_or_a_bench_is_never_meant_by_default(
    aws: Aws, words: list[str]
) -> None:
    builder = a_builder(aws, a_run(aws))
    bench = a_machine(aws, "bench-g4dn", **{USED_BY: "bench"})
    refused = invoke(*words)
    assert refused.returncode == 2, refused.stderr
    assert "You have no machines in us-east-1, except those that a bake or a" in refused.stderr
    assert f"{builder.instance_id}  {builder.name} (running, used by a bake)" in refused.stderr
    assert f"{bench.instance_id}  bench-g4dn (running, used by a bench)" in refused.stderr
    assert {state(aws, builder), state(aws, bench)} == {"running"}


def test_the_only_machine_beside_a_builder_is_meant_by_default(aws: Aws) -> None:
    builder, mine = a_builder(aws, a_run(aws)), a_machine(aws, "lab1")
    done = invoke("terminate", "--yes", "--json")
    assert [each["name"] for each in json.loads(done.stdout)["machines"]] == ["lab1"], done.stderr
    assert (state(aws, mine), state(aws, builder)) == ("terminated", "running")


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_without_a_terminal_nothing_ends_until_yes_is_given(aws: Aws, more: list[str]) -> None:
    mine = a_machine(aws, "lab1")
    refused = invoke("terminate", *more)
    question = f"Terminate lab1 ({mine.instance_id}, g4dn.xlarge)?"
    assert refused.returncode == 2
    assert question in refused.stderr
    assert "terminate lab1 --yes\n" in refused.stderr
    if more:
        assert question in json.loads(refused.stdout)["error"]["message"]
    assert state(aws, mine) == "running"


def test_all_names_are_read_before_a_machine_is_ended(aws: Aws) -> None:
    mine = a_machine(aws, "lab1")
    refused = invoke("terminate", "lab1", "lab2", "--yes")
    assert (refused.returncode, state(aws, mine)) == (2, "running")
    assert "Machine lab2 not found in us-east-1" in refused.stderr


def test_several_machines_are_one_question(aws: Aws) -> None:
    one, two = a_machine(aws, "lab1"), a_machine(aws, "lab2")
    refused = invoke("terminate", "lab1", two.instance_id, "lab1")
    assert "Terminate these 2 machines?" in refused.stderr
    for each in (one, two):
        assert f"  {each.name} ({each.instance_id}, g4dn.xlarge)\n" in refused.stderr
    assert "terminate lab1 lab2 --yes\n" in refused.stderr


@pytest.mark.parametrize("verb", ["stop", "terminate"])
def test_the_end_of_a_builder_says_what_it_does_to_a_running_bake(aws: Aws, verb: str) -> None:
    run = a_run(aws)
    builder = a_builder(aws, run)
    running = lease(aws, run, lease_holder._this_process())
    words = [verb, builder.name, *(["--yes"] if verb == "terminate" else [])]
    done = invoke(*words)
    assert done.returncode == 0, done.stderr
    assert f"{builder.name} is the builder of a running bake of mxnet-cu101." in done.stderr
    assert "continues on another machine from its last checkpoint" in done.stderr
    assert state(aws, builder) == {"stop": "stopped", "terminate": "terminated"}[verb]
    running.release()


def test_a_builder_whose_bake_has_ended_may_end_without_a_warning(aws: Aws) -> None:
    run = a_run(aws)
    builder = a_builder(aws, run)
    lease(aws, run, ended())
    done = invoke("terminate", builder.instance_id, "--yes")
    assert "checkpoint" not in done.stderr
    assert state(aws, builder) == "terminated"


def test_without_permission_to_read_leases_the_warning_is_conditional(aws: Aws) -> None:
    builder = a_builder(aws, a_run(aws))
    aws.refuse("GetParametersByPath", "AccessDeniedException")
    done = invoke("terminate", builder.instance_id, "--yes")
    assert "If the bake still runs, it continues on another machine" in done.stderr
    assert state(aws, builder) == "terminated"


def test_a_machine_of_a_bench_is_ended_with_a_warning(aws: Aws) -> None:
    bench = a_machine(aws, "bench-g4dn", **{USED_BY: "bench"})
    done = invoke("terminate", "bench-g4dn", "--yes")
    assert "bench-g4dn is used by a bench" in done.stderr
    assert state(aws, bench) == "terminated"


# One rule for the machine that is meant ----------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["stop", "lab2"],
        ["stop", "--machine", "lab2"],
        ["run", "lab2", "--", "hostname"],
        ["run", "hostname", "--machine", "lab2"],
        ["put", "README.md", "lab2:"],
        ["put", "--machine", "lab2", "README.md", "there"],
        ["get", "lab2:there", "."],
        ["get", "there", ".", "--machine", "lab2"],
        ["extend", "lab2", "1h"],
        ["extend", "1h", "--machine", "lab2"],
        ["connect", "lab2"],
        ["ssh-config", "lab2"],
        ["jupyter", "--machine", "lab2"],
        ["bench", "lab2"],
    ],
    ids=" ".join,
)
def test_each_command_takes_a_machine_by_name_and_by_option(aws: Aws, words: list[str]) -> None:
    a_machine(aws, "lab1")
    refused = invoke(*words)
    assert refused.returncode == 2
    assert "Machine lab2 not found in us-east-1" in refused.stderr
    assert "lab1 (running)" in refused.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["run", "lab1", "--machine", "lab2", "--", "hostname"],
        ["put", "README.md", "lab1:", "--machine", "lab2"],
        ["extend", "lab1", "1h", "--machine", "lab2"],
    ],
    ids=" ".join,
)
def test_two_names_of_machines_are_a_contradiction(aws: Aws, words: list[str]) -> None:
    refused = invoke(*words)
    assert refused.returncode == 2
    assert "Two machines are named: lab1, and --machine lab2" in refused.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "lab1"], "No command given for the machine lab1"),
        (["put", "README.md", "lab1"], "lab1 is a machine, and a colon is missing"),
        (["get", "lab1", "."], "lab1 is a machine, and a colon is missing"),
    ],
)
def test_a_machine_is_not_taken_for_a_command_or_a_file(
    aws: Aws, words: list[str], says: str
) -> None:
    a_machine(aws, "lab1")
    refused = invoke(*words)
    assert refused.returncode == 2
    assert says in refused.stderr


def test_the_configuration_of_ssh_is_of_ones_own_machines_and_keeps_a_builder_s_file(
    aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder, mine = a_builder(aws, a_run(aws)), a_machine(aws, "lab1")

    def host(cloud: object, machine: Machine, **_: object) -> ssh_config.Host:
        key = key_path(aws.cloud.account_id, aws.cloud.region, "mine")
        name = ssh_config.alias(machine)
        return ssh_config.Host(name, machine.instance_id, "192.0.2.1", "ubuntu", 22, key)

    monkeypatch.setattr(ssh_config, "find_host", host)
    named = invoke("ssh-config", builder.name, "--write", "--json")
    assert [each["alias"] for each in json.loads(named.stdout)["hosts"]] == [builder.name]  # bake-…
    done = invoke("ssh-config", "--write", "--json")
    written = json.loads(done.stdout)["hosts"]
    assert [each["instance_id"] for each in written] == [mine.instance_id]
    kept = {path.stem for path in ssh_config.folder().iterdir()}
    assert kept == {builder.instance_id, mine.instance_id}


# In a terminal ---------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def in_terminal(typed: str, **more: bool) -> tuple[str, BaseException | None]:
    """Confirm where stdin and stderr are terminals; return what is shown, and the error."""
    error: BaseException | None = None
    with (
        mock.patch.object(sys, "stdin", Terminal(typed)),
        mock.patch.object(sys, "stderr", Terminal()) as shown,
    ):
        try:
            confirm(Console(**more), QUESTION, yes=False, command=COMMAND, details=["i-1", "i-2"])
        except (RequestError, Exit) as refused:
            error = refused
        return shown.getvalue(), error


@pytest.mark.parametrize("typed", ["y\n", "Yes\n", " YES \n"])
def test_yes_in_a_terminal_is_enough(typed: str) -> None:
    shown, error = in_terminal(typed)
    assert error is None
    assert shown.endswith(f"i-1\ni-2\n{QUESTION} [y/N] ")


@pytest.mark.parametrize("typed", ["\n", "n\n", "yellow\n", ""])
def test_every_other_answer_in_a_terminal_is_no(typed: str) -> None:
    shown, error = in_terminal(typed)
    assert isinstance(error, Exit)
    assert error.code == 2
    assert shown.endswith("! Nothing was done.\n")


def test_with_json_no_question_is_shown_in_a_terminal() -> None:
    shown, error = in_terminal("y\n", json=True)
    assert isinstance(error, RequestError)
    assert COMMAND in error.hint
    assert "[y/N]" not in shown


def test_a_quiet_command_asks_in_a_terminal() -> None:
    assert in_terminal("y\n", quiet=True)[1] is None
