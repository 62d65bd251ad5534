"""Measure the speed of an image: on a running machine, or on machines launched for this purpose."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path

from bake import catalog, files
from bake.aws import machine as machines
from bake.aws.client.commands import removal_command
from bake.aws.client.session import Cloud
from bake.aws.client.undo import clean_up, note_leftovers, undo
from bake.aws.image import Image
from bake.aws.instance_type import with_types
from bake.aws.machine import Machine
from bake.aws.placement import Market
from bake.aws.tags import new_run
from bake.console.console import Console
from bake.errors import BakeError, RequestError
from bake.machine import fit, ssh_config
from bake.machine.access import reach
from bake.machine.bench.figures import Bench, Measured
from bake.machine.bench.measure import BenchRun, measure
from bake.machine.launch import LaunchRequest, ensure_key_pair, launch
from bake.machine.lifetime import Lifetime
from bake.threads import TaskGroup

# A machine that is launched for a benchmark ends by itself when this process is killed.
LIFETIME = Lifetime(ttl=timedelta(hours=2), at_end="terminate")


def new_bench_run(
    cloud: Cloud, recipe: str, builds: Path, *, ssh_port: int, quick: bool
) -> BenchRun:
    """Return a new run of the benchmark; nothing is written yet."""
    run = new_run(recipe, now=cloud.now())
    return BenchRun(run, builds / run.id, ssh_port, quick)


def bench_machine(cloud: Cloud, machine: Machine, bench_run: BenchRun, console: Console) -> Bench:
    """Measure a running machine, and leave it running. RequestError if it cannot be reached."""
    reach(cloud, machine, ssh_port=bench_run.ssh_port, say=console.warn)
    files.make_folder(bench_run.folder)
    measured = measure(cloud, machine, bench_run, console)
    return _result(cloud, bench_run, [measured], machine.image_id)


def bench_image(
    cloud: Cloud,
    image: Image,
    instance_types: Sequence[str],
    bench_run: BenchRun,
    console: Console,
    *,
    market: Market = "on-demand",
    jobs: int = 4,
) -> Bench:
    """Launch one machine of each instance type from the image, measure it and terminate it.

    `jobs` machines run at the same time. A failure of one type does not stop the others and is
    recorded in the result; when only one type is requested, a failed launch is raised. Raises
    RequestError, before anything is started, for types on which the image does not work.
    """
    _check_request(cloud, image, instance_types, jobs)
    files.make_folder(bench_run.folder)
    ensure_key_pair(cloud, bench_run.run, None)  # before several threads need it
    several = len(instance_types) > 1
    consoles = {name: console.named(name) if several else console for name in instance_types}
    clouds = {name: cloud.separate() for name in instance_types}

    def work(name: str) -> Measured:
        return _launch_and_measure(
            clouds[name], image, name, market, bench_run, consoles[name], alone=not several
        )

    waiting, found = list(instance_types), dict[str, Measured]()
    try:
        with TaskGroup[str, Measured]() as group:
            while waiting or group.running:
                while waiting and len(group.running) < jobs:
                    name = waiting.pop(0)
                    group.start(name, partial(work, name))
                name, measured = group.next()
                found[name] = measured
    except BaseException as error:
        for each in clouds.values():
            note_leftovers(error, each.leftovers)
        raise
    for name, each in clouds.items():
        for leftover in each.leftovers:
            consoles[name].warn(str(leftover))
    in_order = [found[name] for name in instance_types]
    return _result(cloud, bench_run, in_order, image.image_id, image.name)


def _check_request(cloud: Cloud, image: Image, instance_types: Sequence[str], jobs: int) -> None:
    """Raise RequestError for an invalid number of machines, and for types that do not fit."""
    if jobs < 1:
        raise RequestError(
            f"Invalid --jobs {jobs}: at least one machine is needed", hint="Give 1 or more"
        )
    if not instance_types:
        recipe = image.recipe or "(none)"
        raise RequestError(
            f"No instance type given, and the recipe of {image.image_id}, {recipe}, was not found",
            hint="Name instance types: --instance-type g4dn.xlarge,g5.xlarge",
        )
    known = with_types(cloud, catalog.load(), instance_types)
    fit.check_types(known, fit.read_contents(known, image.tags, image.architecture), instance_types)


def _launch_and_measure(
    cloud: Cloud,
    image: Image,
    kind: str,
    market: Market,
    bench_run: BenchRun,
    console: Console,
    *,
    alone: bool,
) -> Measured:
    """Launch a machine and measure it. `alone` is True if it is the only instance type."""
    request = LaunchRequest(
        instance_types=(kind,),
        markets=(market,),
        name=f"bench-{kind}-{bench_run.run.id[-6:]}",
        lifetime=LIFETIME,
        used_by="bench",
    )
    try:
        with clean_up(cloud.leftovers) as stack:
            launched = launch(cloud, image, request, ssh_port=bench_run.ssh_port, console=console)
            stack.callback(_end, cloud, launched.machine, console)
            return measure(cloud, launched.machine, bench_run, console)
    except BakeError as error:
        if alone:
            raise
        console.failure(error)
        return Measured(
            instance_type=kind,
            market=market,
            image_id=image.image_id,
            failure=error.full_message,
        )


def _end(cloud: Cloud, machine: Machine, console: Console) -> None:
    command = removal_command("machine", machine.instance_id, region=cloud.region)
    with undo(cloud.leftovers, f"machine {machine.instance_id}", command):
        with console.step("Terminating it") as step:
            machines.terminate(cloud, machine.instance_id, on_state=step.update)
        ssh_config.forget_machine(machine.instance_id)


def _result(
    cloud: Cloud, bench_run: BenchRun, found: Sequence[Measured], image_id: str, name: str = ""
) -> Bench:
    return Bench(
        run=bench_run.run.id,
        region=cloud.region,
        image_id=image_id,
        image_name=name,
        recipe=bench_run.run.recipe,
        quick=bench_run.quick,
        machines=tuple(found),
        started_at=bench_run.run.started_at,
        ended_at=cloud.now(),
    )
