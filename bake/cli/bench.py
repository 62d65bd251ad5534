"""The command that measures how fast machines are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from invoke.exceptions import Exit

from bake.cli.command import command
from bake.cli.environment import at_most_one, open_cloud, ssh_port
from bake.cli.image_choice import chosen_image
from bake.cli.options import CommonOptions, option
from bake.cli.recipes import instance_types_of

if TYPE_CHECKING:
    from bake.aws.client.session import Cloud
    from bake.console.console import Console
    from bake.machine.bench.figures import Bench
    from bake.machine.bench.measure import BenchRun


@dataclass(frozen=True)
class BenchOptions:
    """The options that select what is measured, and how."""

    machine: tuple[str, ...] = option(
        (), "id or name of a running machine (default: your only one); it is left running"
    )
    ami: str | None = option(
        None,
        "launch from this image instead: its id, name or recipe (default: as for launch-from-ami)",
    )
    unverified: bool = option(False, "also an image that was not proved on a GPU")
    instance_type: str | None = option(
        None,
        "launch one of each of these: g4dn.xlarge,g5.xlarge (default: the recipe's first); each "
        "is terminated when it has been measured",
    )
    spot: bool = option(False, "spot machines")
    jobs: int = option(4, "how many machines at a time")
    quick: bool = option(False, "short runs: less exact")

    @property
    def launches(self) -> bool:
        return bool(self.ami or self.instance_type or self.spot)


@command(
    "region",
    "local",
    "json",
    "quiet",
    "verbose",
    group=BenchOptions,
    positional=["machine"],
    interrupted="what was launched for it has been terminated",
    arguments="[MACHINE]",
    examples=[
        "invoke bench lab1 --quick",
        "invoke bench --ami pytorch-cu126 --instance-type g5.xlarge,g6.xlarge",
    ],
    document="bench.BenchDocument",
)
def bench(console: Console, common: CommonOptions, options: BenchOptions) -> None:
    """Measure how fast a machine, or each type of machine, is with an image's framework."""
    from bake import files
    from bake.cli.views.bench import show_bench
    from bake.cli.views.bench_page import write_page
    from bake.errors import BakeError, RequestError

    name = at_most_one(options.machine, "machine")
    if name and options.launches:
        raise RequestError(
            f"--ami, --instance-type and --spot launch a machine, but {name} runs already",
            hint="Name a machine, or give --ami and --instance-type",
        )
    cloud = open_cloud(console, common)
    if options.launches:
        measured = _measure_image(console, common, cloud, options)
    else:
        measured = _measure_machine(console, cloud, name, quick=options.quick)
    folder = files.builds() / measured.run
    try:
        measured.write(folder)
        write_page(measured, folder)
    finally:  # also on a full disk: measuring again would take an hour
        show_bench(console, measured, files.builds())
    failed = [each for each in measured.machines if each.failure or not each.figures]
    if failed:
        reasons = [f"{each.instance_type}: {each.failure or 'no figures'}" for each in failed]
        console.fail(BakeError(f"{len(failed)} machines were not measured", details=reasons))
        raise Exit(code=1)


def _measure_image(
    console: Console, common: CommonOptions, cloud: Cloud, options: BenchOptions
) -> Bench:
    from bake.images.selection import accepted_proofs
    from bake.machine.bench import bench as measuring
    from bake.machine.request import read_types

    # A local computer may have no GPU; then an image that was proved on the CPU is enough.
    proved = accepted_proofs(cpu=common.local, unverified=options.unverified)
    image = chosen_image(console, cloud, options.ami, proved=proved)
    return measuring.bench_image(
        cloud,
        image,
        read_types(options.instance_type) or instance_types_of(image.recipe)[:1],
        _new_run(cloud, image.recipe, quick=options.quick),
        console,
        market="spot" if options.spot else "on-demand",
        jobs=options.jobs,
    )


def _measure_machine(console: Console, cloud: Cloud, name: str | None, *, quick: bool) -> Bench:
    from bake.aws.machine import find_own_machine
    from bake.machine.bench import bench as measuring

    machine = find_own_machine(cloud, name)
    run = _new_run(cloud, machine.recipe, quick=quick)
    return measuring.bench_machine(cloud, machine, run, console)


def _new_run(cloud: Cloud, recipe: str, *, quick: bool) -> BenchRun:
    from bake import files
    from bake.machine.bench.bench import new_bench_run

    return new_bench_run(cloud, recipe, builds=files.builds(), ssh_port=ssh_port(), quick=quick)
