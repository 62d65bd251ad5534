"""How fast machines are."""

from __future__ import annotations

from typing import Any

from invoke import task
from invoke.exceptions import Exit

from bake.cli.command import running
from bake.cli.context import new_console, only, open_cloud, ssh_port
from bake.cli.options import COMMAND
from bake.cli.orders import types_of


@task(
    positional=["machine"],
    help={
        "machine": "id or name of a machine that runs (default: the only one); it goes on running",
        "ami": "launch from this image instead: its id, name or recipe (default: the newest one)",
        "unverified": "also an image that was not proved on a GPU",
        "instance_type": "launch one of each of these: g4dn.xlarge,g5.xlarge (default: the "
        "recipe's first); each is terminated when it has been measured",
        "spot": "spot machines",
        "jobs": "how many machines at a time",
        "quick": "short runs: less exact",
    },
    **COMMAND,
)
def bench(
    _context: Any,
    machine: Any = None,
    ami: str | None = None,
    unverified: bool = False,
    instance_type: str | None = None,
    spot: bool = False,
    jobs: int = 4,
    quick: bool = False,
    region: str | None = None,
    local: bool = False,
    json: bool = False,
    quiet: bool = False,
    verbose: bool = False,
) -> None:
    """Measure how fast a machine, or each kind of machine, is with an image's framework."""
    console = new_console(json, quiet, verbose)
    with running(console, interrupted="what was launched for it has been terminated"):
        from bake import files
        from bake.aws import machine as selection_machine
        from bake.cli.views import bench as speed_bench
        from bake.errors import RequestError
        from bake.images import selection
        from bake.machine.bench import bench as speed
        from bake.machine.request import read_types

        name = only(machine, "machine")
        launches = bool(ami or instance_type or spot)
        if name and launches:
            raise RequestError(
                f"{name} runs already, and nothing has to be launched",
                hint="Give a machine, or --ami and --instance-type",
            )
        cloud = open_cloud(console, local=local, region=region)
        how: dict[str, Any] = {"builds": files.builds(), "ssh_port": ssh_port(), "quick": quick}
        if launches:
            # On a computer without a GPU there is no more to prove than what the CPU can do.
            proved = selection.enough(cpu=local, unverified=unverified)
            image = selection.choose_image(cloud, ami, proved=proved)
            done = speed.bench_image(
                cloud,
                image,
                read_types(instance_type) or types_of(image.recipe)[:1],
                speed.new_bench_run(cloud, image.recipe, **how),
                console,
                market="spot" if spot else "on-demand",
                jobs=jobs,
            )
        else:
            found = selection_machine.find_own_machine(cloud, name)
            bench_run = speed.new_bench_run(cloud, found.recipe, **how)
            done = speed.bench_machine(cloud, found, bench_run, console)
        speed_bench.show(console, done, files.builds())
        if any(each.failure or not each.figures for each in done.machines):
            raise Exit(code=1)
