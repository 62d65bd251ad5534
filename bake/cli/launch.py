"""The command that starts a machine from an image."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bake.cli.command import command, running
from bake.cli.connect import use_jupyter
from bake.cli.environment import open_cloud, ssh_port, this_program
from bake.cli.image_choice import chosen_image
from bake.cli.options import NO_BROWSER, CommonOptions, option
from bake.cli.recipes import instance_types_of

if TYPE_CHECKING:
    from bake.console.console import Console
    from bake.machine.launch import LaunchRequest


@dataclass(frozen=True)
class LaunchOptions:
    """The options that describe the machine to launch."""

    ami: str | None = option(
        None,
        "the image's id, recipe, name or the beginning of its name (default: the newest "
        "verified one, if only one recipe has images)",
    )
    unverified: bool = option(False, "also an image that was not proved on a GPU")
    instance_type: str | None = option(
        None,
        "EC2 instance types in order of preference: g4dn.xlarge,g5.xlarge "
        "(default: those of the recipe on which the image works)",
    )
    market: str | None = option(
        None,
        "spot, on-demand (the default), or spot,on-demand: all types and zones as spot "
        "first, then on demand",
    )
    spot: bool = option(False, "the same as --market spot")
    cheapest: bool = option(
        False,
        "the lowest price per GPU and hour now, of all types on which the image works (or those "
        "named), including spot unless --market says otherwise",
    )
    gpus: int = option(
        0, "how many GPUs, if no type is named (default: as the recipe's types; with --cheapest 1)"
    )
    reservation: str | None = option(
        None, "a capacity reservation or Capacity Block to start it in: cr-..."
    )
    subnet: str | None = option(None, "a subnet to start it in (default: those of the default VPC)")
    disk_gb: int = option(0, "size of its disk (default: the image's)")
    key: str | None = option(
        None,
        "name of an SSH key pair that exists at AWS or on this computer (default: your own, which "
        "is made when needed)",
    )
    name: str | None = option(None, "the machine's name")
    ttl: str = option("12h", "how long it runs before it ends by itself: 8h, 90m, 2d, never")
    idle: str = option("never", "how long it may be unused before it ends by itself: 1h, never")
    at_end: str | None = option(
        None, "what happens at the end: stop (the default, except on spot) or terminate"
    )
    via: str | None = option(
        None, "ssm: without a public address, reached by AWS's Session Manager"
    )
    unchecked: bool = option(
        False, "also a type whose GPU bake does not know, with a warning instead of an error"
    )
    instance_profile: str | None = option(
        None,
        "permissions of the machine at AWS: the name of an IAM instance profile "
        "(Session Manager's agent needs one with AmazonSSMManagedInstanceCore)",
    )

    def request(self) -> LaunchRequest:
        """Return the validated launch request. Raises a RequestError for an invalid option."""
        from bake.machine import lifetime
        from bake.machine.launch import LaunchRequest
        from bake.machine.request import read_markets, read_types

        return LaunchRequest(
            instance_types=read_types(self.instance_type),
            markets=read_markets(self.market, spot=self.spot),
            cheapest=self.cheapest,
            gpus=self.gpus or None,
            reservation_id=self.reservation,
            subnet_id=self.subnet,
            disk_gb=self.disk_gb or None,
            key=self.key,
            name=self.name,
            lifetime=lifetime.read_lifetime(ttl=self.ttl, idle=self.idle, at_end=self.at_end),
            via=self.via,
            instance_profile=self.instance_profile,
            unchecked=self.unchecked,
        )


@command(
    "region",
    "local",
    "json",
    "quiet",
    group=LaunchOptions,
    help={
        "connect": "open a shell on it",
        "jupyter": "open Jupyter on it in the browser, through a tunnel until Ctrl-C",
        "no_browser": NO_BROWSER,
    },
    examples=[
        "invoke launch-from-ami --jupyter",
        "invoke launch-from-ami --ami pytorch-cu126 --ttl 8h",
    ],
    document="machines.LaunchDocument",
)
def launch_from_ami(
    console: Console,
    common: CommonOptions,
    options: LaunchOptions,
    connect: bool = False,
    jupyter: bool = False,
    no_browser: bool = False,
) -> None:
    """Start a machine from the newest verified image, and show how to reach it."""
    from functools import partial

    from bake.cli.documents.machines import LaunchDocument, MachineEntry
    from bake.cli.views.machines import launch_lines
    from bake.errors import RequestError
    from bake.images.selection import accepted_proofs
    from bake.machine import cost
    from bake.machine.jupyter import check_image
    from bake.machine.launch import launch

    if connect and jupyter:
        raise RequestError("--connect and --jupyter exclude each other", hint="Give one of them")
    if connect and console.json:
        raise RequestError(
            "--connect and --json exclude each other: a shell writes to stdout, too",
            hint="Leave one of them out, and use the document's `ssh` or invoke connect",
        )
    request = options.request()
    cloud = open_cloud(console, common)
    # A local computer may have no GPU; then an image that was proved on the CPU is enough.
    proved = accepted_proofs(cpu=common.local, unverified=options.unverified)
    image = chosen_image(console, cloud, options.ami, proved=proved)
    if jupyter:
        check_image(image)
    usual = instance_types_of(image.recipe)
    launched = launch(cloud, image, request, usual=usual, console=console, ssh_port=ssh_port())
    machine, paid = launched.machine, cost.find_cost(cloud, launched.machine)
    document = partial(
        LaunchDocument,
        machine=MachineEntry.of_machine(machine, paid, cloud.now()),
        image_name=image.name,
        ssh=tuple(launched.ssh),
    )
    lines = launch_lines(launched, paid, cloud.now(), this_program(), common.flags)
    if jupyter:
        console.print(*lines)
        with running(console, interrupted=f"{machine.name} is left running"):
            browser = not (no_browser or console.json)
            use_jupyter(console, common, cloud, machine, browser=browser, document=document)
    else:
        console.result(document(jupyter=None), *lines)
    if connect:
        os.execvp(launched.ssh[0], launched.ssh)  # noqa: S606
