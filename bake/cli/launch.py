"""TODO docstring."""

from __future__ import annotations

import os
from typing import Any

from invoke import task

from bake.cli.command import running
from bake.cli.context import invoke_word, new_console, open_cloud, ssh_port, where
from bake.cli.options import COMMAND, NO_BROWSER
from bake.cli.orders import types_of
from bake.cli.reach import use_jupyter


@task(
    help={
        "ami": "id, recipe, name or its beginning of the image (default: the newest verified one)",
        "unverified": "also an image that was not proved on a GPU",
        "instance_type": "EC2 instance types in order of preference: g4dn.xlarge,g5.xlarge "
        "(default: the recipe's, as far as the image works on them)",
        "market": "spot, on-demand (the default), or spot,on-demand: all types and zones as spot "
        "first, then on demand",
        "spot": "the same as --market spot",
        "cheapest": "whatever has the lowest price per GPU and hour now, of all types on which the "
        "image works (or those named), spot included unless --market says otherwise",
        "gpus": "how many GPUs, where no type is named (default: as the recipe's types; with "
        "--cheapest 1)",
        "reservation": "a capacity reservation or Capacity Block to start it in: cr-...",
        "subnet": "a subnet to start it in (default: those of the default VPC)",
        "disk_gb": "size of its disk (default: the image's)",
        "key": "name of an SSH key pair (default: your own, made when there is none)",
        "name": "the machine's name",
        "ttl": "how long it runs before it ends by itself: 8h, 90m, 2d, never",
        "idle": "how long nobody may use it before it does: 1h, never",
        "at_end": "what it does then: stop (the default, except on spot) or terminate",
        "via": "ssm: without a public address, reached by AWS's Session Manager",
        "instance_profile": "what the machine may do at AWS: name of an IAM instance profile "
        "(Session Manager's agent needs one with AmazonSSMManagedInstanceCore)",
        "connect": "open a shell on it",
        "jupyter": "open Jupyter on it in the browser, through a tunnel until Ctrl-C",
        "no_browser": NO_BROWSER,
    },
    **COMMAND,
)
def launch_from_ami(
    _context: Any,
    ami: str | None = None,
    unverified: bool = False,
    instance_type: str | None = None,
    market: str | None = None,
    spot: bool = False,
    cheapest: bool = False,
    gpus: int = 0,
    reservation: str | None = None,
    subnet: str | None = None,
    disk_gb: int = 0,
    region: str | None = None,
    key: str | None = None,
    name: str | None = None,
    ttl: str = "12h",
    idle: str = "never",
    at_end: str | None = None,
    via: str | None = None,
    instance_profile: str | None = None,
    connect: bool = False,
    jupyter: bool = False,
    no_browser: bool = False,
    local: bool = False,
    json: bool = False,
    quiet: bool = False,
) -> None:
    """Start a machine from the newest verified image, and say how to reach it."""
    console = new_console(json, quiet)
    with running(console):
        import shlex
        from functools import partial

        from bake.cli.views import machines
        from bake.errors import RequestError
        from bake.images import selection
        from bake.machine import cost, lifetime
        from bake.machine import launch as launching
        from bake.machine.jupyter import check_image
        from bake.machine.request import read_markets, read_types

        if connect and jupyter:
            raise RequestError("--connect and --jupyter exclude each other", hint="Give one")
        wish = launching.LaunchRequest(
            instance_types=read_types(instance_type),
            markets=read_markets(market, spot=spot),
            cheapest=cheapest,
            gpus=gpus or None,
            reservation_id=reservation,
            subnet_id=subnet,
            disk_gb=disk_gb or None,
            key=key,
            name=name,
            lifetime=lifetime.read_lifetime(ttl=ttl, idle=idle, at_end=at_end),
            via=via,
            instance_profile=instance_profile,
        )
        cloud = open_cloud(console, local=local, region=region)
        # On a computer without a GPU there is no more to prove than what the CPU can do.
        proved = selection.enough(cpu=local, unverified=unverified)
        image = selection.choose_image(cloud, ami, proved=proved, flags=where(local, None))
        flag = where(local, region)
        if jupyter:
            check_image(image)
        launched = launching.launch(
            cloud,
            image,
            wish,
            usual=types_of(image.recipe),
            console=console,
            ssh_port=ssh_port(),
        )
        paid = cost.of(cloud, launched.machine)
        document = machines.machine_document(launched.machine, paid) | {"ssh": launched.ssh}
        # One document: with Jupyter, when it answers.
        tell = partial(console.result, document) if not jupyter else console.print
        tell(
            "",
            f"Image    {image.image_id}  {image.name}",
            f"Machine  {launched.machine.name}  {launched.machine.instance_id}",
            f"Shell    {invoke_word()} connect {launched.machine.name}{flag}   which is",
            shlex.join(launched.ssh),
            f"Costs    {cost.in_words(paid)}",
            f"Ends     {lifetime.describe(launched.machine, cloud.now())}",
            f"Longer   {invoke_word()} extend {launched.machine.name} 2h{flag}",
            f"End it   {invoke_word()} terminate {launched.machine.name}{flag}",
        )
    if jupyter:
        with running(console, interrupted=f"{launched.machine.name} runs on"):
            use_jupyter(
                console,
                cloud,
                launched.machine,
                browser=not (no_browser or json),
                local=local,
                region=region,
                known=document,
            )
    if connect:
        os.execvp(launched.ssh[0], launched.ssh)  # noqa: S606
