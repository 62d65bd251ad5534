"""The commands that use a machine from this computer: shell, files, SSH configuration, Jupyter."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from invoke.exceptions import Exit

from bake.cli.command import INTERRUPTED, command
from bake.cli.environment import (
    at_most_one,
    machine_named,
    open_cloud,
    ssh_port,
    this_program,
)
from bake.cli.options import ALSO_MACHINE, MACHINE, NO_BROWSER, CommonOptions

if TYPE_CHECKING:
    from bake.aws.client.session import Cloud
    from bake.aws.machine import Machine
    from bake.cli.documents.document import Document
    from bake.console.console import Console
    from bake.machine.ssh_config import Host
    from bake.machine.transfer import Transfer

_LEFT_RUNNING = "the machine is left running"


@command(
    "region",
    "local",
    positional=["machine"],
    help=MACHINE,
    interrupted=_LEFT_RUNNING,
    arguments="[MACHINE]",
    examples=["invoke connect", "invoke connect lab1 --region us-west-2"],
)
def connect(console: Console, common: CommonOptions, machine: tuple[str, ...] = ()) -> None:
    """Open a shell on a machine."""
    from bake.machine import cost, ssh_config

    cloud, found = _found(console, common, at_most_one(machine, "machine"))
    host = _reached(console, cloud, found)
    console.note(f"{found.name}: {cost.describe(cost.find_cost(cloud, found))}")
    _call(console, cloud, found, ssh_config.ssh_arguments(host))


@command(
    "region",
    "local",
    positional=["words"],
    keeps_dashes=True,
    help={
        **ALSO_MACHINE,
        "words": "id or name of a machine (default: your only one), then -- and the command. "
        "Several words reach the program as they are; a single one is a line of shell. It runs in "
        "the image's Python environment",
    },
    interrupted=_LEFT_RUNNING,
    arguments="[MACHINE] -- COMMAND …",
    examples=["invoke run -- nvidia-smi", "invoke run lab1 -- 'cd d2l-en && python train.py'"],
)
def run(
    console: Console,
    common: CommonOptions,
    words: tuple[str, ...] = (),
    machine: str | None = None,
) -> None:
    """Run a command on a machine, with its output, input and exit status here."""
    from bake.machine import run as shell

    named, line = shell.read_request(words)
    cloud, found = _found(console, common, machine_named(named, machine))
    if line in (found.name, found.instance_id):
        raise shell.no_command(line)
    host = _reached(console, cloud, found)
    arguments = shell.command(host, line, terminal=shell.is_terminal())
    _call(console, cloud, found, arguments)


@command(
    "region",
    "local",
    positional=["paths"],
    help={
        **ALSO_MACHINE,
        "paths": "files and folders here, and at the end the place on the machine, behind its id "
        "or name and a colon (default: your only machine)",
    },
    interrupted=_LEFT_RUNNING,
    arguments="LOCAL … [MACHINE:]REMOTE",
    examples=["invoke put data/ notebooks/", "invoke put train.py lab1:d2l-en/"],
)
def put(
    console: Console, common: CommonOptions, paths: tuple[str, ...] = (), machine: str | None = None
) -> None:
    """Copy files and folders to a machine, with rsync."""
    from bake.machine import transfer

    _transfer(console, common, transfer.read_put(paths), machine)


@command(
    "region",
    "local",
    positional=["paths"],
    help={
        **ALSO_MACHINE,
        "paths": "files and folders on the machine, behind its id or name and a colon (default: "
        "your only machine), and at the end the place here",
    },
    interrupted=_LEFT_RUNNING,
    arguments="[MACHINE:]REMOTE … LOCAL",
    examples=["invoke get results.csv .", "invoke get lab1:d2l-en/results/ ."],
)
def get(
    console: Console, common: CommonOptions, paths: tuple[str, ...] = (), machine: str | None = None
) -> None:
    """Copy files and folders from a machine, with rsync."""
    from bake.machine import transfer

    _transfer(console, common, transfer.read_get(paths), machine)


def _transfer(
    console: Console, common: CommonOptions, request: Transfer, machine: str | None
) -> None:
    from bake.machine import run as shell
    from bake.machine import transfer

    cloud, found = _found(console, common, machine_named(request.machine, machine))
    transfer.check_remote(request, found)
    host = _reached(console, cloud, found)
    arguments = transfer.command(host, request, progress=sys.stderr.isatty())
    status = shell.call(arguments)
    if status == INTERRUPTED:
        raise Exit(code=status)
    lost = shell.find_loss(cloud, found) if status in transfer.NO_CONNECTION else None
    if status:
        raise lost or transfer.failure(host, found, status)


def _found(console: Console, common: CommonOptions, name: str | None) -> tuple[Cloud, Machine]:
    """Return the cloud, and the machine of that id or name."""
    from bake.aws.machine import find_own_machine

    cloud = open_cloud(console, common)
    return cloud, find_own_machine(cloud, name)


def _reached(console: Console, cloud: Cloud, machine: Machine) -> Host:
    """Return how to reach a machine by SSH."""
    from bake.machine.access import reach

    return reach(cloud, machine, ssh_port=ssh_port(), say=console.warn)


def _call(console: Console, cloud: Cloud, machine: Machine, arguments: list[str]) -> None:
    """Run a program on the machine, and exit with its status if that is not 0."""
    from bake.machine import run as shell

    status = shell.call(arguments)
    lost = shell.find_loss(cloud, machine) if status == shell.NO_CONNECTION else None
    if lost:
        console.failure(lost)
    if status:
        raise Exit(code=status)


@command(
    "region",
    "local",
    "json",
    name="ssh-config",
    positional=["machine"],
    help={
        "machine": "ids or names of machines (default: all of your running machines)",
        "write": "write it to files in bake's own folder, for ssh, rsync, VS Code and others",
        "include": "write it, and let ~/.ssh/config include these files",
    },
    arguments="[MACHINE …]",
    examples=["invoke ssh-config lab1", "invoke ssh-config --write"],
    document="machines.SshConfigDocument",
)
def ssh_config(
    console: Console,
    common: CommonOptions,
    machine: tuple[str, ...] = (),
    write: bool = False,
    include: bool = False,
) -> None:
    """Print SSH settings with which `ssh bake-NAME` works, or with --write, store them."""
    from bake.aws.machine import machines as find_machines
    from bake.cli.documents.machines import HostEntry, SshConfigDocument
    from bake.machine import ssh_config as settings

    cloud = open_cloud(console, common)
    hosts = _hosts(console, cloud, machine)
    document = SshConfigDocument(hosts=tuple(HostEntry.of_host(host) for host in hosts))
    if write or include:
        for host in hosts:
            settings.write(host)
        if not machine:
            settings.remove_other_files(cloud, find_machines(cloud))
        if include:
            settings.include()
        console.result(document, *(f"{host.alias}  {host.instance_id}" for host in hosts))
        if settings.is_included():
            console.note("To connect: ssh bake-NAME")
        else:
            console.note(
                "`ssh bake-NAME` works with this line at the top of ~/.ssh/config (--include):",
                settings.include_line(),
            )
    elif console.json:
        console.result(document)
    else:
        console.output("\n".join(host.configuration() for host in hosts))


def _hosts(console: Console, cloud: Cloud, names: tuple[str, ...]) -> list[Host]:
    """Return how to reach the named machines; without names, all of the user's that run."""
    from bake.aws.machine import find_own_machines
    from bake.aws.machine import machines as find_machines
    from bake.machine import ssh_config as settings

    if names:
        return [
            settings.find_host(cloud, found, ssh_port=ssh_port())
            for found in find_own_machines(cloud, names)
        ]
    own = [each for each in find_machines(cloud) if each.used_by is None]
    hosts, errors = settings.find_hosts(cloud, own, ssh_port=ssh_port())
    for error in errors:
        console.warn(error.message)
    if not hosts:
        console.note("No running machine can be reached from here.")
    return hosts


@command(
    "region",
    "local",
    "json",
    "quiet",
    positional=["machine"],
    help={
        **MACHINE,
        "port": "on this computer; if it is taken, the next free one",
        "no_browser": NO_BROWSER,
        "stop": "end Jupyter and its kernels on the machine, which is left running",
    },
    interrupted=_LEFT_RUNNING,
    arguments="[MACHINE]",
    examples=["invoke jupyter", "invoke jupyter lab1 --no-browser"],
    document="machines.JupyterDocument",
)
def jupyter(
    console: Console,
    common: CommonOptions,
    machine: tuple[str, ...] = (),
    port: int = 8889,
    no_browser: bool = False,
    stop: bool = False,
) -> None:
    """Open Jupyter on a machine in the browser, through a tunnel until Ctrl-C."""
    from bake.cli.documents.machines import JupyterDocument
    from bake.machine import cost, lifetime, ssh_config
    from bake.machine import jupyter as server

    server.check_port(port)
    cloud, found = _found(console, common, at_most_one(machine, "machine"))
    host = _reached(console, cloud, found)
    if stop:
        with ssh_config.connect(host) as connection:
            stopped = server.stop(connection)
        console.result(
            JupyterDocument.of(found, jupyter=None, was_stopped=stopped),
            "Jupyter has ended." if stopped else "Jupyter was not running.",
        )
        return
    console.note(f"Costs    {cost.describe(cost.find_cost(cloud, found))}")
    console.note(f"Ends     {lifetime.describe(found, cloud.now())}")
    browser = not (no_browser or console.json)
    document = partial(JupyterDocument.of, found, was_stopped=None)
    use_jupyter(console, common, cloud, found, port=port, browser=browser, document=document)


def use_jupyter(
    console: Console,
    common: CommonOptions,
    cloud: Cloud,
    machine: Machine,
    *,
    port: int = 8889,
    browser: bool,
    document: Callable[..., Document],
) -> None:
    """Start Jupyter on the machine if needed, and hold a tunnel to it until Ctrl-C.

    `document` makes the document of the command: its argument `jupyter` is Jupyter's address.
    """
    import shlex

    from bake.cli.documents.machines import JupyterPart
    from bake.machine import jupyter, ssh_config

    def show(address: jupyter.Address, *lines: str) -> None:
        console.result(document(jupyter=JupyterPart.of(address)), *lines)
        console.write_document()  # the command waits now, and must not keep its result

    def command_line(verb: str, *more: str) -> str:
        name = machine.name or machine.instance_id
        return shlex.join([this_program(), verb, name, *more]) + common.flags

    with ssh_config.connect(
        ssh_config.find_host(cloud, machine, ssh_port=ssh_port())
    ) as connection:
        jupyter.run_until_ended(
            cloud,
            machine,
            connection,
            console,
            port=port,
            command_line=command_line,
            open_browser=browser,
            show=show,
        )
