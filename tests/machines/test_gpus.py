"""The commands for choosing, and for what machines cost, on a real machine of the local cloud."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from bake.local import control
from tests.support.documents import checked
from tests.support.environment import REPOSITORY

pytestmark = pytest.mark.timeout(600)

NAME = "a-machine-with-a-rather-long-name-0123456789"


def invoke(*words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).parent / "invoke", *words]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert run.returncode == status, run.stderr + run.stdout
    assert "Traceback" not in run.stderr
    return run


def only(documents: list[dict[str, Any]]) -> dict[str, Any]:
    [mine] = [each for each in documents if each["name"] == NAME]
    return mine


@pytest.fixture
def machine(local_cloud: Path) -> Iterator[str]:
    """As ours are: with our tag, and a disk of its own."""
    ec2 = boto3.client("ec2")
    [image] = ec2.describe_images(Filters=[{"Name": "name", "Values": ["*bionic*"]}])["Images"]
    tags = [{"Key": "bake:run", "Value": "r"}, {"Key": "Name", "Value": NAME}]
    [instance] = ec2.run_instances(
        ImageId=image["ImageId"],
        InstanceType="g4dn.xlarge",
        MinCount=1,
        MaxCount=1,
        TagSpecifications=[{"ResourceType": "instance", "Tags": tags}],
    )["Instances"]
    ec2.get_waiter("instance_running").wait(InstanceIds=[instance["InstanceId"]])
    yield instance["InstanceId"]
    ec2.terminate_instances(InstanceIds=[instance["InstanceId"]])


def test_a_machine_is_shown_with_what_it_costs_all_its_life(machine: str) -> None:
    mine = only(checked("machines", invoke("machines", "--local", "--json").stdout)["machines"])
    assert (mine["instance_id"], mine["usd_per_hour"], mine["usd_since_launch"]) == (machine, 0, 0)
    assert mine["disks_gb"] > 0
    said = invoke("stop", NAME, "--local").stdout
    assert f"$0.00 a month for its disks ({mine['disks_gb']} GB)" in said
    stopped = only(checked("machines", invoke("machines", "--local", "--json").stdout)["machines"])
    assert (stopped["state"], stopped["usd_since_launch"]) == ("stopped", None)
    assert stopped["disks_usd_per_month"] == 0
    listed = invoke("machines", "--local")
    assert "disks" in listed.stdout
    assert "Stopped: their disks cost $0.00 a month." in listed.stderr
    started = checked("start", invoke("start", machine, "--local", "--json").stdout)
    assert only(started["machines"])["usd_per_hour"] == 0
    assert "Costs    $0.00 an hour" in invoke("terminate", machine, "--yes", "--local").stdout


def test_what_there_is_to_choose_from_is_shown(local_cloud: Path) -> None:
    said = invoke("gpus", "--local", "--recipe", "mxnet-cu101", "--json").stdout
    found = checked("gpus", said)
    families = {each["instance_type"].partition(".")[0] for each in found["offers"]}
    assert families == {"g4dn", "p3dn"}
    assert found["unknown"] == []
    assert all(
        each["is_offered"] and each["on_demand_usd_per_hour"] == 0 for each in found["offers"]
    )
    listed = invoke("gpus", "--local", "--all").stdout
    assert "p6-b300.48xlarge" in listed
    assert "retired" in listed
    assert "Did you mean 10.2" in invoke("gpus", "--local", "--cuda", "10.3", status=2).stderr


def test_a_quota_is_seen_raised_and_seen_again(local_cloud: Path) -> None:
    endpoint = control.status()
    assert endpoint is not None
    before = endpoint.request("quotas", {})["L-417A185B"]
    endpoint.request("quotas", {"L-417A185B": 0})
    try:
        assert "--type p4d.24xlarge --raise 96" in invoke("gpus", "--local", "--gpu", "a100").stderr
        words = ["quota", "--local", "--type", "p4d", "--raise"]
        assert "one p4d.24xlarge has 96" in invoke(*words, "8", status=2).stderr
        made = [checked("quota", invoke(*words, "96", "--json").stdout) for _ in range(2)]
        assert [each["is_new_request"] for each in made] == [True, False]
        first, second = (each["quotas"][0]["requests"] for each in made)
        assert first == second
        assert "96: pending" in invoke("quota", "--local").stdout
    finally:
        endpoint.request("quotas", {"L-417A185B": before})
    said = invoke("quota", "--local", "--type", "p4d", "--json").stdout
    p4d, *_ = checked("quota", said)["quotas"]
    assert (p4d["vcpus"], p4d["requests"][0]["status"]) == (before, "APPROVED")
