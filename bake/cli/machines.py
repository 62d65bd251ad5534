"""The commands that list machines, start, stop, extend and terminate them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from bake.cli.command import command
from bake.cli.environment import machine_named, open_cloud, ssh_port, this_program
from bake.cli.options import ALSO_MACHINE, MACHINE, CommonOptions

if TYPE_CHECKING:
    from bake.aws.client.session import Cloud
    from bake.aws.machine import Machine
    from bake.console.console import Console


@command(
    "region",
    "local",
    "json",
    examples=["invoke machines", "invoke machines --local --json"],
    document="machines.MachinesDocument",
)
def machines(console: Console, common: CommonOptions) -> None:
    """List your machines, with their time left and their cost."""
    from bake.aws.machine import machines as find_machines
    from bake.cli.views.machines import show_machines
    from bake.machine.cost import find_costs

    cloud = open_cloud(console, common)
    found = find_machines(cloud)
    show_machines(console, found, cloud.now(), find_costs(cloud, found))


@command(
    "region",
    "local",
    "json",
    positional=["machine"],
    help=MACHINE,
    arguments="[MACHINE …]",
    examples=["invoke start", "invoke start lab1 --region us-west-2"],
    document="machines.MachinesDocument",
)
def start(console: Console, common: CommonOptions, machine: tuple[str, ...] = ()) -> None:
    """Start a stopped machine again."""
    from bake.aws import machine as aws
    from bake.cli.views.machines import machines_document
    from bake.machine import cost, lifetime, ssh_config
    from bake.machine.access import restore_access

    cloud = open_cloud(console, common)
    changed = []
    for found in aws.find_own_machines(cloud, machine):
        started = _change(console, cloud, found, "Starting", aws.start)
        restore_access(cloud, started, port=ssh_port(), say=console.warn)
        paid = cost.find_cost(cloud, started)
        console.print(
            f"Costs    {cost.describe(paid)}", f"Ends     {lifetime.describe(started, cloud.now())}"
        )
        # Its address is new, and `ssh bake-NAME` must use that one.
        for host in ssh_config.find_hosts(cloud, [started], ssh_port=ssh_port())[0]:
            ssh_config.write(host)
        changed.append((started, paid))
    console.result(machines_document(changed, cloud.now()))


@command(
    "region",
    "local",
    "json",
    positional=["machine"],
    help=MACHINE,
    arguments="[MACHINE …]",
    examples=["invoke stop", "invoke stop lab1 --region us-west-2"],
    document="machines.MachinesDocument",
)
def stop(console: Console, common: CommonOptions, machine: tuple[str, ...] = ()) -> None:
    """Stop a machine; its disk is kept and still costs money."""
    from bake.aws import machine as aws
    from bake.cli.views.machines import machines_document
    from bake.machine import cost

    cloud = open_cloud(console, common)
    changed = []
    chosen = aws.find_own_machines(cloud, machine)
    for line in _consequences(cloud, chosen):
        console.warn(line)
    for found in chosen:
        stopped = _change(console, cloud, found, "Stopping", aws.stop)
        paid = cost.find_cost(cloud, stopped)
        console.print(f"Costs    {cost.describe(paid)}")
        changed.append((stopped, paid))
    console.result(machines_document(changed, cloud.now()))


@command(
    "region",
    "local",
    "json",
    positional=["machine"],
    help={**MACHINE, "yes": "confirm; required outside a terminal and with --json"},
    arguments="[MACHINE …]",
    examples=["invoke terminate lab1", "invoke terminate lab1 --yes --local"],
    document="machines.MachinesDocument",
    interrupted="a machine whose termination AWS has accepted is still terminated",
)
def terminate(
    console: Console, common: CommonOptions, machine: tuple[str, ...] = (), yes: bool = False
) -> None:
    """Terminate a machine and delete its disk; asks first."""
    from bake.aws import machine as aws
    from bake.cli.views.machines import machines_document
    from bake.errors import FileError
    from bake.machine import cost, ssh_config
    from bake.machine.key_store import key_path, remove_key

    cloud = open_cloud(console, common)
    changed = []
    chosen = aws.find_own_machines(cloud, machine)
    consequences = _consequences(cloud, chosen)
    _confirm_end(console, chosen, consequences, yes=yes, flags=common.flags)
    for found in chosen:
        paid = cost.find_cost(cloud, found)  # a terminated machine no longer has its volumes
        ended = _change(console, cloud, found, "Terminating", aws.terminate)
        ssh_config.forget_machine(found.instance_id)
        if found.key_name == f"bake-{found.run_id}":  # a builder that was kept has its own key
            try:
                remove_key(key_path(cloud.account_id, cloud.region, found.key_name))
            except FileError as error:  # the other machines must end, too
                console.warn(error.message)
        console.print(f"Costs    {cost.describe(paid)}")
        changed.append((ended, paid))
    console.result(machines_document(changed, cloud.now()))


def _confirm_end(
    console: Console,
    chosen: Sequence[Machine],
    consequences: Sequence[str],
    *,
    yes: bool,
    flags: str,
) -> None:
    """Ask once before all these machines are terminated. With `yes`, only say the consequences."""
    import shlex

    from bake.cli.confirm import confirm
    from bake.cli.views.machines import label

    if yes:
        for line in consequences:
            console.warn(line)
    names = [each.name or each.instance_id for each in chosen if not each.used_by]
    names += [each.instance_id for each in chosen if each.used_by]  # several may have one name
    several = [label(each) for each in chosen] if len(chosen) > 1 else []
    confirm(
        console,
        f"Terminate {f'these {len(chosen)} machines' if several else label(chosen[0])}?",
        yes=yes,
        command=shlex.join([this_program(), "terminate", *names, "--yes"]) + flags,
        details=[*several, *consequences],
    )


def _consequences(cloud: Cloud, chosen: Sequence[Machine]) -> list[str]:
    """Return what the end of these machines means for the bakes and benches that use them."""
    from bake.aws.run_state import run_states
    from bake.cli.views.machines import consequence
    from bake.errors import CloudError

    used = [each for each in chosen if each.used_by]
    alive: set[str] | None = None
    if any(each.used_by == "bake" for each in used):
        try:
            alive = {state.run for state in run_states(cloud) if not state.dead}
        except CloudError:  # the leases cannot be read
            alive = None
    return [line for each in used if (line := consequence(each, alive))]


def _change(
    console: Console, cloud: Cloud, machine: Machine, doing: str, change: Callable[..., object]
) -> Machine:
    """Change the state of a machine, wait for that, and return the machine as it is now."""
    from bake.aws.machine import find_machine

    with console.step(f"{doing} {machine.name or machine.instance_id}") as step:
        change(cloud, machine.instance_id, on_state=step.update)
    return find_machine(cloud, machine.instance_id) or machine


@command(
    "region",
    "local",
    "json",
    positional=["words"],
    help={
        **ALSO_MACHINE,
        "words": "id or name of a machine (default: your only one), then 2h, 1d … or never",
    },
    arguments="[MACHINE] DURATION",
    examples=["invoke extend 2h", "invoke extend lab1 1d"],
    document="machines.MachinesDocument",
)
def extend(
    console: Console,
    common: CommonOptions,
    words: tuple[str, ...] = (),
    machine: str | None = None,
) -> None:
    """Extend the time until a machine ends."""
    from bake.aws.machine import find_own_machine
    from bake.cli.views.machines import machines_document
    from bake.errors import RequestError
    from bake.machine import cost, lifetime, ssh_config
    from bake.machine.access import reach

    if not 1 <= len(words) <= 2:
        raise RequestError(
            "Too many arguments" if words else "Missing duration",
            hint="invoke extend NAME 2h",
        )
    *names, time = words
    name = machine_named(names[0] if names else None, machine)
    by = lifetime.read_time(time, "extend")
    cloud = open_cloud(console, common)
    found = find_own_machine(cloud, name)
    host = reach(cloud, found, ssh_port=ssh_port(), say=console.warn)
    with console.step(f"Extending {found.name}"), ssh_config.connect(host) as connection:
        extended = lifetime.extend(cloud, found, connection, by)
    paid = cost.find_cost(cloud, extended)
    console.result(
        machines_document([(extended, paid)], cloud.now()),
        f"Ends     {lifetime.describe(extended, cloud.now())}",
        f"Costs    {cost.describe(paid)}",
    )
