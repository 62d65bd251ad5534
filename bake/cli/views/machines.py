"""Machines, how long they live, and what they cost: tables, lines and JSON documents."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Sequence
from datetime import datetime

from bake.aws.machine import Machine
from bake.aws.tags import VIA
from bake.cli.documents.machines import MachineEntry, MachinesDocument
from bake.console.console import Console
from bake.console.format import money, rate, rounded_duration
from bake.errors import CloudError
from bake.machine import cost as in_usd
from bake.machine import lifetime
from bake.machine.cost import Cost, Costs
from bake.machine.launch import Launched


def show_machines(
    console: Console, machines: Sequence[Machine], now: datetime, costs: Costs
) -> None:
    """Show machines. `now` is AWS's time, for how long they have lived and may still live."""
    console.table(
        ["machine", "state", "type", "address", "left", "$/h", "$ so far", "zone", "id"],
        [_row(machine, now, costs.of.get(machine.instance_id)) for machine in machines],
        empty="You have no machines here. Start one: invoke launch-from-ami",
        right=("$/h", "$ so far"),
        fold=("machine", "state", "type"),
        optional=2,
    )
    console.result(machines_document([(m, costs.of.get(m.instance_id)) for m in machines], now))
    if machines and not console.json:
        for line in totals(list(costs.of.values())):
            console.note(line)
        show_unknown(console, costs.refusals)


def _row(machine: Machine, now: datetime, cost: Cost | None) -> list[str]:
    left = lifetime.time_left(machine, now)
    ends, hourly, spent = "-", "-", "-"
    if left is not None:
        ends = rounded_duration(left)
    elif machine.state in ("pending", "running"):
        ends = "never"
    if cost and cost.runs and cost.prepaid:
        hourly, spent = "paid", "-"
    elif cost and cost.runs:
        hourly = "?" if cost.per_hour is None else rate(cost.per_hour)
        spent = "?" if cost.since_launch is None else money(cost.since_launch)
        spent = f"~{spent}" if cost.about and spent != "?" else spent
    elif cost and machine.state in ("stopping", "stopped"):
        monthly = cost.disks_per_month
        hourly, spent = "disks", "?" if monthly is None else f"{money(monthly)}/mo"
    mark = {None: "", "bake": " (builder)"}.get(machine.used_by, f" ({machine.used_by})")
    return [
        (machine.name or machine.instance_id) + mark,
        machine.state,
        machine.instance_type + (" spot" if machine.market == "spot" else ""),
        machine.address or machine.tags.get(VIA, "-"),
        ends,
        hourly,
        spent,
        machine.zone,
        machine.instance_id,
    ]


def totals(costs: Sequence[Cost]) -> list[str]:
    """Return lines with the total costs; they say `at least` if a price is not known."""
    running = [cost for cost in costs if cost.runs]
    stopped = [cost for cost in costs if not cost.runs and cost.disks_gb != 0]
    hourly = [cost.per_hour for cost in running if cost.per_hour is not None]
    spent = [cost.since_launch for cost in running if cost.since_launch is not None]
    monthly = [cost.disks_per_month for cost in stopped if cost.disks_per_month is not None]
    lines = []
    if hourly:
        least = "at least " if len(hourly) < len(running) else ""
        about = "about " if any(cost.about for cost in running) else ""
        lines.append(
            f"Running: {least}${rate(sum(hourly))} an hour, "
            f"{least or about}${money(sum(spent))} since they were started."
        )
    if monthly:
        least = "at least " if len(monthly) < len(stopped) else ""
        lines.append(f"Stopped: their disks cost {least}${money(sum(monthly))} a month.")
    return lines


def show_unknown(console: Console, refusals: Sequence[CloudError]) -> None:
    """Warn of each reason for a question mark, once and in one line."""
    for text in dict.fromkeys(f"{each.message} ({each.code})" for each in refusals):
        if not console.json:
            console.warn(f"? means unknown: {text}")


def machines_document(
    machines: Iterable[tuple[Machine, Cost | None]], now: datetime
) -> MachinesDocument:
    """Return the document of machines and their costs. `now` is AWS's time."""
    entries = (MachineEntry.of_machine(machine, cost, now) for machine, cost in machines)
    return MachinesDocument(machines=tuple(entries))


def label(machine: Machine) -> str:
    """Return a machine's name, id and type, and that a bake or a bench uses it."""
    known = [machine.instance_id] if machine.name else []
    used = [f"used by a {machine.used_by}"] if machine.used_by else []
    details = ", ".join([*known, machine.instance_type, *used])
    return f"{machine.name or machine.instance_id} ({details})"


def consequence(machine: Machine, running: Collection[str] | None) -> str:
    """Return what the loss of a machine means for the bake or the bench that uses it.

    `running` are the ids of the runs whose bakes may still run; None if they are not known. "" if
    the machine's bake has ended.
    """
    from bake.pipeline.bake import MOST_MACHINES

    name = machine.name or machine.instance_id
    if machine.used_by == "bench":
        return f"{name} is used by a bench. If the bench still runs, it reports a failure."
    if running is not None and machine.run_id not in running:
        return ""
    recipe = f" of {machine.recipe}" if machine.recipe else ""
    continues = "continues on another machine from its last checkpoint"
    if running is None:
        return f"{name} is the builder of a bake{recipe}. If the bake still runs, it {continues}."
    return (
        f"{name} is the builder of a running bake{recipe}. The bake {continues}, and gives up "
        f"after {MOST_MACHINES} lost machines."
    )


def launch_lines(
    launched: Launched, cost: Cost, now: datetime, invoke: str, flags: str
) -> list[str]:
    """Return what to know about a new machine: what it is, how to reach, extend and end it.

    `invoke` and `flags` are the beginning and the end of the commands that do so.
    """
    machine, image = launched.machine, launched.image
    return [
        f"Image    {image.image_id}  {image.name}",
        f"Machine  {machine.name}  {machine.instance_id}",
        f"Shell    {invoke} connect {machine.name}{flags}   or, without bake:",
        shlex.join(launched.ssh),
        f"Costs    {in_usd.describe(cost)}",
        f"Ends     {lifetime.describe(machine, now)}",
        f"Longer   {invoke} extend {machine.name} 2h{flags}",
        f"End it   {invoke} terminate {machine.name}{flags}",
    ]
