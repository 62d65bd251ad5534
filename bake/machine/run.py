"""A shell on a machine, or one command: as the person would have it there, its status as ours."""

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

# What ssh and rsync end with when the connection fails (their manuals, "EXIT STATUS", "EXIT
# VALUES"): a program over there may end so, too.
NO_CONNECTION = (255, 12, 10, 30)
_INTERRUPTED = 128 + signal.SIGINT

# What `connect` gives is a login shell that a person types into: it is that one's environment in
# which a command runs, the image's Python among the rest. Not that shell itself: it would say
# "logout", and expand a `!`. Whatever its start-up files read and write is not the command's. The
# outer shell stays, to tell of a signal: ssh has no status for one.
_AS_IN_A_SHELL = (
    "{{ bash -lic 'exec bash -c \"$0\" <&3 >&4 2>&5 3<&- 4>&- 5>&-' {}; }} "
    "3<&0 4>&1 5>&2 </dev/null >/dev/null 2>&1; exit $?"
)


def command(host: Host, words: str, *, terminal: bool) -> list[str]:
    """The `ssh` that runs a line of shell there. `terminal`: both ends of ours are one.

    With a terminal, an interrupt reaches what runs over there; without one it would run on.
    """
    if not words.strip():
        raise RequestError("Run what?", hint='invoke run "nvidia-smi"')
    options = ("-t", "-o", "LogLevel=ERROR") if terminal else ("-T",)
    return [*ssh_arguments(host, *options), "--", _AS_IN_A_SHELL.format(shlex.quote(words))]


def is_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def call(words: Sequence[str]) -> int:
    """Run a program with our own stdin, stdout and stderr; its status, 128 + n for a signal.

    An interrupt is the program's own affair, and it has it from the terminal as we do.
    """
    interrupted = False

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True

    def pass_on(number: int, _frame: FrameType | None) -> None:
        process.send_signal(number)

    process = subprocess.Popen(words)
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
    """What has become of a machine that does not answer; None while it runs, or is not known."""
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
        f"{name} ({machine.instance_id}) is gone: it is {state}",
        hint=f"invoke start {name}" if stopped else "invoke launch-from-ami starts another one",
        code=now.reason_code if now else "",
        reason=now.reason if now else "",
    )
