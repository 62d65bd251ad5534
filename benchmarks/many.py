"""The memory and processor time of one process that bakes many recipes at once.

    python -m benchmarks.many [--recipes 50] [--machines 50] [--seconds 5] [--throttled 5] [--json]

The recipes share two stages of three. They are baked on a local cloud of the benchmark's own, by
one process that does nothing else; its memory, processor time, threads and API calls are counted.
`--throttled` percent of its requests are refused, as AWS does when it throttles. The exit status
is 1 if a bake failed, a resource was left behind, or the process exceeded `LIMITS`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from botocore.awsrequest import AWSResponse
from rich.console import Console

from bake.threads import one_interrupt
from benchmarks.cloud import LocalCloud, a_local_cloud, scrub
from benchmarks.work import Recipe, Stage, write

# For 50 recipes: the peak memory of the process in MiB, and the average number of cores.
LIMITS = {"memory_mib": 300.0, "cores": 1.0}
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Taken:
    """The resources that one process used. `busiest` is the most cores over ten seconds."""

    wall_s: float = 0
    cpu_s: float = 0
    memory_mib: float = 0
    threads: int = 0
    busiest: float = 0
    calls: Counter[str] = field(default_factory=Counter)
    sent: int = 0  # requests: boto may send a call several times
    throttled: int = 0  # of these
    outcomes: Counter[str] = field(default_factory=Counter)

    @property
    def cores(self) -> float:
        return self.cpu_s / self.wall_s


# The process that bakes ---------------------------------------------------------------------------


class Throttle:
    """A botocore event handler that refuses `percent` percent of the requests."""

    def __init__(self, percent: float) -> None:
        self.sent = self.refused = 0
        self._percent = percent
        self._dice = random.Random(1)  # noqa: S311
        self._lock = threading.Lock()

    def __call__(self, request: Any, event_name: str, **_: Any) -> AWSResponse | None:
        with self._lock:
            self.sent += 1
            if self._dice.uniform(0, 100) >= self._percent:
                return None
            self.refused += 1
        if ".ec2." in event_name:
            code, status = "RequestLimitExceeded", 503
            error = f"<Error><Code>{code}</Code><Message>Request limit exceeded.</Message></Error>"
            body = f"<Response><Errors>{error}</Errors><RequestID>none</RequestID></Response>"
        else:
            status = 400
            body = json.dumps({"__type": "ThrottlingException", "message": "Rate exceeded"})
        return AWSResponse(request.url, status, {}, _Body(body.encode()))


class _Body(BytesIO):
    def stream(self, **_: Any) -> Iterator[bytes]:
        yield self.read()


def bake(folder: Path, machines: int, throttled: float) -> None:
    """Bake all recipes of the folder; print the outcomes and the API calls as JSON."""
    from bake import files
    from bake.aws.client.session import connect
    from bake.console.console import Console as OurConsole
    from bake.pipeline import bake as pipeline
    from bake.pipeline.job import Context
    from bake.recipe import payload as payloads
    from bake.recipe.project import project_in
    from bake.recipe.recipes import all_recipes
    from bake.recipe.resolved import resolve

    console = OurConsole()
    cloud = connect()
    calls: Counter[str] = Counter()
    counted = threading.Lock()

    def count(model: Any, **_: Any) -> None:
        with counted:
            calls[f"{model.service_model.service_id}:{model.name}"] += 1

    throttle = Throttle(throttled)
    cloud.session.events.register("before-call", count)
    cloud.session.events.register("before-send", throttle)
    context = Context(
        cloud=cloud,
        payload=payloads.UPSTREAM,
        project=project_in(folder),
        builds=files.builds(),
        console=console,
        ssh_port=int(os.environ["BAKE_SSH_PORT"]),
    )
    orders = [
        (context, resolve(each.model_copy(update={"gpu": "if-present"})))
        for each in all_recipes(project_in(folder))
    ]
    outcomes = pipeline.bake_all(orders, pipeline.Options(machines=machines))
    for outcome in outcomes:
        if outcome.error:
            console.named(outcome.recipe).failure(outcome.error)
    said = {"calls": calls, "outcomes": Counter(each.status for each in outcomes)}
    print(json.dumps({**said, "sent": throttle.sent, "throttled": throttle.refused}))


# Who watches it -----------------------------------------------------------------------------------


def measure(cloud: LocalCloud, folder: Path, machines: int, throttled: float) -> Taken:
    command = [sys.executable, "-m", "benchmarks.many", "--work", str(folder)]
    command += ["--machines", str(machines), "--throttled", str(throttled)]
    environment = {**os.environ, **cloud.environment, "BAKE_BUILDS": str(folder / "builds")}
    taken, began = Taken(), time.monotonic()
    with (folder / "bake.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
        )
        try:
            with _watched(process.pid, taken):
                said, _ = process.communicate()
        finally:
            process.kill()
            process.wait()
    taken.wall_s = time.monotonic() - began
    if said:
        document = json.loads(said)
        taken.calls, taken.outcomes = Counter(document["calls"]), Counter(document["outcomes"])
        taken.sent, taken.throttled = document["sent"], document["throttled"]
    return taken


@contextmanager
def _watched(pid: int, taken: Taken) -> Iterator[None]:
    over = threading.Event()

    def watch() -> None:
        used: list[float] = []
        while True:
            try:
                status = Path(f"/proc/{pid}/status").read_text()
                figures = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                return
            if peak := re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE):  # none at its end
                taken.memory_mib = int(peak[1]) / 1024
            threads = re.search(r"^Threads:\s*(\d+)", status, re.MULTILINE)
            taken.threads = max(taken.threads, int(threads[1]) if threads else 0)
            taken.cpu_s = (int(figures[11]) + int(figures[12])) / _TICKS
            used = [*used[-40:], taken.cpu_s]
            taken.busiest = max(taken.busiest, (used[-1] - used[0]) / 10)
            if over.wait(0.25):
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def faults(taken: Taken, recipes: int, left: dict[str, int]) -> list[str]:
    found = [f"{count} {what} left" for what, count in left.items() if count]
    if taken.outcomes["baked"] != recipes:
        found.append(f"{taken.outcomes['baked']} of {recipes} were baked")
    found += [
        f"{name} {getattr(taken, name):.2f}, not {limit:g}"
        for name, limit in LIMITS.items()
        if getattr(taken, name) > limit
    ]
    return found


def _left(cloud: LocalCloud) -> dict[str, int]:
    """Return how many resources exist of each kind that a bake must not leave behind."""
    machines = [state for state in cloud.instances().values() if state != "terminated"]
    groups = cloud.ec2.describe_security_groups()["SecurityGroups"]
    return {
        "machines": len(machines),
        "volumes": len(cloud.ec2.describe_volumes()["Volumes"]),
        "key pairs": len(cloud.ec2.describe_key_pairs()["KeyPairs"]),
        "groups": len([group for group in groups if group["GroupName"] != "default"]),
    }


def _recipes(count: int, seconds: float) -> list[Recipe]:
    shared = (Stage("first", (), 1, 1), Stage("second", ("first",), 1, 1))
    names = [f"own-{number:02}" for number in range(1, count + 1)]
    return [Recipe(name, (*shared, Stage(name, ("second",), seconds, 1))) for name in names]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.many")
    parser.add_argument("--recipes", type=int, default=50)
    parser.add_argument("--machines", type=int, default=50, help="machines at a time")
    parser.add_argument(
        "--seconds", type=float, default=5, help="length of the stage that is not shared"
    )
    parser.add_argument(
        "--like-ec2", type=float, metavar="SCALE", help="use EC2's delays, multiplied by SCALE"
    )
    parser.add_argument(
        "--throttled", type=float, default=0, help="percent of the requests that are refused"
    )
    parser.add_argument("--json", action="store_true", help="all figures, on standard output")
    parser.add_argument("--log", type=Path, help="file in which to keep the log of the bakes")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        bake(options.work, options.machines, options.throttled)
        return 0
    scrub()
    people = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="bake-many-") as name:
        folder = Path(name)
        os.environ["HOME"] = name
        with one_interrupt(), a_local_cloud(folder / "state", options.like_ec2) as cloud:
            project = folder / "project"
            write(project, _recipes(options.recipes, options.seconds))
            taken = measure(cloud, project, options.machines, options.throttled)
            wrong = faults(taken, options.recipes, _left(cloud))
            if options.log:
                options.log.write_bytes((project / "bake.log").read_bytes())
    people.print(
        f"{options.recipes} recipes, {options.machines} machines at a time: "
        f"{taken.wall_s:.0f} s, {taken.memory_mib:.0f} MiB at the most, {taken.cpu_s:.0f} s of "
        f"processor time ({taken.cores:.2f} cores, {taken.busiest:.2f} in the busiest ten "
        f"seconds), {taken.threads} threads, {taken.calls.total()} calls in {taken.sent} requests, "
        f"{taken.throttled} of them throttled",
        soft_wrap=True,
    )
    for name, count in taken.calls.most_common():
        people.print(f"{count:7}  {name}")
    for fault in wrong:
        people.print(f"✘ {fault}")
    if options.json:
        print(json.dumps({**vars(taken), "cores": taken.cores, "faults": wrong}, indent=2))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
