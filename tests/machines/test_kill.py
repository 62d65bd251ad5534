"""A client that is killed between any two requests of a bake: no work is lost, no resource is left.

After SIGKILL the machines' own timers and `invoke reap` clean up; after SIGTERM and SIGINT the bake
itself does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

from bake.aws.checkpoint import checkpoints
from bake.aws.client.session import connect
from tests.support.environment import REPOSITORY
from tests.support.kitchen import Kitchen, Witness
from tests.support.leftovers import held

INVOKE = Path(sys.executable).parent / "invoke"
# From the run's beginning; a whole bake of these takes some seconds.
LIFETIME_S = 75
MUTATING = (
    "RegisterImage",
    "RunInstances",
    "CreateSnapshot",
    "CreateImage",
    "TerminateInstances",
    "DeleteParameter",
)


@dataclass(frozen=True)
class Ended:
    """A bake that was killed after its Nth response, or after the first one to an operation."""

    moment: str
    status: int
    after: str
    said: str

    @property
    def recipe(self) -> str:
        return recipe_of(self.moment)


def recipe_of(moment: str) -> str:
    return f"end-{moment.lower()}"


def write_recipe(kitchen: Kitchen, moment: str) -> str:
    """Write a recipe that starts from another's checkpoint and has two stages of its own.

    Its machines terminate soon.
    """
    name = recipe_of(moment)
    kitchen.stage(f"{name}a", "ground")
    kitchen.stage(f"{name}b", f"{name}a")
    builder = {"timeout_hours": LIFETIME_S / 3600}
    kitchen.recipe(name, "ground", f"{name}a", f"{name}b", builder=builder)
    return name


def end_after(kitchen: Kitchen, which: signal.Signals, moment: int | str) -> Ended:
    recipe = write_recipe(kitchen, str(moment))
    process = subprocess.run(
        [
            *(sys.executable, "-m", "tests.support.kill"),
            *(which.name, str(moment), str(kitchen.folder), recipe),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    first, _, _ = process.stdout.partition("\n")
    after = first.rpartition(" after ")[2] if " after " in first else ""
    return Ended(str(moment), process.returncode, after, process.stdout + process.stderr)


def all_requests(kitchen: Kitchen) -> list[str]:
    """Return the requests of an undisturbed bake; it and all later ones start from a checkpoint."""
    kitchen.line("ground")
    kitchen.recipe("ground", "ground")
    kitchen.bake("ground")
    whole = end_after(kitchen, signal.SIGKILL, 0)
    assert whole.status == 0, whole.said
    return whole.said.partition("asked:")[2].split("\n")[0].split()


def reap() -> str:
    """Run `invoke reap`."""
    command = [str(INVOKE), "reap", "--yes", "--region", os.environ["AWS_DEFAULT_REGION"]]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def unsound(before: dict[str, list[str]]) -> dict[str, set[str]]:
    """Return the new resources that are not images, their snapshots or checkpoints."""
    ec2 = boto3.client("ec2")
    ours = [{"Name": "tag-key", "Values": ["bake:digest"]}]
    images = ec2.describe_images(Owners=["self"], Filters=ours)["Images"]
    whole = {image["ImageId"] for image in images if image["State"] in ("pending", "available")}
    theirs = {
        mapping["Ebs"]["SnapshotId"]
        for image in images
        for mapping in image["BlockDeviceMappings"]
        if "SnapshotId" in mapping.get("Ebs", {})
    }
    sound = whole | theirs | {checkpoint.snapshot_id for checkpoint in checkpoints(connect())}
    left = {kind: {*names} - {*before.get(kind, [])} - sound for kind, names in held().items()}
    parameters = boto3.client("ssm").describe_parameters()["Parameters"]
    left["leases"] = {parameter["Name"] for parameter in parameters}
    return {kind: names for kind, names in left.items() if names}


def images_of(recipe: str) -> list[dict[str, Any]]:
    filters = [{"Name": "tag:bake:recipe", "Values": [recipe]}]
    found = boto3.client("ec2").describe_images(Owners=["self"], Filters=filters)["Images"]
    return [image for image in found if image["Name"].startswith("bake/")]


def machines_alive(recipe: str) -> list[str]:
    alive = ["pending", "running", "stopping", "stopped", "shutting-down"]
    filters = [
        {"Name": "tag:bake:recipe", "Values": [recipe]},
        {"Name": "instance-state-name", "Values": alive},
    ]
    reservations = boto3.client("ec2").describe_instances(Filters=filters)["Reservations"]
    return [i["State"]["Name"] for r in reservations for i in r["Instances"]]


def bakes_after_it(kitchen: Kitchen, witness: Witness, ended: Ended) -> None:
    """Check that the next bake succeeds, and repeats no stage that a checkpoint holds."""
    recipe = ended.recipe
    kept = {name for one in checkpoints(connect(), recipe) for name in one.stages}
    images = images_of(recipe)
    before = len(witness.said)
    with kitchen.baking(recipe) as process:
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    again = {w.removesuffix(" begins") for w in witness.said[before:] if w.startswith(recipe)}
    assert not kept & again, (ended, kept, again)
    if any(image["State"] == "available" for image in images):
        assert f"{recipe} up to date" in said, said
    else:
        assert f"{recipe} baked" in said, said


def test_killed_after_a_request_that_changes_something_it_is_reaped_and_taken_up(
    kitchen: Kitchen, witness: Witness
) -> None:
    before = held()
    assert {*MUTATING} <= {*all_requests(kitchen)}
    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(lambda n: end_after(kitchen, signal.SIGKILL, n), MUTATING))
        assert {one.status for one in ended} == {-signal.SIGKILL}, ended
        print(*(f"killed after {one.moment}: {one.after}" for one in ended), sep="\n")
        assert "machines" in unsound(before), "SIGKILL left no machine"
        reap()
        assert unsound(before) == {}
        list(pool.map(lambda one: bakes_after_it(kitchen, witness, one), ended))
    assert unsound(before) == {}
    assert witness.began().count("ground") == 1, "all others started from its checkpoint"


@pytest.mark.soak
def test_killed_after_any_request_its_machines_end_it_is_reaped_and_taken_up(
    kitchen: Kitchen, witness: Witness
) -> None:
    before = held()
    count = len(all_requests(kitchen))
    with ThreadPoolExecutor(2) as pool:
        points = range(1, count + 1)
        ended = list(pool.map(lambda n: end_after(kitchen, signal.SIGKILL, n), points))
        print(*(f"killed after {one.moment}: {one.after}" for one in ended), sep="\n")
        killed = [one for one in ended if one.status == -signal.SIGKILL]
        # Two bakes do not wait equally often, so one of the last may have come to its end.
        assert len(killed) >= count - 5, [one for one in ended if one.status]
        time.sleep(LIFETIME_S)
        assert [one for one in ended if "running" in machines_alive(one.recipe)] == []
        reap()
        assert unsound(before) == {}
        list(pool.map(lambda one: bakes_after_it(kitchen, witness, one), killed))
    assert unsound(before) == {}
    assert witness.began().count("ground") == 1, "all others started from its checkpoint"
    print(f"SIGKILL: {len(killed)} of {len(killed)} kill points survived")


@pytest.mark.soak
@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
def test_ended_after_any_request_it_leaves_nothing(kitchen: Kitchen, which: signal.Signals) -> None:
    before = held()
    count = len(all_requests(kitchen))
    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(lambda n: end_after(kitchen, which, n), range(1, count + 1)))
    interrupted = [one for one in ended if one.status == 130]
    # One that comes while a bake cleans up after its work is done does not undo the work.
    finished = [one for one in ended if one.status == 0]
    assert len(interrupted) + len(finished) == len(ended), [
        one for one in ended if one.status not in (0, 130)
    ]
    print(f"{which.name}: {len(interrupted)} interrupted, {len(finished)} finished")
    for one in interrupted:
        if "was already finished" not in one.said:
            assert images_of(one.recipe) == [], one
    assert unsound(before) == {}
