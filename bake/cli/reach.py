"""On a machine, from here."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from invoke import task
from invoke.exceptions import Exit

from bake.cli.command import running
from bake.cli.context import invoke_word, new_console, only, open_cloud, ssh_port
from bake.cli.options import COMMAND, MACHINE, NO_BROWSER

if TYPE_CHECKING:
    from bake.aws.client.session import Cloud
    from bake.aws.machine import Machine
    from bake.console.console import Console
    from bake.machine.ssh_config import Host


@task(positional=["machine"], help=MACHINE, **COMMAND)
def connect(
    _context: Any, machine: Any = None, region: str | None = None, local: bool = False
) -> None:
    """Open a shell on a machine."""
    from bake.machine import ssh_config as reach

    found = only(machine, "machine")
    with _reached(found, region=region, local=local, priced=True) as (host, call):
        call(reach.ssh(host))


@task(
    positional=["command"],
    help={**MACHINE, "command": "a line of shell: it runs in the image's Python environment"},
    **COMMAND,
)
def run(
    _context: Any,
    command: Any = None,
    machine: str | None = None,
    region: str | None = None,
    local: bool = False,
) -> None:
    """Run a command on a machine: its output, input and exit status are this one's."""
    from bake.machine import run as shell

    with _reached(machine, region=region, local=local) as (host, call):
        call(shell.command(host, " ".join(command or ()), terminal=shell.on_a_terminal()))


@task(
    positional=["paths"],
    help={**MACHINE, "paths": "files and folders here, and last where to put them there"},
    **COMMAND,
)
def put(
    _context: Any,
    paths: Any = None,
    machine: str | None = None,
    region: str | None = None,
    local: bool = False,
) -> None:
    """Copy files and folders to a machine (rsync): invoke put LOCAL... REMOTE."""
    _transfer("put", paths, machine, region=region, local=local)


@task(
    positional=["paths"],
    help={**MACHINE, "paths": "files and folders there, and last where to put them here"},
    **COMMAND,
)
def get(
    _context: Any,
    paths: Any = None,
    machine: str | None = None,
    region: str | None = None,
    local: bool = False,
) -> None:
    """Copy files and folders from a machine (rsync): invoke get REMOTE... LOCAL."""
    _transfer("get", paths, machine, region=region, local=local)


def _transfer(
    verb: str,
    paths: tuple[str, ...] | None,
    machine: str | None,
    *,
    region: str | None,
    local: bool,
) -> None:
    from bake.machine import transfer

    with _reached(machine, region=region, local=local, advice=transfer.advice) as (host, call):
        *what, where = transfer.check(verb, paths or ())
        call(getattr(transfer, verb)(host, what, where, progress=sys.stderr.isatty()))


@contextmanager
def _reached(
    machine: str | None,
    *,
    region: str | None,
    local: bool,
    priced: bool = False,
    advice: Callable[[Host, int], str] = lambda host, status: "",
) -> Iterator[tuple[Host, Callable[[list[str]], None]]]:
    """A machine's Host, and what runs a program that goes there and ends as that one did.

    `priced`: what it costs is said before that.
    """
    console = new_console()
    with running(console, interrupted="the machine runs on"):
        from bake.aws import machine as selection_machine
        from bake.machine import cost
        from bake.machine import run as shell
        from bake.machine import ssh_config as reach

        cloud = open_cloud(console, local=local, region=region)
        found = selection_machine.find_own_machine(cloud, machine)

        host = reach.host_of(cloud, found, ssh_port=ssh_port())
        if priced:
            console.note(f"{found.name}: {cost.in_words(cost.of(cloud, found))}")

        def call(words: list[str]) -> None:
            status = shell.call(words)
            lost = shell.loss(cloud, found) if status in shell.NO_CONNECTION else None
            if lost:
                console.failure(lost)
            elif said := advice(host, status):
                console.warn(said)
            if status:
                raise Exit(code=status)

        yield host, call


@task(
    name="ssh-config",
    positional=["machine"],
    help={
        "machine": "ids or names of machines (default: all that run)",
        "write": "keep it in files of ours, for ssh, rsync, VS Code and other programs",
        "include": "and have ~/.ssh/config include them",
    },
    **COMMAND,
)
def ssh_config(
    _context: Any,
    machine: Any = None,
    write: bool = False,
    include: bool = False,
    region: str | None = None,
    local: bool = False,
    json: bool = False,
) -> None:
    """Print what makes `ssh bake-NAME` work, and with --write, make it."""
    console = new_console(json)
    with running(console):
        from bake.aws import machine as selection_machine
        from bake.aws.machine import machines as find_machines
        from bake.machine import ssh_config as includes
        from bake.machine import ssh_config as reach

        cloud = open_cloud(console, local=local, region=region)
        if machine:
            hosts = [
                reach.host_of(
                    cloud, selection_machine.find_own_machine(cloud, name), ssh_port=ssh_port()
                )
                for name in machine
            ]
        else:
            hosts, others = reach.hosts_of(cloud, find_machines(cloud), ssh_port=ssh_port())
            for error in others:
                console.warn(error.message)
            if not hosts:
                console.note("No machine runs that could be reached from here.")
        if write or include:
            for host in hosts:
                reach.write(host)
            if not machine:
                reach.keep_only(cloud, hosts)
            if include:
                includes.include()
            included = includes.is_included()
            console.result(
                [host.document() for host in hosts],
                *(f"{host.alias}  {host.instance_id}" for host in hosts),
                "They are reached as: ssh bake-NAME"
                if included
                else "`ssh bake-NAME` works with this at the top of ~/.ssh/config (--include):",
                *(() if included else (includes.include_line(),)),
            )
        elif json:
            console.result([host.document() for host in hosts])
        else:
            # For a program to read, and so for stdout.
            print("\n".join(host.configuration() for host in hosts), end="")


@task(
    positional=["machine"],
    help={
        **MACHINE,
        "port": "on this computer; the next free one where it is taken",
        "no_browser": NO_BROWSER,
        "stop": "end Jupyter and its kernels on the machine, which runs on",
    },
    **COMMAND,
)
def jupyter(
    _context: Any,
    machine: Any = None,
    port: int = 8889,
    no_browser: bool = False,
    stop: bool = False,
    region: str | None = None,
    local: bool = False,
    json: bool = False,
    quiet: bool = False,
) -> None:
    """Open Jupyter on a machine in the browser, through a tunnel until Ctrl-C."""
    console = new_console(json, quiet)
    with running(console, interrupted="the machine runs on"):
        from bake.aws import machine as selection_machine
        from bake.machine import cost, jupyter, lifetime
        from bake.machine import ssh_config as reach

        jupyter.check_port(port)
        cloud = open_cloud(console, local=local, region=region)
        found = selection_machine.find_own_machine(cloud, only(machine, "machine"))
        host = reach.host_of(cloud, found, ssh_port=ssh_port())
        if not stop:
            console.print(
                f"Costs    {cost.in_words(cost.of(cloud, found))}",
                f"Ends     {lifetime.describe(found, cloud.now())}",
            )
            browser = not (no_browser or json)
            use_jupyter(
                console, cloud, found, port=port, browser=browser, local=local, region=region
            )
            return
        with reach.connection(host) as connection:
            stopped = jupyter.stop(connection)
        console.result(
            {"stopped": stopped}, "Jupyter has ended." if stopped else "There is none that runs."
        )


def use_jupyter(
    console: Console,
    cloud: Cloud,
    machine: Machine,
    *,
    port: int = 8889,
    browser: bool,
    local: bool,
    region: str | None,
    known: dict[str, Any] | None = None,
) -> None:
    import shlex

    from bake.machine import jupyter
    from bake.machine import ssh_config as reach

    def words(verb: str, *more: str) -> str:
        there = [*(["--local"] if local else []), *(["--region", region] if region else [])]
        name = machine.name or machine.instance_id
        return shlex.join([invoke_word(), verb, name, *more, *there])

    with reach.connection(reach.host_of(cloud, machine, ssh_port=ssh_port())) as connection:
        jupyter.use(
            cloud,
            machine,
            connection,
            console,
            port=port,
            words=words,
            open_browser=browser,
            known=known,
        )
