"""The life of a machine."""

from __future__ import annotations

from typing import Any

from invoke import task

from bake.cli.command import running
from bake.cli.context import new_console, open_cloud, ssh_port
from bake.cli.options import COMMAND, MACHINE


@task(**COMMAND)
def machines(
    _context: Any, region: str | None = None, local: bool = False, json: bool = False
) -> None:
    """List your machines: how long they live, and what they cost."""
    console = new_console(json)
    with running(console):
        from bake.aws.machine import machines as find_machines
        from bake.cli.views.machines import show_machines
        from bake.machine.cost import costs

        cloud = open_cloud(console, local=local, region=region)
        found = find_machines(cloud)
        show_machines(console, found, cloud.now(), costs(cloud, found))


@task(positional=["machine"], help=MACHINE, **COMMAND)
def start(
    _context: Any,
    machine: Any = None,
    region: str | None = None,
    local: bool = False,
    json: bool = False,
) -> None:
    """Start a stopped machine again."""
    _change("start", "Starting", machine, region=region, local=local, json=json)


@task(positional=["machine"], help=MACHINE, **COMMAND)
def stop(
    _context: Any,
    machine: Any = None,
    region: str | None = None,
    local: bool = False,
    json: bool = False,
) -> None:
    """Stop a machine; its disk stays, and goes on costing."""
    _change("stop", "Stopping", machine, region=region, local=local, json=json)


@task(
    positional=["machine"],
    help={"machine": "id or name of a machine (default: the only one), then 2h, 1d … or never"},
    **COMMAND,
)
def extend(
    _context: Any,
    machine: Any = None,
    region: str | None = None,
    local: bool = False,
    json: bool = False,
) -> None:
    """Put the end of a machine off: invoke extend NAME 2h."""
    console = new_console(json)
    with running(console):
        from bake.aws import machine as selection_machine
        from bake.cli.views import machines as images_machines
        from bake.errors import RequestError
        from bake.machine import cost, lifetime, ssh_config

        if not 1 <= len(machine) <= 2:
            raise RequestError("By how long?", hint="invoke extend NAME 2h")
        *names, time = machine
        by = lifetime.read_time(time, "extend")
        cloud = open_cloud(console, local=local, region=region)
        found = selection_machine.find_own_machine(cloud, names[0] if names else None)
        host = ssh_config.host_of(cloud, found, ssh_port=ssh_port())
        with console.step(f"Extending {found.name}"), ssh_config.connection(host) as connection:
            extended = lifetime.extend(cloud, found, connection, by)
        paid = cost.of(cloud, extended)
        console.result(
            images_machines.machine_document(extended, paid, cloud.now()),
            f"Ends     {lifetime.describe(extended, cloud.now())}",
            f"Costs    {cost.in_words(paid)}",
        )


@task(positional=["machine"], help=MACHINE, **COMMAND)
def terminate(
    _context: Any,
    machine: Any = None,
    region: str | None = None,
    local: bool = False,
    json: bool = False,
) -> None:
    """End a machine for good, with its disk."""
    _change("terminate", "Ending", machine, region=region, local=local, json=json)


def _change(
    verb: str, doing: str, names: tuple[str, ...], *, region: str | None, local: bool, json: bool
) -> None:
    console = new_console(json)
    with running(console):
        from bake.aws import machine as machines
        from bake.aws import machine as selection_machine
        from bake.cli.views import machines as images_machines
        from bake.machine import cost, lifetime, ssh_config
        from bake.machine.key_store import forget_key, key_path

        cloud = open_cloud(console, local=local, region=region)
        changed = []
        for name in names or (None,):
            found = selection_machine.find_own_machine(cloud, name)
            # Of one that ends, what it has cost until now: afterwards nobody can tell.
            before = cost.of(cloud, found) if verb == "terminate" else None
            with console.step(f"{doing} {found.name or found.instance_id}") as step:
                getattr(machines, verb)(cloud, found.instance_id, on_state=step.update)
            if verb == "terminate":
                ssh_config.forget(found.instance_id)
                if found.key_name == f"bake-{found.run_id}":  # a builder's that was kept
                    forget_key(key_path(cloud.account_id, cloud.region, found.key_name))
            now = machines.find_machine(cloud, found.instance_id) or found
            paid = before or cost.of(cloud, now)
            console.print(f"{'Cost    ' if before else 'Costs   '} {cost.in_words(paid)}")
            if verb == "start":
                console.print(f"Ends     {lifetime.describe(now, cloud.now())}")
                # `ssh bake-NAME` finds it at its new address.
                for host in ssh_config.hosts_of(cloud, [now], ssh_port=ssh_port())[0]:
                    ssh_config.write(host)
            changed.append(images_machines.machine_document(now, paid))
        console.result(changed)
