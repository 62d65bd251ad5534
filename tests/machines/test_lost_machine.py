"""A machine that is interrupted, stopped or ended under a bake: another one goes on, in time."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest

from bake.aws.launch import run_machine
from bake.console.console import Console
from bake.console.screen import Step
from bake.errors import LocalCloudError, LostError
from bake.local import control
from bake.local.machines import metadata
from bake.pipeline.builder import OnFailure
from bake.ssh import spot
from bake.threads import TaskGroup
from tests.support.aws_in_process import aws_in_process, public_key
from tests.support.environment import REPOSITORY
from tests.support.kitchen import Kitchen, Witness, machines_ever
from tests.support.leftovers import held

SPOT = {"market": "spot"}


def machine_of(*recipes: str) -> str:
    """Return the only machine that runs now for these recipes."""
    filters = [
        {"Name": "tag:bake:recipe", "Values": recipes},
        {"Name": "instance-state-name", "Values": ["running"]},
    ]
    found = boto3.client("ec2").describe_instances(Filters=filters)["Reservations"]
    ((machine,),) = [reservation["Instances"] for reservation in found]
    return str(machine["InstanceId"])


def described(instance_id: str) -> dict[str, Any]:
    answer = boto3.client("ec2").describe_instances(InstanceIds=[instance_id])
    return dict(answer["Reservations"][0]["Instances"][0])


def interrupt(instance_id: str, after_s: float) -> None:
    """Interrupt the machine as the spot market does."""
    endpoint = control.status()
    assert endpoint
    endpoint.request("interrupt", {"instance_id": instance_id, "after_s": after_s})


def terminate(instance_id: str) -> None:
    boto3.client("ec2").terminate_instances(InstanceIds=[instance_id])


def stop(instance_id: str) -> None:
    boto3.client("ec2").stop_instances(InstanceIds=[instance_id])


def take_away(instance_id: str) -> None:
    """Interrupt the machine without a notice, as the spot market may do, too."""
    interrupt(instance_id, 0)


@contextmanager
def meanwhile(work: Callable[[], None]) -> Iterator[None]:
    """Run `work` in a thread beside the bake; its failure is raised at the end."""
    with TaskGroup[str, None]() as group:
        group.start("meanwhile", work)
        yield


def lose_in(
    witness: Witness, word: str, lose: Callable[[str], None], *recipes: str
) -> Callable[[], None]:
    """Return a function that loses the machine of `recipes` when a stage reports `word`.

    The report is answered only when the machine is lost, so that the stage does not end there.
    """
    witness.held.add(word)

    def work() -> None:
        witness.wait_for(word)
        lost = machine_of(*(recipes or ("one",)))
        lose(lost)
        deadline = time.monotonic() + 60
        while described(lost)["State"]["Name"] == "running":
            assert time.monotonic() < deadline
            time.sleep(0.1)
        witness.let_go(word)

    return work


class AtStep(Console):
    """Acts on the bake's machine when a step begins, the first `times` times."""

    def __init__(self, title: str, act: Callable[[str], None], *, times: int = 1) -> None:
        super().__init__()
        self.title, self.act, self.times = title, act, times

    @contextmanager
    def step(self, title: str, **more: Any) -> Iterator[Step]:
        with super().step(title, **more) as step:
            if title == self.title and self.times:
                self.times -= 1
                self.act(machine_of("one"))
            yield step


# On real machines ---------------------------------------------------------------------------------


def test_an_interrupted_stage_runs_again_on_another_machine_and_those_before_it_do_not(
    kitchen: Kitchen, witness: Witness, capsys: pytest.CaptureFixture[str]
) -> None:
    kitchen.line("a", "b", "c")
    kitchen.recipe("one", "a", "b", "c", builder=SPOT)
    before = machines_ever()
    with meanwhile(lose_in(witness, "b begins", lambda machine: interrupt(machine, 25))):
        [outcome] = kitchen.bake("one")
    assert outcome.status == "baked"
    assert witness.began() == ["a", "b", "b", "c"]
    said = capsys.readouterr().err
    notice = re.search(r"spot market interrupts i-\w+: terminate at \S+Z, in (\d+) s", said)
    assert notice, said
    assert 10 <= int(notice[1]) <= 25
    assert "Continuing on another machine" in said
    assert len(machines_ever() - before) == 2


def test_what_ends_in_the_time_that_is_left_is_saved_and_not_done_again(
    kitchen: Kitchen, witness: Witness, capsys: pytest.CaptureFixture[str]
) -> None:
    kitchen.line("a", "b", "c")
    kitchen.recipe("one", "a", "b", "c", builder=SPOT, checkpoints={"after": ["a"]})
    witness.held.add("b begins")

    def give_notice() -> None:
        witness.wait_for("b begins")
        try:
            interrupt(machine_of("one"), 120)
            deadline = time.monotonic() + 60
            while "The spot market interrupts" not in capsys.readouterr().err:
                assert time.monotonic() < deadline
                time.sleep(0.2)
        finally:
            witness.let_go("b begins")

    with meanwhile(give_notice):
        [outcome] = kitchen.bake("one")
    assert outcome.status == "baked"
    assert witness.began() == ["a", "b", "c"]
    assert outcome.record
    assert [bool(stage.checkpoint) for stage in outcome.record.stages[:3]] == [True, True, False]


@pytest.mark.parametrize(
    "lose",
    [
        stop,
        pytest.param(terminate, marks=pytest.mark.soak),
        pytest.param(take_away, marks=pytest.mark.soak),
    ],
)
def test_a_machine_that_ends_without_notice_is_missed_within_seconds(
    kitchen: Kitchen,
    witness: Witness,
    lose: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    kitchen.line("a", "b")
    market = "spot" if lose is take_away else "on-demand"
    kitchen.recipe("one", "a", "b", builder={"market": market})
    lost_at: list[float] = []

    def and_look_at_the_clock(machine: str) -> None:
        lost_at.append(time.monotonic())
        lose(machine)

    class Listener(Console):
        def warn(self, text: str) -> None:
            super().warn(text)
            if "Continuing on another machine" in text:
                lost_at.append(time.monotonic())

    with meanwhile(lose_in(witness, "b begins", and_look_at_the_clock)):
        [outcome] = kitchen.bake("one", console=Listener())
    assert outcome.status == "baked"
    assert witness.began() == ["a", "b", "b"]
    seconds = lost_at[1] - lost_at[0]  # with the removal of what was left of it
    assert seconds < 45
    reason = "Server.SpotInstanceTermination" if market == "spot" else "Client.UserInitiated"
    assert reason in capsys.readouterr().err
    print(f"{lose.__name__}: another one was begun after {seconds:.1f} s")


@pytest.mark.parametrize("step", ["Reboot", "Proof", pytest.param("Image", marks=pytest.mark.soak)])
def test_a_machine_ended_by_hand_after_its_stages_costs_none_of_them(
    kitchen: Kitchen, witness: Witness, step: str
) -> None:
    kitchen.line("a")
    kitchen.recipe("one", "a")
    before = machines_ever()
    [outcome] = kitchen.bake("one", console=AtStep(step, terminate))
    assert outcome.status == "baked"
    assert witness.began() == ["a"]
    assert len(machines_ever() - before) == 2


def test_three_losses_in_a_row_end_the_bake_with_each_of_them_and_nothing_is_left(
    kitchen: Kitchen, witness: Witness
) -> None:
    kitchen.stage("a", body="sleep 300")
    kitchen.recipe("one", "a")
    before, ever = held(), machines_ever()
    console = AtStep("a", terminate, times=3)
    with pytest.raises(LostError, match="3 machines were lost") as lost:
        kitchen.bake("one", console=console, on_failure=OnFailure(keep=True))
    tries = [line for line in lost.value.details if line.startswith("machine ")]
    assert [line.partition(":")[0] for line in tries] == ["machine 1", "machine 2", "machine 3"]
    assert all("Client.UserInitiatedShutdown" in line for line in tries)
    assert len(machines_ever() - ever) == 3
    assert held() == before


@pytest.mark.soak
def test_a_machine_that_ends_while_it_boots_is_not_waited_for(
    kitchen: Kitchen, witness: Witness
) -> None:
    kitchen.line("a")
    kitchen.recipe("one", "a")
    began = time.monotonic()
    [outcome] = kitchen.bake("one", console=AtStep("SSH", terminate))
    assert outcome.status == "baked"
    assert witness.began() == ["a"]
    assert time.monotonic() - began < 120


@pytest.mark.soak
def test_who_waits_for_a_bake_goes_on_waiting_when_its_machine_is_lost(
    kitchen: Kitchen, witness: Witness
) -> None:
    kitchen.line("a")
    for name in ("x", "y"):
        kitchen.stage(name, "a")
    kitchen.recipe("one", "a", "x")
    kitchen.recipe("two", "a", "y")
    with meanwhile(lose_in(witness, "a begins", terminate, "one", "two")):
        outcomes = kitchen.bake("one", "two", machines=2)
    assert [outcome.status for outcome in outcomes] == ["baked", "baked"]
    assert Counter(witness.began()) == {"a": 2, "x": 1, "y": 1}


def test_the_local_market_says_what_ec2_does(kitchen: Kitchen, witness: Witness) -> None:
    ec2 = boto3.client("ec2")
    image = next(
        image["ImageId"]
        for image in ec2.describe_images()["Images"]
        if image["OwnerId"] != "123456789012"
    )

    def run(**market: Any) -> str:
        answer = ec2.run_instances(
            ImageId=image, InstanceType="g4dn.xlarge", MinCount=1, MaxCount=1, **market
        )
        return str(answer["Instances"][0]["InstanceId"])

    def request() -> tuple[str, str]:
        filters = [{"Name": "instance-id", "Values": [machine]}]
        found = ec2.describe_spot_instance_requests(Filters=filters)["SpotInstanceRequests"]
        return found[0]["State"], found[0]["Status"]["Code"]

    machine = run(InstanceMarketOptions={"MarketType": "spot"})
    stays = run()
    ec2.get_waiter("instance_running").wait(
        InstanceIds=[machine, stays], WaiterConfig={"Delay": 1, "MaxAttempts": 60}
    )
    with pytest.raises(LocalCloudError, match="not a running spot machine"):
        interrupt(stays, 1)
    with pytest.raises(LocalCloudError, match="Instance i-0 not found"):
        interrupt("i-0", 1)
    terminate(stays)
    assert request() == ("active", "fulfilled")
    invoke = Path(sys.executable).parent / "invoke"
    subprocess.run(
        [invoke, "local.interrupt", machine, "--after", "3"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
    )
    assert request() == ("active", "marked-for-termination")
    assert described(machine)["State"]["Name"] == "running"
    ec2.get_waiter("instance_terminated").wait(
        InstanceIds=[machine, stays], WaiterConfig={"Delay": 1, "MaxAttempts": 60}
    )
    assert described(machine)["StateReason"]["Code"] == "Server.SpotInstanceTermination"
    assert request() == ("closed", "instance-terminated-no-capacity")


# What EC2 says to it, in this process -------------------------------------------------------------


def test_the_next_machine_of_a_run_has_a_token_of_its_own() -> None:
    with aws_in_process() as aws:
        group = aws.cloud.ec2("CreateSecurityGroup", GroupName="one", Description="one")["GroupId"]
        aws.cloud.ec2("ImportKeyPair", KeyName="one", PublicKeyMaterial=public_key().encode())
        for number in (1, 2):
            order = aws.order("one", group, number=number)
            run_machine(aws.cloud, aws.run, order, [aws.placement()])
        first, second = [request["ClientToken"] for request in aws.params("RunInstances")]
        assert first != second


# The metadata service and who listens to it -------------------------------------------------------


@pytest.fixture
def network() -> Iterator[int]:
    """A process with its own network, like process 1 of a machine."""
    command = ["unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec sleep 60"]
    if os.geteuid() != 0:
        pytest.skip("only root may make a network")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            if process.stdout.readline() != "up\n":
                pytest.skip("no network can be made here")
            yield process.pid
        finally:
            process.kill()


def within(network: int, *command: str, **more: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["nsenter", f"--net=/proc/{network}/ns/net", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **more,
    )


def curl(network: int, path: str, *options: str) -> tuple[str, str]:
    """Return the status and the body."""
    url = f"http://{metadata.ADDRESS}/latest/{path}"
    status = ("--write-out", "\n%{http_code}", "--max-time", "5", "--noproxy", "*")
    said = within(network, "curl", "--silent", *status, *options, url).communicate()[0]
    body, _, code = said.rpartition("\n")
    return code, body


def test_the_metadata_service_answers_as_ec2s_to_who_has_a_token(network: int) -> None:
    items = {
        "meta-data/instance-id": "i-1",
        "meta-data/placement/region": "us-east-1",
        "meta-data/placement/availability-zone": "us-east-1a",
    }
    ttl = "X-aws-ec2-metadata-token-ttl-seconds"
    required = [True]
    with metadata.served(network, lambda: items, tokens_required=lambda: required[0]):
        put = ("--request", "PUT", "--header")
        assert curl(network, "meta-data/instance-id")[0] == "401"
        assert curl(network, "api/token", *put, f"{ttl}: 0")[0] == "400"
        proxied = ("--header", "X-Forwarded-For: 10.0.0.1")
        assert curl(network, "api/token", *put, f"{ttl}: 60", *proxied)[0] == "403"
        status, token = curl(network, "api/token", *put, f"{ttl}: 60")
        assert status == "200"
        mine = ("--header", f"X-aws-ec2-metadata-token: {token}")
        assert curl(network, "meta-data/instance-id", *mine) == ("200", "i-1")
        assert curl(network, "meta-data/", *mine) == ("200", "instance-id\nplacement/")
        assert curl(network, "meta-data/placement", *mine)[1] == "availability-zone\nregion"
        assert curl(network, "meta-data/spot/instance-action", *mine)[0] == "404"
        other = ("--header", "X-aws-ec2-metadata-token: another")
        assert curl(network, "meta-data/instance-id", *other)[0] == "401"
        required[0] = False
        assert curl(network, "meta-data/instance-id") == ("200", "i-1")
    assert curl(network, "meta-data/instance-id")[0] == "000", "it went with its machine"


def watcher(network: int) -> subprocess.Popen[str]:
    """Return the program that listens, with shorter pauses."""
    program = spot._program()
    assert "EVERY_S = 5\n" in program
    program = program.replace("EVERY_S = 5\n", "EVERY_S = 0.1\n")
    return within(network, sys.executable, "-I", "-c", program)


def test_a_notice_is_heard_also_when_the_token_has_run_out(
    network: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens: list[str] = []
    real = metadata._Service.new_token

    def of_short_life(self: metadata._Service, seconds: int) -> str:
        token = real(self, seconds)
        tokens.append(token)
        if len(tokens) == 1:
            self._tokens.clear()
        return token

    monkeypatch.setattr(metadata._Service, "new_token", of_short_life)
    items: dict[str, str] = {}
    listener = watcher(network)
    assert listener.stdout
    assert not select.select([listener.stdout], [], [], 0.5)[0], "nobody answers yet"
    with metadata.served(network, lambda: items, tokens_required=lambda: True):
        time.sleep(0.5)
        items["meta-data/spot/instance-action"] = "no notice"
        assert not select.select([listener.stdout], [], [], 0.5)[0]
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 120))
        action = {"action": "terminate", "time": at}
        items["meta-data/spot/instance-action"] = json.dumps(action)
        assert select.select([listener.stdout], [], [], 10)[0]
        notice = json.loads(listener.stdout.readline())
    listener.communicate(timeout=10)
    assert 110 < notice.pop("left_s") < 121
    assert notice == action
    assert len(tokens) == 2


def test_who_listens_ends_with_the_connection(network: int) -> None:
    listener = watcher(network)
    said, _ = listener.communicate(timeout=10)  # closes its stdin
    assert (said, listener.returncode) == ("", 0)


def test_a_machine_whose_network_cannot_be_entered_has_no_metadata_service() -> None:
    with metadata.served(2**22, dict, tokens_required=lambda: True):
        pass
