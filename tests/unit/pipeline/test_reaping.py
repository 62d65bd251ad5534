"""`invoke reap`, and the reaping of a bake: the output, the removals and the exit code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from invoke.exceptions import Exit

from bake.aws.client.undo import Leftover
from bake.aws.orphans import KINDS, Orphan
from bake.aws.placement import Placement
from bake.aws.reap import Removal
from bake.cli.command import raise_for, running
from bake.cli.views import reap
from bake.console.console import Console
from bake.errors import CloudError, RequestError
from bake.pipeline import reaping
from tests.support.aws_in_process import Aws
from tests.support.documents import document_of
from tests.support.runs import a_builder, a_run, an_account, ended, later, lease
from tests.support.terminal import shown_in_terminal

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


def shown(*reaped: reaping.Reaped) -> list[str]:
    command = "invoke reap --region us-east-1 --yes"
    lines = shown_in_terminal(lambda: reap.show_reaped(Console(), reaped, command)).splitlines()
    assert all(len(line) <= 80 for line in lines), lines
    return lines


def test_a_table_says_what_there_is_and_why_it_may_go() -> None:
    place = Placement("g4dn.xlarge", "us-east-1a", "", "", "on-demand")
    machine = some("machine", placement=place)
    group = some("security group", id="sg-0123456789abcdef0", made_at=None)
    usd = {machine: 383.98, group: 0.0}
    lines = shown(reaping.Reaped("us-east-1", NOW, [machine, group], usd))
    assert lines[0].split() == ["id", "what", "recipe", "why", "age", "$/month"]
    assert re.split("  +", lines[1]) == [
        "i-0123456789abcdef0", "machine", "mxnet-cu118-", "its run is", "11 h", "383.98",
    ]  # fmt: skip
    [security_group] = [line for line in lines if line.startswith("sg-0123456789abcdef0")]
    assert security_group.split()[-2:] == ["?", "-"]
    assert lines[-1] == "Nothing was removed. To remove them: invoke reap --region us-east-1 --yes"


def test_an_id_that_is_as_long_as_the_terminal_is_whole() -> None:
    lasting = some("lease", id=f"/bake/lease/{'d' * 64}/12")
    lines = shown(reaping.Reaped("us-east-1", NOW, [lasting], {lasting: None}))
    assert lines[:2] == [f"/bake/lease/{'d' * 64}/12", "  what     lease"]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_fits_on_eighty_columns(kind: Any) -> None:
    one = some(
        kind,
        id="bake-20261121-063000-abcdef-of-somebody",
        why="it failed: Client.InvalidSnapshot.NotFound: snap-0123456789abcdef0 is gone",
    )
    shown(reaping.Reaped("us-east-1", NOW, [one], {one: 12345.67}))


def test_where_nothing_is_left_that_is_said() -> None:
    lines = shown(reaping.Reaped("us-east-1", NOW), reaping.Reaped("eu-west-1", NOW))
    assert lines == ["No orphaned resources found."]


def test_what_stays_is_named_with_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    one = some("machine")
    left = Leftover(str(one), one.command, "OperationNotPermitted: It is protected.")
    error = CloudError("Not all could be removed", details=[str(left)])
    reaped = reaping.Reaped("us-east-1", NOW, [one], {one: 0.0}, [Removal(one, left)], error)
    reap.show_reaped(Console(), [reaped], "")
    said = capsys.readouterr().err
    assert f"Remove it with: {one.command}" in said
    assert "Nothing was removed" not in said
    found = document_of(lambda console: reap.show_reaped(console, [reaped], ""), capsys)
    [document] = found["regions"]
    [each] = document["resources"]
    assert (each["state"], each["command"]) == ("failed", one.command)
    assert document["error"]["message"] == "Not all could be removed"
    with pytest.raises(Exit) as ended:
        raise_for(Console(), {"eu-west-1": None, "us-east-1": error})
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

    job: Any = SimpleNamespace(
        cloud=aws.cloud, console=Console(), recipe=SimpleNamespace(name="mxnet-cu101")
    )
    aws.refuse("DescribeVolumes", "UnauthorizedOperation", times=1)
    reaping.reap_own(job, frozenset())
    assert "was not removed" in capsys.readouterr().err
    run = a_run(aws)
    a_builder(aws, run)
    later(aws, days=2)
    aws.refuse("TerminateInstances", "OperationNotPermitted", times=1)
    reaping.reap_own(job, frozenset())
    said = capsys.readouterr().err
    assert "left behind: machine i-" in said
    assert aws.cloud.leftovers == []
    reaping.reap_own(job, frozenset())
    assert "1 machine" in capsys.readouterr().err
    reaping.reap_own(job, frozenset())
    assert capsys.readouterr().err == ""
