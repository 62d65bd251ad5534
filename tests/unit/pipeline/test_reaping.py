"""`invoke reap`, and a bake's own reaping: what is said, what is removed, with which exit code."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from invoke.exceptions import Exit

from bake.aws import parameter
from bake.aws.client.session import connect
from bake.aws.client.undo import Leftover
from bake.aws.orphans import KINDS, Orphan
from bake.aws.placement import Placement
from bake.aws.reap import Removal
from bake.aws.tags import rfc3339, specifications
from bake.cli.command import raise_for, running
from bake.cli.views import reap
from bake.console.console import Console
from bake.errors import CloudError, RequestError
from bake.pipeline import reaping
from tests.support.aws_in_process import Aws
from tests.support.environment import REPOSITORY
from tests.support.kitchen import Kitchen, Witness
from tests.support.leftovers import held
from tests.unit.aws.test_reap import a_builder, a_run, an_account, ended, later, lease

BIN = Path(sys.executable).parent
NOW = datetime(2026, 11, 21, 6, 30, tzinfo=UTC)


@pytest.fixture
def aws() -> Iterator[Aws]:
    with an_account() as aws:
        yield aws


# What is shown ----------------------------------------------------------------------------------


def some(kind: Any, **more: Any) -> Orphan:
    fields = {
        "id": "i-0123456789abcdef0",
        "run": "20261120-201500-abcdef",
        "recipe": "mxnet-cu118-debian12",
        "made_at": NOW - timedelta(hours=11),
        "why": "its run is dead: its process on this computer has ended",
        **more,
    }
    return Orphan("us-east-1", kind, **fields)


def shown(capsys: pytest.CaptureFixture[str], *reaped: reaping.Reaped) -> list[str]:
    reap.show_reaped(Console(), reaped, "invoke reap --region us-east-1 --yes")
    lines = [line.rstrip() for line in capsys.readouterr().err.splitlines()]
    assert all(len(line) <= 80 for line in lines), lines
    return lines


def test_a_table_says_what_there_is_and_why_it_may_go(capsys: pytest.CaptureFixture[str]) -> None:
    place = Placement("g4dn.xlarge", "us-east-1a", "", "", "on-demand")
    machine = some("machine", placement=place)
    group = some("security group", id="sg-0123456789abcdef0", made_at=None)
    lasting = some("lease", id=f"/bake/lease/{'d' * 64}/12")
    usd = {machine: 383.98, group: 0.0, lasting: None}
    lines = shown(capsys, reaping.Reaped("us-east-1", NOW, [machine, group, lasting], usd))
    assert lines[0].split() == ["what", "recipe", "why", "age", "USD/month"]
    assert re.split("  +", lines[1]) == [
        "machine", "mxnet-cu118-", "its run is dead: its", "11 h", "383.98",
    ]  # fmt: skip
    assert re.split("  +", lines[2])[:2] == ["i-0123456789abcdef0", "debian12"]
    assert [lines[1 + 3].split()[0], lines[1 + 3].split()[-2:]] == ["security", ["?", "-"]]
    assert "".join(line.split()[0] for line in lines if "/bake" in line or line[:4] == "dddd") == (
        f"/bake/lease/{'d' * 64}/12"
    )
    assert lines[-1] == "Nothing was removed. Remove it: invoke reap --region us-east-1 --yes"


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_fits_on_eighty_columns(capsys: pytest.CaptureFixture[str], kind: Any) -> None:
    one = some(
        kind,
        id="bake-20261121-063000-abcdef-of-somebody",
        why="it failed: Client.InvalidSnapshot.NotFound: snap-0123456789abcdef0 is gone",
    )
    shown(capsys, reaping.Reaped("us-east-1", NOW, [one], {one: 12345.67}))


def test_where_nothing_is_left_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, reaping.Reaped("us-east-1", NOW), reaping.Reaped("eu-west-1", NOW))
    assert lines == ["Runs have left nothing behind here."]


def test_what_stays_is_named_with_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    one = some("machine")
    left = Leftover(str(one), one.command, "OperationNotPermitted: It is protected.")
    error = CloudError("Not all could be removed", details=[str(left)])
    reaped = reaping.Reaped("us-east-1", NOW, [one], {one: 0.0}, [Removal(one, left)], error)
    reap.show_reaped(Console(), [reaped], "")
    said = capsys.readouterr().err
    assert f"Remove it with: {one.command}" in said
    assert "Nothing was removed" not in said
    reap.show_reaped(Console(json=True), [reaped], "")
    [document] = json.loads(capsys.readouterr().out)
    [each] = document["remains"]
    assert (each["state"], each["command"]) == ("left", one.command)
    assert document["error"]["message"] == "Not all could be removed"
    with pytest.raises(Exit) as ended:
        raise_for([reaping.Reaped("eu-west-1", NOW), reaped])
    assert ended.value.code == 1


def test_an_interrupt_promises_nothing_that_was_not_done(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(Exit) as ended, running(Console(), interrupted="the rest, the next finds"):
        raise KeyboardInterrupt("SIGINT")
    assert ended.value.code == 130
    assert "Interrupted; the rest, the next finds." in capsys.readouterr().err


# Regions ----------------------------------------------------------------------------------------


def test_regions_are_those_asked_for_or_the_usual_or_all(aws: Aws) -> None:
    mine = aws.cloud.region
    assert reaping.regions_of(aws.cloud, None, False, []) == [mine]
    assert aws.params("DescribeRegions") == []
    assert reaping.regions_of(aws.cloud, None, False, ["us-west-2"]) == [mine, "us-west-2"]
    assert reaping.regions_of(aws.cloud, "us-west-2, eu-west-1", False, [mine]) == [
        "eu-west-1",
        "us-west-2",
    ]
    everywhere = reaping.regions_of(aws.cloud, None, True, [])
    assert len(everywhere) > 15
    assert mine in everywhere


def test_what_is_no_region_is_a_wrong_request(aws: Aws) -> None:
    with pytest.raises(RequestError) as caught:
        reaping.regions_of(aws.cloud, "us-wset-2,us-east-1", False, [])
    assert "us-west-2" in caught.value.hint
    with pytest.raises(RequestError):
        reaping.regions_of(aws.cloud, "us-west-2", True, [])


def test_a_region_that_refuses_does_not_keep_the_others(aws: Aws) -> None:
    run = a_run(aws)
    lease(aws, run, ended())
    a_builder(aws, run)
    aws.refuse("GetParametersByPath", "AccessDeniedException", times=1)
    regions = ["us-east-1", "us-west-2"]
    first = reaping.reap(aws.cloud, regions, Console(), recipe=None, act=False)
    assert [bool(each.error) for each in first].count(True) == 1
    again = reaping.reap(aws.cloud, regions, Console(), recipe=None, act=True)
    assert [(each.region, len(each.remains), each.error) for each in again] == [
        ("us-east-1", 4, None),
        ("us-west-2", 0, None),
    ]


def test_a_bake_goes_on_where_the_reaping_is_refused(
    aws: Aws, capsys: pytest.CaptureFixture[str]
) -> None:
    from types import SimpleNamespace

    context: Any = SimpleNamespace(cloud=aws.cloud, console=Console())
    job: Any = SimpleNamespace(recipe=SimpleNamespace(name="mxnet-cu101"))
    aws.refuse("DescribeVolumes", "UnauthorizedOperation", times=1)
    reaping.reap_own(context, job, frozenset())
    assert "still there" in capsys.readouterr().err
    run = a_run(aws)
    a_builder(aws, run)
    later(aws, days=2)
    aws.refuse("TerminateInstances", "OperationNotPermitted", times=1)
    reaping.reap_own(context, job, frozenset())
    said = capsys.readouterr().err
    assert "left behind: machine i-" in said
    assert aws.cloud.leftovers == []
    reaping.reap_own(context, job, frozenset())
    assert "1 machine" in capsys.readouterr().err
    reaping.reap_own(context, job, frozenset())
    assert capsys.readouterr().err == ""


# On the local cloud -----------------------------------------------------------------------------


def invoke(*words: str, clock: float = 0) -> subprocess.Popen[str]:
    wrong = [sys.executable, str(REPOSITORY / "tests" / "support" / "wrong_clock.py"), str(clock)]
    command = [*(wrong if clock else []), str(BIN / "invoke"), *words, "--local"]
    return subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def said(process: subprocess.Popen[str], status: int = 0) -> tuple[str, str]:
    out, err = process.communicate(timeout=100)
    assert process.returncode == status, err + out
    assert "Traceback" not in err
    return out, err


def leases() -> list[str]:
    return [one.name for one in parameter.below(connect(), "/bake/lease", recursive=True)]


def killed(kitchen: Kitchen, witness: Witness) -> None:
    """A bake that was ended by SIGKILL in the middle of its second stage."""
    kitchen.line("a", "b")
    kitchen.recipe("one", "a", "b")
    witness.held.add("b begins")
    with kitchen.baking("one") as process:
        witness.wait_for("b begins")
        process.send_signal(signal.SIGKILL)
        process.wait(10)


@pytest.mark.machines
def test_what_a_killed_bake_has_left_is_shown_and_then_removed_once(
    kitchen: Kitchen, witness: Witness
) -> None:
    before, leases_before = held(), leases()
    killed(kitchen, witness)
    orphans = held()
    _, shown = said(invoke("reap", "--recipe", "one"))
    for word in ("machine", "security group", "key pair", "lease", "process on this"):
        assert word in shown
    assert "reap --region us-east-1 --recipe one --yes --local" in shown
    assert held() == orphans, "it was only to be shown"
    both = [invoke("reap", "--recipe", "one", "--yes", "--json") for _ in range(2)]
    documents = [json.loads(said(process)[0]) for process in both]
    states = [each["state"] for [region] in documents for each in region["remains"]]
    assert {*states} == {"removed"}
    after = held()
    assert len(after.pop("snapshots")) - len(before.pop("snapshots", [])) == 1, "a checkpoint"
    assert after == before
    assert leases() == leases_before
    _, shown = said(invoke("reap", "--recipe", "one"))
    assert "left nothing behind" in shown


@pytest.mark.machines
def test_a_wrong_request_is_refused_before_anything(local_cloud: Path) -> None:
    _, error = said(invoke("reap", "--region", "us-east-1,us-wset-2"), status=2)
    assert "us-wset-2" in error


@pytest.mark.machines
def test_a_wrong_clock_takes_nothing_of_others_and_makes_nothing_that_has_expired(
    kitchen: Kitchen, witness: Witness
) -> None:
    """Two hours, where a run's time is one."""
    ec2 = boto3.client("ec2")
    tags = {"bake:run": "theirs", "bake:expires": rfc3339(datetime.now(UTC) + timedelta(hours=1))}
    theirs = ec2.create_security_group(
        GroupName="theirs",
        Description="theirs",
        TagSpecifications=specifications(tags, "security-group"),
    )["GroupId"]
    out, _ = said(invoke("reap", "--yes", "--json", clock=7200))
    assert theirs not in out
    ec2.delete_security_group(GroupId=theirs)
    kitchen.line("a")
    kitchen.recipe("one", "a", builder={"timeout_hours": 1})
    wrong = REPOSITORY / "tests" / "support" / "wrong_clock.py"
    program = REPOSITORY / "tests" / "support" / "kitchen.py"
    run = subprocess.run(
        [sys.executable, wrong, "-7200", program, str(kitchen.folder), "one"],
        capture_output=True,
        text=True,
        timeout=100,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert "one baked ami-" in run.stdout, run.stderr
    assert witness.began() == ["a"]
