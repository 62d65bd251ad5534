"""The commands of the local cloud."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bake.cli.command import command
from bake.cli.options import CommonOptions

if TYPE_CHECKING:
    from bake.console.console import Console


@command(
    "json",
    help={"like_ec2": "with EC2's delays (or those of the file BAKE_LOCAL_PROFILE)"},
    examples=["invoke local.up", "invoke local.up --like-ec2"],
    document="local.LocalUpDocument",
)
def up(console: Console, common: CommonOptions, like_ec2: bool = False) -> None:
    """Start the local cloud (every command with --local starts it automatically)."""
    from bake.cli.documents.local import LocalUpDocument
    from bake.local import control

    with console.step("Local cloud"):
        endpoint = control.up(profile="ec2" if like_ec2 else None)
    console.result(
        LocalUpDocument.of(endpoint, delays=endpoint.profile),
        f"EC2's API is at {endpoint.url}",
        endpoint.note or console.complete('For any EC2 client: eval "$(invoke local.env)"'),
        console.complete("It keeps running until: invoke local.down"),
    )


@command(
    "json",
    examples=["invoke local.down", "invoke local.down --json"],
    document="local.LocalDownDocument",
)
def down(console: Console, common: CommonOptions) -> None:
    """Stop the local cloud and its machines; images, snapshots and keys are kept."""
    from bake.cli.documents.local import LocalDownDocument
    from bake.local import control

    control.check_computer()
    from bake.local import standin

    with console.step("Ending the local cloud") as step:
        ended = control.down()
        standin.down()
        step.done("" if ended else "it was not running")
    console.result(LocalDownDocument(was_running=ended))


@command(
    "json",
    examples=["invoke local.status", "invoke local.status --json"],
    document="local.LocalStatusDocument",
)
def status(console: Console, common: CommonOptions) -> None:
    """Show the state of the local cloud: address, container engine and machines."""
    from bake.cli.documents.local import LocalStatusDocument, LocalStatusPart
    from bake.local import control

    endpoint = control.status()
    if endpoint is None:
        console.result(
            LocalStatusDocument(is_running=False, cloud=None),
            console.complete("The local cloud does not run. Start it: invoke local.up"),
        )
        return
    reported = endpoint.request("status")
    counts = {"image_count": reported.pop("images"), "machine_count": reported.pop("machines")}
    cloud = LocalStatusPart.model_validate({"url": endpoint.url, **reported, **counts})
    console.result(
        LocalStatusDocument(is_running=True, cloud=cloud),
        f"EC2's API   {endpoint.url}",
        f"engine      {reported['engine']} ({reported['engine_note']})",
        f"machines    {cloud.machine_count}, SSH on port {endpoint.ssh_port}",
        f"images      {cloud.image_count}",
        f"memory      {reported['memory_mib']} MiB",
    )


@command(
    "json",
    positional=["machine"],
    help={"machine": "its id or name", "after": "seconds from notice to end (on EC2: 120)"},
    arguments="MACHINE …",
    examples=[
        "invoke local.interrupt lab1",
        "invoke local.interrupt i-0123456789abcdef0 --after 5",
    ],
    document="local.LocalInterruptDocument",
)
def interrupt(
    console: Console, common: CommonOptions, machine: tuple[str, ...] = (), after: int = 120
) -> None:
    """Interrupt a spot machine of the local cloud as EC2 does: a notice first, then its end."""
    from bake.cli.documents.local import InterruptedEntry, LocalInterruptDocument
    from bake.errors import RequestError
    from bake.local import control

    endpoint = control.status()
    if endpoint is None:
        raise RequestError(
            "The local cloud does not run, so it has no machines to interrupt",
            hint="invoke launch-from-ami --local --spot",
        )
    if not machine:
        raise RequestError(
            "No machine was named",
            hint="Give its id or name. To list the machines: invoke machines --local",
        )
    entries, lines = [], []
    for instance_id in _instance_ids(console, machine):
        reported = endpoint.request("interrupt", {"instance_id": instance_id, "after_s": after})
        entries.append(InterruptedEntry(instance_id=instance_id, ends_at=reported["time"]))
        lines.append(f"{instance_id} is terminated at {reported['time']}")
    console.result(LocalInterruptDocument(machines=tuple(entries)), *lines)


def _instance_ids(console: Console, words: tuple[str, ...]) -> list[str]:
    """Return the ids of the machines with these names. An id may be of any EC2 client's machine."""
    import re

    from bake.aws.machine import find_own_machine
    from bake.cli.environment import open_cloud

    ids = [word for word in words if re.fullmatch("i-[0-9a-f]+", word)]
    if len(ids) == len(words):
        return ids
    cloud = open_cloud(console, CommonOptions(local=True))
    return [
        word if word in ids else find_own_machine(cloud, word).instance_id
        for word in dict.fromkeys(words)
    ]


@command(
    "json",
    help={"packer": "print the keys of a Packer builder instead, as JSON"},
    examples=['eval "$(invoke local.env)"', "invoke local.env --packer"],
    document="local.LocalEnvDocument",
)
def env(console: Console, common: CommonOptions, packer: bool = False) -> None:
    """Print variables with which any EC2 client uses it: eval "$(invoke local.env)"."""
    import json
    import os
    import shlex

    from bake.cli.documents.local import LocalEnvDocument
    from bake.local import control

    cloud = control.up()
    builder = control.packer_builder(cloud) if packer else None
    variables = control.environment(cloud)
    foreign = [name for name in control.foreign_settings(os.environ) if name not in variables]
    if console.json:
        console.result(LocalEnvDocument(variables=variables, unset=tuple(foreign), packer=builder))
        return
    if builder:
        console.output(json.dumps(builder, indent=2))
        return
    console.note("Packer does not read AWS_ENDPOINT_URL: see invoke local.env --packer")
    lines = [f"unset {name}" for name in foreign]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]
    console.output("\n".join(lines))
