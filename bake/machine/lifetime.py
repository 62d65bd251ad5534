"""The lifetime of a machine: the requested limits, its tags, and the time of its end.

The timer itself runs on the machine (`lifetime.sh`). The timer and `end_time` follow one rule: a
machine ends when its TTL has passed since its last start, or at the end to which it was extended,
whichever is later. A machine that is started again has its whole TTL, so the tag `bake:ends` may be
older than that start.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from bake.aws.client.session import Cloud
from bake.aws.machine import Machine, tag
from bake.aws.placement import Market
from bake.aws.tags import AT_END, ENDS, IDLE, TTL, Tags, parse_time, rfc3339
from bake.aws.user_data import File
from bake.console.format import duration
from bake.errors import RemoteError, RequestError
from bake.files import on_machine
from bake.ssh.connection import Connection

AtEnd = Literal["stop", "terminate"]

NEVER = "never"
# A shorter lifetime would end a machine while it still boots, and leave no time for a warning.
SHORTEST = timedelta(minutes=10)
LONGEST = timedelta(days=365)

TIMER = "/var/lib/cloud/scripts/per-boot/bake-lifetime"
_FACTS = "/usr/local/lib/bake/lifetime_facts.py"

_UNITS = {"d": 24 * 60 * 60, "h": 60 * 60, "m": 60, "s": 1}
_LIVES = {"pending", "running"}


@dataclass(frozen=True)
class Lifetime:
    """The limits of a machine's lifetime.

    `ttl` and `idle` are None for no limit. If `at_end` is None, the machine is stopped if EC2 can
    do that, and terminated if it cannot (a one-time spot machine).
    """

    ttl: timedelta | None = timedelta(hours=12)
    idle: timedelta | None = None
    at_end: AtEnd | None = None

    def check(self, markets: Iterable[Market]) -> None:
        """Raise RequestError when a machine of one of the markets cannot end as requested."""
        if self.at_end == "stop" and "spot" in markets:
            raise RequestError(
                "A spot machine cannot be stopped: EC2 terminates it at its end",
                hint="Leave out --at-end, or use an on-demand machine",
            )

    def tags(self, now: datetime) -> Tags:
        """Return the tags for a machine that starts at `now`. LaunchSpec contains `at_end`."""
        return {
            TTL: write_time(self.ttl),
            IDLE: write_time(self.idle),
            ENDS: rfc3339(now + self.ttl) if self.ttl else NEVER,
        }

    def files(self, run_id: str, name: str) -> tuple[File, ...]:
        """Return the timer's files, for the user data of the machine."""
        if self.ttl is None and self.idle is None:
            return ()
        settings = {
            "owner": run_id,
            "name": name,
            "ttl": write_time(self.ttl),
            "ttl_s": _seconds(self.ttl),
            "idle_s": _seconds(self.idle),
        }
        script = "".join(
            f"{key}={shlex.quote(settings[key])}\n" if key in settings else line
            for line in _source("lifetime.sh").splitlines(keepends=True)
            for key in [line.partition("=")[0]]
        )
        return (File(TIMER, script, "0755"), File(_FACTS, _source("lifetime_facts.py")))


def end_time(machine: Machine) -> datetime | None:
    """Return the time at which the timer ends the machine, from its tags.

    For a builder this is the end of its run.

    None for a machine without an end, and for one that does not run. An idle limit may end the
    machine earlier.
    """
    if machine.state not in _LIVES:
        return None
    if machine.expires_at:
        return machine.expires_at
    if machine.tags.get(ENDS) == NEVER:
        return None
    ttl = _read_tag(machine.tags.get(TTL, ""))
    whole = machine.launched_at + ttl if ttl else None
    extended = parse_time(machine.tags.get(ENDS, ""))
    return max((each for each in (whole, extended) if each), default=None)


def time_left(machine: Machine, now: datetime) -> timedelta | None:
    """Return the time until the machine ends, at least 0; None as for `end_time`.

    `now` is the time of AWS's clock.
    """
    ends = end_time(machine)
    return None if ends is None else max(timedelta(0), ends - now)


def describe(machine: Machine, now: datetime) -> str:
    """Describe in one line when the machine ends, and whether it is then stopped or terminated."""
    ends, idle = time_left(machine, now), _read_tag(machine.tags.get(IDLE, ""))
    when = [f"in {duration(ends.total_seconds())}"] if ends is not None else []
    when += [f"when idle for {write_time(idle)}"] if idle else []
    if not when:
        return "never by itself"
    stopped = machine.tags.get(AT_END) == "stop"
    what = "stopped, and its disk stays" if stopped else "terminated, with its disk"
    return f"{' or '.join(when)}: it is {what}"


def extend(cloud: Cloud, machine: Machine, connection: Connection, by: timedelta | None) -> Machine:
    """Move the machine's end by `by` (None removes it), on the machine and then in its tag.

    Raises RequestError for a machine without an end, RemoteError when the machine refuses (nothing
    is changed), CloudError when only the tag could not be changed (the machine uses its own value).
    """
    if end_time(machine) is None:
        raise RequestError(
            f"{machine.name or machine.instance_id} has no end that could be moved",
            hint="`invoke machines` shows how much time each machine has left",
        )
    if machine.expires_at:
        raise RequestError(
            f"{machine.name or machine.instance_id} is the builder of a bake, and ends with it",
            hint="Launch a machine from an image for longer work",
        )
    command = connection.as_root(TIMER, "extend", str(_seconds(by) or NEVER))
    done = connection.run(command, timeout_s=60)
    left_s = done.stdout.strip()
    if left_s != NEVER and not re.fullmatch("[0-9]{1,10}", left_s):
        raise RemoteError(f"The timer of {machine.name} printed {left_s[:80]!r} instead of a time")
    ends = NEVER if left_s == NEVER else rfc3339(cloud.now() + timedelta(seconds=int(left_s)))
    tag(cloud, machine.instance_id, {ENDS: ends})
    return replace(machine, tags=machine.tags | {ENDS: ends})


def read_lifetime(*, ttl: str, idle: str, at_end: str | None) -> Lifetime:
    """Read the options of a command line. Raises RequestError for an invalid value."""
    if at_end not in (None, "stop", "terminate"):
        raise RequestError(f"Invalid --at-end {at_end}", hint="Give stop or terminate")
    known: AtEnd | None = at_end  # type: ignore[assignment]
    return Lifetime(read_time(ttl, "--ttl"), read_time(idle, "--idle"), known)


def read_time(text: str, what: str) -> timedelta | None:
    """Read a duration like `8h`, `90m`, `2d` or `1h30m`; None for `never`.

    Raises RequestError for anything else, for less than ten minutes and for more than a year.
    `what` is the option's name, for the message.
    """
    if text.strip().lower() == NEVER:
        return None
    time = _read(text)
    if time is None:
        raise RequestError(
            f"Invalid duration: {what} {text[:40]}",
            hint="Give hours, minutes or days, like 8h, 90m, 1h30m, 2d; or never",
        )
    if time < SHORTEST:
        raise RequestError(
            f"{what} {text[:40]} is too short: it takes at least {write_time(SHORTEST)}",
            hint="A machine needs some minutes to start, and warns before it ends",
        )
    if time > LONGEST:
        raise RequestError(
            f"{what} {text[:40]} is more than a year",
            hint=f"For a machine that stays: {what} never",
        )
    return time


def write_time(time: timedelta | None) -> str:
    """Write a duration as `read_time` reads it: `8h`, `1h30m`, `never`."""
    if time is None:
        return NEVER
    words, seconds = "", round(time.total_seconds())
    for unit, size in _UNITS.items():
        count, seconds = divmod(seconds, size)
        words += f"{count}{unit}" if count else ""
    return words or "0s"


def _read(text: str) -> timedelta | None:
    word = text.strip().lower()
    if len(word) > 30 or not re.fullmatch(r"([0-9]{1,7}(\.[0-9]{1,7})?(d|h|m|min|s))+", word):
        return None
    found = re.findall(r"([0-9.]+)([dhms])", word)
    return timedelta(seconds=sum(float(number) * _UNITS[unit] for number, unit in found))


def _read_tag(value: str) -> timedelta | None:
    """Read a tag; None for `never`, and for a value that was changed to an invalid one."""
    time = _read(value)
    return time if time and time <= LONGEST else None


def _seconds(time: timedelta | None) -> str:
    return "" if time is None else f"{time.total_seconds():.0f}"


def _source(name: str) -> str:
    return (on_machine("bake.machine") / name).read_text()
