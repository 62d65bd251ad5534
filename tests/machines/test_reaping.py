"""Reaping what killed bakes left on the local cloud."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3

from bake.aws import parameter
from bake.aws.client.session import connect
from bake.aws.tags import rfc3339, specifications
from tests.support.documents import checked
from tests.support.environment import REPOSITORY
from tests.support.kitchen import Kitchen, Witness
from tests.support.leftovers import held

BIN = Path(sys.executable).parent


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
    return [one.name for one in parameter.list_below(connect(), "/bake/lease", recursive=True)]


def killed(kitchen: Kitchen, witness: Witness) -> None:
    """A bake that was ended by SIGKILL in the middle of its second stage."""
    kitchen.line("a", "b")
    kitchen.recipe("one", "a", "b")
    witness.held.add("b begins")
    with kitchen.baking("one") as process:
        witness.wait_for("b begins")
        process.send_signal(signal.SIGKILL)
        process.wait(10)


def test_what_a_killed_bake_has_left_is_shown_and_then_removed_once(
    kitchen: Kitchen, witness: Witness
) -> None:
    before, leases_before = held(), leases()
    killed(kitchen, witness)
    orphans = held()
    listed, shown = said(invoke("reap", "--recipe", "one"))
    for word in ("machine", "security group", "key pair", "lease", "process on this"):
        assert word in listed
    assert "reap --region us-east-1 --recipe one --yes --local" in shown
    assert held() == orphans, "it was only to be shown"
    # Without the name: the second one might find nothing of it, and refuse an unknown recipe.
    both = [invoke("reap", "--yes", "--json") for _ in range(2)]
    documents = [checked("reap", said(process)[0]) for process in both]
    regions = [region for document in documents for region in document["regions"]]
    states = [each["state"] for region in regions for each in region["resources"]]
    assert {*states} == {"removed"}
    after = held()
    assert len(after.pop("snapshots")) - len(before.pop("snapshots", [])) == 1, "a checkpoint"
    assert after == before
    assert leases() == leases_before
    # Nothing is left of it, and it is no recipe of this checkout.
    _, refused = said(invoke("reap", "--recipe", "one"), status=2)
    assert "Unknown recipe: one" in refused


def test_a_wrong_request_is_refused_before_anything(local_cloud: Path) -> None:
    _, error = said(invoke("reap", "--region", "us-east-1,us-wset-2"), status=2)
    assert "us-wset-2" in error


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
