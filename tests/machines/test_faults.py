"""A bake makes an image despite faults of AWS, or ends with the right error and hides no leftover.

The calls are those that a bake makes, found out by one that is not harmed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import boto3
import pytest

from bake import threads
from bake.aws.client.session import connect
from bake.aws.client.wait import Clock
from bake.errors import BakeError
from tests.support.faults import DENIED, Call, Faults, new_session
from tests.support.kitchen import Kitchen, bake
from tests.support.leftovers import held

Harm = Callable[[Faults, Call], None]

# What has to be survived. Each goes on for longer than boto alone would ask again.
SURVIVED: dict[str, Harm] = {
    "throttled, 4 times": lambda faults, call: faults.throttle(call, 4),
    "a fault of AWS's, 4 times": lambda faults, call: faults.break_(call, 4),
    "connection reset, 4 times": lambda faults, call: faults.reset(call, 4),
    "answer lost, twice": lambda faults, call: faults.lose(call, 2),
    "not known yet, 3 looks": lambda faults, call: faults.hide(call, 3),
}
PERMISSION = "permission denied"
# IAM's names of services, where botocore has another.
IAM = {"service-quotas": "servicequotas"}
FAST = 10


@dataclass(frozen=True)
class End:
    """The end of a bake; `said` is its output.

    `commands` remove the leftovers that it named; `unseen` are resources that it did not name.
    """

    error: Exception | None
    said: str
    commands: list[str]
    unseen: dict[str, list[str]]
    faults: Faults

    def __str__(self) -> str:
        if isinstance(self.error, BakeError):
            end = f"ended: {self.error.code or type(self.error).__name__}"
        else:
            end = f"crashed: {self.error!r}" if self.error else "baked"
        kinds = sorted({command.split()[2].partition("-")[2] for command in self.commands})
        return f"{end}; named: {', '.join(kinds)}" if kinds else end


class Oven:
    """Bakes one small recipe repeatedly, each time as if for the first time."""

    def __init__(self, kitchen: Kitchen) -> None:
        self.kitchen = kitchen
        kitchen.line("a", "b")
        kitchen.recipe("start", "a")
        kitchen.recipe("tried", "a", "b", checkpoints={"after": ["b"], "keep": 0})
        self.before = everything()

    def make_a_start_point(self) -> None:
        """Make a checkpoint of its first stage by another recipe."""
        self.kitchen.bake("start")
        self.before = everything()

    def bake(self, harm: Callable[[Faults], None] = lambda faults: None) -> End:
        """Bake, then remove the image, its checkpoints and the leftovers that were named."""
        session, faults = new_session()
        harm(faults)
        cloud, image_id, error, said = None, "", None, ""
        try:
            cloud = connect(session=session, clock=quick_clock())
            [outcome] = bake(self.kitchen.folder, ["tried"], cloud=cloud)
            image_id = outcome.image.image_id if outcome.image else ""
        except Exception as raised:
            error, said = raised, str(raised)
            if isinstance(raised, BakeError):
                said = "\n".join([raised.message, raised.reason, raised.hint, *raised.details])
        commands = [leftover.command for leftover in cloud.leftovers] if cloud else []
        return End(error, said, commands, self.tidy_up(image_id, commands), faults)

    def tidy_up(self, image_id: str, commands: list[str]) -> dict[str, list[str]]:
        """Run the commands that were named; return the resources that are still there."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # where the AWS CLI is
        deadline = time.monotonic() + 30
        remove_products(image_id)
        while (left := self.left()) and commands and time.monotonic() < deadline:
            for command in commands:
                subprocess.run(
                    command, shell=True, env={**os.environ, "PATH": path}, capture_output=True
                )
            remove_products(image_id)
        self.before = everything()
        return left

    def left(self) -> dict[str, list[str]]:
        return {
            kind: new
            for kind, ids in everything().items()
            if (new := [name for name in ids if name not in self.before.get(kind, [])])
        }


def quick_clock() -> Clock:
    """Shorten all pauses of bake to a tenth; boto's own pauses stay as they are."""
    return Clock(
        now=lambda: time.monotonic() * FAST,
        sleep=lambda seconds: threads.pause(max(seconds / FAST, min(seconds, 0.1))),
    )


def everything() -> dict[str, list[str]]:
    parameters = boto3.client("ssm").get_parameters_by_path(Path="/bake", Recursive=True)
    leases = [each["Name"] for each in parameters["Parameters"]]
    return held() | ({"leases": leases} if leases else {})


def remove_products(image_id: str) -> None:
    """Return the image, and the checkpoints from which the next bake would start."""
    ec2 = boto3.client("ec2")
    if image_id:
        with suppress(ec2.exceptions.ClientError):
            ec2.deregister_image(ImageId=image_id, DeleteAssociatedSnapshots=True)
    mine = [{"Name": "tag:bake:recipe", "Values": ["tried"]}]
    kept = [*mine, {"Name": "tag-key", "Values": ["bake:checkpoint"]}]
    for snapshot in ec2.describe_snapshots(OwnerIds=["self"], Filters=kept)["Snapshots"]:
        with suppress(ec2.exceptions.ClientError):
            ec2.delete_snapshot(SnapshotId=snapshot["SnapshotId"])


@pytest.fixture
def oven(kitchen: Kitchen, monkeypatch: pytest.MonkeyPatch) -> Oven:
    # A denial of a call about a new resource is repeated: the injected ones last.
    monkeypatch.setattr("bake.aws.client.session._TAGS_PAUSE_S", 0.1)
    return Oven(kitchen)


def is_right(end: End, call: Call, fault: str) -> bool:
    """A bake survives a fault that passes; for another one it reports what to do."""
    if end.unseen or not end.faults.met[call]:
        return False
    if fault in SURVIVED:
        return end.error is None and not end.commands
    return end.error is None or names_permission(end, call)


def names_permission(end: End, call: Call) -> bool:
    action = f"{IAM.get(call.service, call.service)}:{call.operation}"
    said = f"{end}\n{end.said}"
    return (
        isinstance(end.error, BakeError)
        and DENIED[call.service][1] in said
        and f"do not have the permission {action}" in said
    )


TRIED: dict[str, dict[Call, str]] = {}


def table() -> str:
    calls = sorted({call for tried in TRIED.values() for call in tried}, key=str)
    lines = ["| call | " + " | ".join(TRIED) + " |", "|---" * (len(TRIED) + 1) + "|"]
    for call in calls:
        cells = [tried.get(call, "–") for tried in TRIED.values()]
        lines.append(f"| `{call}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("fault", [*SURVIVED, PERMISSION])
def test_each_call_of_a_bake_meets_each_fault(oven: Oven, fault: str) -> None:
    began = time.monotonic()
    oven.make_a_start_point()
    harmless = oven.bake(lambda faults: faults.hide(None, 0))
    assert (str(harmless), harmless.unseen) == ("baked", {})
    calls = {*harmless.faults.calls}
    if fault.startswith("not known"):
        calls = {call for call, _ in harmless.faults.looked}
    act = SURVIVED.get(fault, Faults.deny)
    tried, wrong = TRIED.setdefault(fault, {}), []
    for call in sorted(calls, key=str):
        end = oven.bake(partial(act, call=call))
        right = is_right(end, call, fault)
        tried[call] = str(end) if right else f"**{end}**"
        met = end.faults.met[call]
        print(f"{fault}: {call}: {end} (met {met}, left unseen {end.unseen}): {end.said[:400]!r}")
        if not right:
            wrong.append(f"{call}: {end} (met {met}, left unseen {end.unseen}): {end.said}")
    took = time.monotonic() - began
    print(f"\n{fault}: {len(calls) - len(wrong)} of {len(calls)}, in {took:.0f} s\n\n{table()}")
    assert wrong == []


def test_a_bake_whose_every_call_meets_every_fault_makes_its_image_and_leaves_nothing(
    oven: Oven, monkeypatch: pytest.MonkeyPatch
) -> None:
    oven.make_a_start_point()
    # boto's own pauses; other faults than throttling are repeated without them.
    monkeypatch.setattr("botocore.endpoint.time", SimpleNamespace(sleep=lambda seconds: None))

    def harm(faults: Faults) -> None:
        for kind in (faults.throttle, faults.break_, faults.reset, faults.lose):
            kind(None, 1)
        faults.hide(None, 1)

    end = oven.bake(harm)
    assert (str(end), end.unseen) == ("baked", {})
    few = {call.operation for call in end.faults.calls if end.faults.met[call] < 3}
    assert few == {"GetProducts"}, "a bake does without a price: it is not asked for long"


@pytest.mark.parametrize("operation", ["ModifyNetworkInterfaceAttribute", "none"])
def test_a_group_goes_while_the_image_is_made_or_after_the_builder(
    oven: Oven, operation: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a permission of `shut`, the bake only waits until the machine has terminated."""
    end = oven.bake(partial(Faults.deny, call=Call("ec2", operation)))
    assert (str(end), end.unseen) == ("baked", {})
    assert ("will be removed after the builder" in capsys.readouterr().err) == (operation != "none")
    calls = [call.operation for call in end.faults.calls]  # each when it was made first
    group, machine = calls.index("DeleteSecurityGroup"), calls.index("TerminateInstances")
    assert (group < machine) == (operation == "none")


def test_a_permission_that_is_missing_is_named_and_nothing_is_left(oven: Oven) -> None:
    """The calls without which no machine is started; `make soak` tries every call."""
    for service, operation in [
        ("sts", "GetCallerIdentity"),
        ("ec2", "DescribeImages"),
        ("ssm", "PutParameter"),
        ("ec2", "ImportKeyPair"),
        ("ec2", "CreateSecurityGroup"),
        ("ec2", "AuthorizeSecurityGroupIngress"),
        ("ec2", "RunInstances"),
    ]:
        call = Call(service, operation)
        end = oven.bake(partial(Faults.deny, call=call))
        assert names_permission(end, call), end
        assert (end.unseen, end.commands) == ({}, [])
