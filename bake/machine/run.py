"""Run a command on a machine in the environment of a login shell, and return its exit status."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType

from bake.aws.client.session import Cloud
from bake.aws.machine import Machine, find_machine
from bake.errors import CloudError, MachineError, RequestError
from bake.machine.ssh_config import Host, ssh_arguments

# The exit status of ssh when the connection fails (ssh(1), "EXIT STATUS"). A program on the machine
# may end with it, too.
NO_CONNECTION = 255
_INTERRUPTED = 128 + signal.SIGINT

# The command runs in the environment of an interactive login shell, as `connect` opens it, so that
# it finds the image's Python. It does not run in that shell itself, which would print "logout" and
# expand `!`. The start-up files get no stdin and no stdout of the command. The outer shell reports
# a signal as a status, because ssh has no status for signals.
_IN_LOGIN_ENVIRONMENT = (
    "{{ bash -lic 'exec bash -c \"$0\" <&3 >&4 2>&5 3<&- 4>&- 5>&-' {}; }} "
    "3<&0 4>&1 5>&2 </dev/null >/dev/null 2>&1; exit $?"
)


def read_request(words: Sequence[str]) -> tuple[str | None, str]:
    """Return the machine that `[MACHINE] -- COMMAND …` names, if any, and the line of shell.

    `COMMAND` alone, as one word, is a line for the machine that is meant without a name. Raises
    RequestError for other words without `--`: any of them could be a machine's name.
    """
    if "--" not in words:
        if len(words) > 1:
            machine, *rest = words
            raise RequestError(
                "There must be -- in front of the command",
                hint=f"If {machine} is the machine: "
                f"`invoke run {shlex.quote(machine)} -- {shlex.join(rest)}`. "
                f"If it is the command: `invoke run -- {shlex.join(words)}`",
            )
        names: Sequence[str] = ()
        command = words
    else:
        at = words.index("--")
        names, command = words[:at], words[at + 1 :]
    if len(names) > 1:
        raise RequestError(
            f"A command runs on one machine, but several are named: {' '.join(names)}",
            hint="Name one machine in front of --",
        )
    name = names[0] if names else None
    if not any(word.strip() for word in command):
        raise no_command(name)
    return name, command[0] if len(command) == 1 else shlex.join(command)


def no_command(machine: str | None) -> RequestError:
    return RequestError(
        "No command given" + (f" for the machine {machine}" if machine else ""),
        hint=f"invoke run {f'{shlex.quote(machine)} ' if machine else ''}-- nvidia-smi",
    )


def command(host: Host, line: str, *, terminal: bool) -> list[str]:
    """Return the `ssh` command that runs a line of shell on the machine.

    `terminal` is True if stdin and stdout of this process are a terminal. Ctrl-C then reaches the
    command on the machine, which otherwise continues to run.
    """
    options = ("-t", "-o", "LogLevel=ERROR") if terminal else ("-T",)
    return [*ssh_arguments(host, *options), "--", _IN_LOGIN_ENVIRONMENT.format(shlex.quote(line))]


def is_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def call(arguments: Sequence[str]) -> int:
    """Run a program with this process's stdin, stdout and stderr; return its exit status.

    The status is 128 + n for signal n. The terminal sends Ctrl-C to the program, too. The program
    handles it, and this process continues to wait.
    """
    interrupted = False

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True

    def pass_on(number: int, _frame: FrameType | None) -> None:
        process.send_signal(number)

    process = subprocess.Popen(arguments)
    before = {signal.SIGINT: signal.signal(signal.SIGINT, interrupt)}
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            before[number] = signal.signal(number, pass_on)
    try:
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if interrupted and status in (255, 20, -signal.SIGINT):
        return _INTERRUPTED
    return 128 - status if status < 0 else status


def find_loss(cloud: Cloud, machine: Machine) -> MachineError | None:
    """Return why a machine does not answer; None while it runs, or when its state is unknown."""
    try:
        now = find_machine(cloud, machine.instance_id)
    except CloudError:
        return None
    if now is not None and now.state in ("pending", "running"):
        return None
    name = machine.name or machine.instance_id
    state = now.state if now else "terminated"
    stopped = state in ("stopping", "stopped")
    return MachineError(
        f"{name} ({machine.instance_id}) no longer runs: it is {state}",
        hint=f"invoke start {name}" if stopped else "To start another one: invoke launch-from-ami",
        code=now.reason_code if now else "",
        reason=now.reason if now else "",
    )
