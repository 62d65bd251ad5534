"""The local cloud."""

from __future__ import annotations

from typing import Any

from invoke import task

from bake.cli.command import running
from bake.cli.context import new_console
from bake.cli.options import COMMAND


@task(help={"like_ec2": "with EC2's delays (BAKE_LOCAL_PROFILE: those of a file)"}, **COMMAND)
def up(_context: Any, like_ec2: bool = False, json: bool = False) -> None:
    """Start the local cloud (every command with --local does so by itself)."""
    console = new_console(json)
    with running(console):
        from bake.local import control

        with console.step("Local cloud"):
            endpoint = control.up(profile="ec2" if like_ec2 else None)
        console.result(
            {"url": endpoint.url, "ssh_port": endpoint.ssh_port},
            f"EC2's API is at {endpoint.url}",
            endpoint.note or 'For any EC2 client: eval "$(invoke local.env)"',
        )


@task(**COMMAND)
def down(_context: Any, json: bool = False) -> None:
    """End the local cloud and its machines; images, snapshots and keys are kept."""
    console = new_console(json)
    with running(console):
        from bake.local import control, standin

        with console.step("Ending the local cloud"):
            ended = control.down()
            standin.down()
        console.result({"ended": ended}, "" if ended else "It was not running.")


@task(**COMMAND)
def status(_context: Any, json: bool = False) -> None:
    """Say whether the local cloud runs, where, and by what."""
    console = new_console(json)
    with running(console):
        from bake.local import control

        endpoint = control.status()
        if endpoint is None:
            console.result({"running": False}, "It does not run. Start it: invoke local.up")
            return
        told = endpoint.ask("status")
        console.result(
            {"running": True, "url": endpoint.url, **told},
            f"EC2's API   {endpoint.url}",
            f"engine      {told['engine']} ({told['engine_note']})",
            f"machines    {told['machines']}, SSH on port {endpoint.ssh_port}",
            f"images      {told['images']}",
            f"memory      {told['memory_mib']} MiB",
        )


@task(
    positional=["machine"],
    help={"machine": "its instance id", "after": "seconds from notice to end (on EC2: 120)"},
    **COMMAND,
)
def interrupt(_context: Any, machine: Any = None, after: int = 120, json: bool = False) -> None:
    """Take a spot machine of the local cloud away, as EC2's market does: notice, then its end."""
    console = new_console(json)
    with running(console):
        from bake.errors import RequestError
        from bake.local import control

        endpoint = control.status()
        if endpoint is None or not machine:
            missing = "a machine's id" if endpoint else "a local cloud that runs"
            raise RequestError(f"There is no machine to interrupt: this needs {missing}")
        for each in machine:
            told = endpoint.ask("interrupt", {"instance_id": each, "after_s": after})
            console.result({"machine": each, **told}, f"{each} is terminated at {told['time']}")


@task(**COMMAND)
def env(_context: Any, json: bool = False) -> None:
    """Print what makes any EC2 client use it: eval "$(invoke local.env)"."""
    console = new_console(json)
    with running(console):
        import shlex

        from bake.local import control

        variables = control.environment(control.up())
        if json:
            console.result(variables)
        else:
            # The one thing for a shell to read, and so for stdout.
            for name, value in variables.items():
                print(f"export {name}={shlex.quote(value)}")
