"""The command that measures how fast machines are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from invoke.exceptions import Exit

from bake.cli.command import command
from bake.cli.environment import at_most_one, open_cloud, ssh_port
from bake.cli.options import CommonOptions
from bake.cli.recipes import instance_types_of

if TYPE_CHECKING:
    from bake.console.console import Console


@command(
    "region",
    "local",
    "json",
    "quiet",
    "verbose",
    positional=["machine"],
    help={
        "machine": "id or name of a running machine (default: the only one); it is left running",
        "ami": "launch from this image instead: its id, name or recipe (default: the newest one)",
        "unverified": "also an image that was not proved on a GPU",
        "instance_type": "launch one of each of these: g4dn.xlarge,g5.xlarge (default: the "
        "recipe's first); each is terminated when it has been measured",
        "spot": "spot machines",
        "jobs": "how many machines at a time",
        "quick": "short runs: less exact",
    },
    interrupted="what was launched for it has been terminated",
)
def bench(
    console: Console,
    common: CommonOptions,
    machine: tuple[str, ...] = (),
    ami: str | None = None,
    unverified: bool = False,
    instance_type: str | None = None,
    spot: bool = False,
    jobs: int = 4,
    quick: bool = False,
) -> None:
    """Measure how fast a machine, or each kind of machine, is with an image's framework."""
    from bake import files
    from bake.aws.machine import find_own_machine
    from bake.cli.views import bench as views
    from bake.cli.views import bench_page
    from bake.errors import RequestError
    from bake.images import selection
    from bake.machine.bench import bench as measuring
    from bake.machine.request import read_types

    name = at_most_one(machine, "machine")
    launches = bool(ami or instance_type or spot)
    if name and launches:
        raise RequestError(
            f"--ami, --instance-type and --spot launch a machine, but {name} runs already",
            hint="Name a machine, or give --ami and --instance-type",
        )
    cloud = open_cloud(console, common)
    settings: dict[str, Any] = {"builds": files.builds(), "ssh_port": ssh_port(), "quick": quick}
    if launches:
        # A local computer may have no GPU; then an image that was proved on the CPU is enough.
        proved = selection.accepted_proofs(cpu=common.local, unverified=unverified)
        image = selection.choose_image(cloud, ami, proved=proved)
        done = measuring.bench_image(
            cloud,
            image,
            read_types(instance_type) or instance_types_of(image.recipe)[:1],
            measuring.new_bench_run(cloud, image.recipe, **settings),
            console,
            market="spot" if spot else "on-demand",
            jobs=jobs,
        )
    else:
        found = find_own_machine(cloud, name)
        bench_run = measuring.new_bench_run(cloud, found.recipe, **settings)
        done = measuring.bench_machine(cloud, found, bench_run, console)
    bench_page.write_page(done, files.builds() / done.run)
    views.show(console, done, files.builds())
    if any(each.failure or not each.figures for each in done.machines):
        raise Exit(code=1)
