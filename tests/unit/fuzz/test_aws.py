"""Whatever AWS answers: what cannot be understood is a BakeError, and never a crash."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bake import catalog
from bake.aws import (
    base_image,
    checkpoint,
    image,
    image_copy,
    image_creation,
    key_pair,
    launch,
    machine,
    parameter,
    placement_search,
    price,
    quota,
    reap,
    recipe_failures,
    reservation,
    run_state,
    security_group,
    snapshot,
    temporary_image,
)
from bake.aws.client import session
from bake.aws.launch import LaunchSpec
from bake.aws.lease import lease
from bake.aws.placement import Placement
from bake.aws.tags import Run, new_run
from bake.cli.views import checkpoints, images, machines
from bake.cli.views import gpus as choosing
from bake.console.console import Console
from bake.errors import BakeError
from bake.images import retention, selection
from bake.machine import cost, gpus
from bake.pipeline.checkpoints import prune as prune_checkpoints
from tests.support.answers import ImaginedCloud

TYPES = ("g4dn.xlarge", "p3.2xlarge")
PLACE = Placement("g4dn.xlarge", "us-east-1a", "subnet-1", "vpc-1", "on-demand")
ID = "i-0123456789abcdef0"


def run() -> Run:
    return new_run("mxnet-cu101", lifetime=timedelta(hours=1))


def some_order() -> LaunchSpec:
    return LaunchSpec("ami-1", "/dev/sda1", 64, "k", "sg-1", "#cloud-config\n", run().temporary())


def a_base_image(cloud: Any) -> base_image.BaseImage:
    return base_image.find_base_image(cloud, catalog.load().os_image("ubuntu-18.04"))


def a_machine(cloud: Any) -> machine.Machine:
    return machine.wait_until_running(cloud, ID)


def placements(cloud: Any) -> object:
    image = a_base_image(cloud)
    found = placement_search.find_placements(cloud, TYPES, market="spot", image=image).placements
    return price.prices(cloud, found)


def copy(cloud: Any) -> object:
    return [image_copy.copy_image(cloud, i, "us-west-2") for i in image.images(cloud)[:1]]


def create_image(cloud: Any) -> object:
    tags = run().finished(name="abc", digest="d", stages={}, verified="gpu", payload="upstream")
    found = a_machine(cloud)
    return image_creation.create_image(cloud, found, name="abc", description="", tags=tags)


def as_image(cloud: Any) -> object:
    with temporary_image.temporary_image(cloud, run(), "snap-1", a_base_image(cloud)) as made:
        return made


def create_checkpoint(cloud: Any) -> object:
    taken = checkpoint.create_checkpoint(
        cloud, run(), a_machine(cloud), stages={"base": "b"}, seconds={}, expires_at=cloud.now()
    )
    return checkpoint.wait_until_completed(cloud, taken)


def held(cloud: Any) -> object:
    with lease(cloud, run(), "d" * 64, found=lambda: "found") as got:
        return got


def reaped(cloud: Any) -> object:
    judged = reap.find_orphans(cloud)
    return reap.remove_orphans(cloud, judged)


def pruned(cloud: Any) -> object:
    verdicts = retention.judge(cloud, keep=1)
    removals = retention.remove(cloud, verdicts)
    for console in (Console(), Console(json=True)):
        images.show_verdicts(console, verdicts, removals, price.snapshot_price(cloud))
    return removals


def shown(cloud: Any) -> None:
    """Every list, for people and as JSON."""
    found, taken, there = (
        image.images(cloud),
        checkpoint.checkpoints(cloud),
        machine.machines(cloud),
    )
    for console in (Console(), Console(json=True)):
        images.show_images(console, catalog.load(), found)
        machines.show_machines(console, there, datetime.now(UTC), cost.find_costs(cloud, there))
        usd = price.snapshot_price(cloud)
        checkpoints.show_checkpoints(console, taken, usd, datetime.now(UTC))


def chosen(cloud: Any) -> None:
    known = catalog.load()
    codes = quota.gpu_quotas()
    found = gpus.survey(cloud, known, gpus.read_filter(known, gpu="t4", count=1))
    limits, asked = quota.read_quotas(cloud, codes), quota.read_requests(cloud, codes)
    for json in (False, True):
        choosing.show_gpus(Console(json=json), found, "invoke quota")
        choosing.show_quotas(
            Console(json=json), known, limits, asked, datetime.now(UTC), None, "invoke quota"
        )


def asked_for_more(cloud: Any) -> object:
    now = quota.Quota("L-DB2E81BA", "G", 0, 0)
    asked = quota.request_increase(cloud, now, 8)
    known = catalog.load()
    for console in (Console(), Console(json=True)):
        choosing.show_increase(console, known, asked, now, known.instance_types["g4dn.xlarge"])
    return asked


WORK: dict[str, Callable[[Any], object]] = {
    "images": image.account_images,
    "image": lambda cloud: image.find_image(cloud, "ami-1"),
    "image by name": lambda cloud: image.find_image_by_name(cloud, "n", "r"),
    "available": lambda cloud: image_creation.wait_until_available(cloud, "ami-1"),
    "launchable": lambda cloud: selection.choose_image(cloud, None, proved=("gpu",)),
    "machine": machine.machines,
    "running": a_machine,
    "stop": lambda cloud: machine.stop(cloud, ID),
    "terminate": lambda cloud: machine.terminate(cloud, ID),
    "console": lambda cloud: machine.console_output(cloud, ID),
    "start a machine": lambda cloud: launch.run_machine(cloud, run(), some_order(), [PLACE]),
    "create an image": create_image,
    "copy": copy,
    "register": as_image,
    "checkpoints": checkpoint.checkpoints,
    "create a checkpoint": create_checkpoint,
    "prune checkpoints": lambda cloud: prune_checkpoints(cloud, "mxnet-cu101", keep=1),
    "copying": lambda cloud: snapshot.copying_seconds(cloud, ["snap-1"]),
    "base image": a_base_image,
    "placements": placements,
    "reservation": lambda cloud: reservation.find_reservation(cloud, "cr-1"),
    "quota": lambda cloud: quota.read_quota(cloud, "L-DB2E81BA", "on-demand"),
    "choosing": chosen,
    "more": asked_for_more,
    "name": lambda cloud: image_creation.find_name_in_use(cloud, "abc"),
    "prices": lambda cloud: price.on_demand(cloud, TYPES),
    "failures": lambda cloud: recipe_failures.read_failures(cloud, "mxnet-cu101"),
    "note": lambda cloud: recipe_failures.record_failure(cloud, run(), "i", "reason"),
    "parameters": lambda cloud: parameter.list_below(cloud, "/bake"),
    "lease": held,
    "run_state": run_state.run_states,
    "reap": reaped,
    "prune": pruned,
    "key pair": lambda cloud: key_pair.find_key_pair(cloud, "k"),
    "import": lambda cloud: key_pair.import_key_pair(cloud, "k", "ssh-ed25519 AAAA", {}),
    "group": lambda cloud: security_group.create_security_group(
        cloud, run(), run().temporary(), vpc_id="vpc-1", cidr="203.0.113.7/32"
    ),
    "regions": session.enabled_regions,
    "lists": shown,
}


@pytest.mark.parametrize("name", WORK)
@settings(max_examples=8, database=None)
@given(seed=st.integers(0, 2**32))
def test_any_answer_is_read_or_refused(name: str, seed: int) -> None:
    survives(WORK[name], seed)


def survives(work: Callable[[Any], object], seed: int) -> bool:
    """Whether it was read."""
    with redirect_stderr(io.StringIO()), redirect_stdout(io.StringIO()):
        try:
            work(ImaginedCloud(seed))
        except BakeError:
            return False
    return True


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_very_many_answers() -> None:
    """How many are read, and how many refused: both kinds there have to be."""
    print("\n| work | answers read | refused |\n|---|---|---|")
    for name, work in WORK.items():
        read = sum(survives(work, seed) for seed in range(300))
        print(f"| {name} | {read} | {300 - read} |")
