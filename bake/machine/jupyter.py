"""Start Jupyter on a machine and use it on this computer through a tunnel, until Ctrl-C.

The server continues to run when the tunnel, the SSH connection or this computer ends. Its state is
stored only on the machine. Its token is sent by stdin, received by stdout and given to the browser
in a file, so that no list of processes shows it.
"""

from __future__ import annotations

import http.client
import secrets
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from typing import Any
from urllib.parse import quote

from bake import files, threads
from bake.aws.client.session import Cloud
from bake.aws.image import Image
from bake.aws.machine import GONE, Machine, find_machine
from bake.aws.tags import read_stages
from bake.console.console import Console
from bake.console.format import duration
from bake.errors import CloudError, ConnectError, LostError, RemoteError, RequestError
from bake.files import on_machine
from bake.machine import browser, lifetime
from bake.machine.access import restore_access, say_once
from bake.plan.description import installed_stages
from bake.recipe.recipe import PREFIXES
from bake.ssh.command import BROKEN
from bake.ssh.connection import Connection
from bake.ssh.tunnel import forward

STAGES = ("d2l", "jupyter")  # those that install Jupyter

# The limit of jupyter_server.py, and one minute more.
_STARTS_S = 11 * 60
_NO_JUPYTER = 66  # jupyter_environment.sh
_TRIES = 3
_ANSWERS_S, _ANSWER_S = 60.0, 10.0
# The duration of an attempt to reconnect: the first one, before a call of EC2, and the later ones.
# Then: after how long the usual reason is named.
_FIRST_TRY_S, _TRY_S, _LONG_S = 3.0, 15.0, 60.0
# How often the machine's end is looked up, and how long before it a warning is shown.
_LOOK_UP_S, _NEAR = 60.0, timedelta(minutes=15)
# How often the connection and Jupyter are checked, and how many failures mean that it has ended.
_LOOK_S, _ASK_S, _SILENT = 0.25, 3.0, 3
_BUSY = "no response in time"
_NO_ANSWER: tuple[type[Exception], ...] = (RemoteError, http.client.HTTPException, *BROKEN)


@dataclass(frozen=True)
class Server:
    """A Jupyter server on a machine, on `port` of its loopback interface.

    `again` is True if it was already running.
    """

    port: int
    base_url: str
    page: str
    again: bool
    token: str = field(repr=False)

    def address(self, local_port: int) -> str:
        """Return the URL for a browser. Its token gives the permissions of the login user."""
        return f"http://localhost:{local_port}{self.base_url}{self.page}?token={quote(self.token)}"


@dataclass(frozen=True)
class Address:
    """The place of Jupyter on this computer: its URL with the token, and the tunnel's ports."""

    url: str = field(repr=False)
    port: int
    remote_port: int


def check_image(image: Image) -> None:
    """Raise RequestError if no stage of the image has installed Jupyter."""
    if not {*STAGES} & {*read_stages(image.tags), *installed_stages(image.tags)}:
        either = " or ".join(STAGES)
        raise RequestError(
            f"Jupyter is not installed in {image.image_id} ({image.name}): its recipe has no stage "
            f"{either}",
            hint=f"Bake an image with the stage {either}. If a stage of your own installs Jupyter, "
            "launch without --jupyter and then run invoke jupyter",
        )


def check_port(port: int) -> None:
    if not 1 <= port <= 65535:
        raise RequestError(f"Invalid port: {port}", hint="Give --port a number from 1 to 65535")


def start(connection: Connection) -> Server:
    """Return the running server, or start one and wait until it answers.

    Raises RequestError when Jupyter is not installed.
    """
    return Server(**_call_with_retries(connection, "start", secrets.token_hex(16)))


def stop(connection: Connection) -> bool:
    """End the server and its kernels. Return False if no server runs."""
    return bool(_call_with_retries(connection, "stop")["stopped"])


@contextmanager
def open_tunnel(connection: Connection, server: Server, wanted_port: int) -> Iterator[int]:
    """Open a tunnel to the server for the block, and yield its local port.

    Raises RemoteError when the server does not answer through it.
    """
    with forward(connection, wanted_port, server.port) as port:
        deadline = time.monotonic() + _ANSWERS_S
        while (status := _status(server, connection)) != http.client.OK:
            if time.monotonic() > deadline:
                raise RemoteError(
                    f"Jupyter does not answer through the tunnel: {status}",
                    hint="Jupyter runs on the machine. Its sshd may forbid forwarding: check "
                    "AllowTcpForwarding in its sshd_config",
                )
            threads.pause(0.2)
        yield port


def run_until_ended(
    cloud: Cloud,
    machine: Machine,
    connection: Connection,
    console: Console,
    *,
    port: int,
    command_line: Callable[..., str],
    open_browser: bool,
    show: Callable[..., None],
) -> None:
    """Start Jupyter, forward localhost:`port` to it, open the browser, and wait.

    Returns after an interrupt (INT, TERM, HUP), or when Jupyter has ended. Raises LostError when
    EC2 reports that the machine has stopped or ended. `command_line` returns how a command for this
    machine is written; `show` shows the address and further lines when Jupyter can be reached.
    """
    name = machine.name or machine.instance_id
    with console.step("Jupyter") as step:
        server = start(connection)
        step.done(f"{'runs already' if server.again else 'started'}, port {server.port} there")
    with open_tunnel(connection, server, port) as local_port:
        if local_port != port:
            console.warn(f"Port {port} is in use on this computer. {local_port} is used instead.")
        url = server.address(local_port)
        try:
            with browser.redirect_page(machine.instance_id, url) as page:
                opened = open_browser and browser.open_page(page)
                if open_browser and not opened:
                    console.warn("No browser could be opened on this computer.")
                show(
                    Address(url, local_port, server.port),
                    f"Jupyter  {f'http://localhost:{local_port}/' if opened else url}",
                )
                console.note("Ctrl-C closes the tunnel; Jupyter and its kernels keep running.")
                _wait_until_ended(cloud, machine, connection, server, console, command_line)
        except KeyboardInterrupt:
            console.note(*_hints_after_interrupt(name, command_line))
        else:
            console.note(*_hints_after_end(name, command_line))


def _hints_after_interrupt(name: str, command_line: Callable[..., str]) -> tuple[str, ...]:
    return (
        f"\nThe tunnel is closed. Jupyter still runs, and {name} still costs money.",
        f"Use it again   {command_line('jupyter')}",
        f"End Jupyter    {command_line('jupyter')} --stop",
        f"Stop it        {command_line('stop')}",
    )


def _hints_after_end(name: str, command_line: Callable[..., str]) -> tuple[str, ...]:
    return (
        f"Jupyter has ended on {name}, which still costs money.",
        f"Start it again   {command_line('jupyter')}",
        f"Stop it          {command_line('stop')}",
    )


def _wait_until_ended(
    cloud: Cloud,
    machine: Machine,
    connection: Connection,
    server: Server,
    console: Console,
    command_line: Callable[..., str],
) -> None:
    """Wait until Jupyter has ended; reconnect when the connection breaks.

    No command runs on the machine meanwhile, because it would keep the machine from being idle.
    """
    asked_at, silent = time.monotonic(), 0
    looked_up_at, near = -_LOOK_UP_S, False
    while silent < _SILENT:
        threads.pause(_LOOK_S)
        if connection.alive and time.monotonic() - asked_at > _ASK_S:
            status = _status(server, connection)
            asked_at = time.monotonic()
            if connection.alive:
                silent = 0 if status in (http.client.OK, _BUSY) else silent + 1
        if time.monotonic() - looked_up_at > _LOOK_UP_S:
            near = _warn_of_end(cloud, machine, console, command_line, warned=near)
            looked_up_at = time.monotonic()
        if not connection.alive:
            _reconnect(cloud, machine, connection, console)
            silent = 0


def _warn_of_end(
    cloud: Cloud,
    machine: Machine,
    console: Console,
    command_line: Callable[..., str],
    *,
    warned: bool,
) -> bool:
    """Warn once when the machine's end is near, and return True if it is near.

    The machine's own warning reaches only terminals, and not a browser.
    """
    try:
        now = find_machine(cloud, machine.instance_id)
        left = lifetime.time_left(now, cloud.now()) if now else None
    except CloudError:
        return warned
    near = left is not None and left < _NEAR
    if near and left and not warned:
        console.warn(
            f"The machine ends in {duration(left.total_seconds())}. To extend its time:",
            command_line("extend", "2h"),
        )
    return near


def _reconnect(cloud: Cloud, machine: Machine, connection: Connection, console: Console) -> None:
    console.warn("The SSH connection broke. Reconnecting …")
    began, explained, try_s = time.monotonic(), False, _FIRST_TRY_S
    say = say_once(console.warn)
    while True:
        try:
            connection.reconnect(timeout_s=try_s)
        except ConnectError:
            try_s = _TRY_S
            _raise_if_gone(cloud, machine)
            restore_access(cloud, machine, port=connection.port, say=say)
        else:
            console.note(f"Connected again after {time.monotonic() - began:.0f} s.")
            return
        if not explained and time.monotonic() - began > _LONG_S:
            explained = True
            console.warn(
                "Still no SSH connection. A firewall of this network may block SSH, or the machine "
                "is too busy to answer."
            )
        threads.pause(1.0)


def _raise_if_gone(cloud: Cloud, machine: Machine) -> None:
    """Raise LostError when EC2 reports that the machine has stopped or ended."""
    name = machine.name or machine.instance_id
    try:
        now = find_machine(cloud, machine.instance_id)
    except CloudError:
        return
    if now is None or now.state in {"shutting-down", "terminated"}:
        raise LostError(
            f"{name} was terminated while you were connected, and its disk was deleted",
            hint="To start another one: invoke launch-from-ami",
            code=now.reason_code if now else "",
            reason=now.reason if now else "",
        )
    if now.state in GONE:
        raise LostError(
            f"{name} was stopped while you were connected (it is {now.state}); its disk stays",
            hint=f"Run invoke start {name}, then invoke jupyter {name}. The address usually "
            "changes, and the kernels are new",
            code=now.reason_code,
            reason=now.reason,
        )
    if now.address != machine.address:
        raise LostError(
            f"{name} was stopped and started while you were connected: its address is "
            f"{now.address} now, and was {machine.address}",
            hint=f"Run invoke jupyter {name}: it starts Jupyter again, with new kernels",
        )


def _status(server: Server, connection: Connection) -> int | str:
    """Return the HTTP status of Jupyter's response, or a phrase without one.

    Jupyter does not count this request as activity. It does not use the local port, where it would
    wait for the reconnection of a connection that breaks meanwhile: this thread reconnects.
    """
    request = http.client.HTTPConnection("127.0.0.1", server.port)
    header = {"Authorization": f"token {server.token}"}
    try:
        with connection.open_tunnel(server.port) as channel:
            channel.settimeout(_ANSWER_S)
            request.sock = channel
            request.request("GET", f"{server.base_url}api/status", headers=header)
            return request.getresponse().status
    except TimeoutError:
        return _BUSY
    except _NO_ANSWER:
        return "no server listens on the port"


# The program on the machine --------------------------------------------------------------------


def _call_with_retries(connection: Connection, verb: str, stdin: str = "") -> dict[str, Any]:
    """Call the program; retry if the connection breaks. A repeated call has no further effect."""
    for _ in range(_TRIES - 1):
        try:
            return _call(connection, verb, stdin)
        except ConnectError:
            continue
    return _call(connection, verb, stdin)


def _call(connection: Connection, verb: str, stdin: str) -> dict[str, Any]:
    done = connection.run(_command(verb), stdin=stdin, check=False, timeout_s=_STARTS_S)
    if done.exit_status == _NO_JUPYTER:
        raise RequestError(
            "Jupyter is not installed on this machine: the recipe of its image has no stage "
            f"{' or '.join(STAGES)}",
            hint="Launch from an image with Jupyter, or install it into an environment on the "
            "machine: conda install -n NAME jupyterlab",
        )
    document = _document(done.stdout)
    if done.exit_status or "error" in document or not document:
        raise RemoteError(
            str(document.get("error") or f"Jupyter did not {verb}"),
            details=document.get("log") or done.stderr.splitlines()[-20:],
        )
    return document


def _document(stdout: str) -> dict[str, Any]:
    """Return the JSON object in the last line; {} without one."""
    try:
        document = files.parse_json((stdout.splitlines() or [""])[-1])
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _command(*command_line: str) -> str:
    folders = ":".join(PREFIXES.values())
    environment, server = _script("jupyter_environment.sh"), _script("jupyter_server.py")
    return shlex.join(["bash", "-c", environment, server, folders, *command_line])


@cache
def _script(name: str) -> str:
    return (on_machine("bake.machine") / name).read_text()
