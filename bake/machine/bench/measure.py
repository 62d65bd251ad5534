"""Run the benchmark program of `on_machine/` on a machine, with the image's framework.

Its output is judged as it arrives (`judge.py`), so the figures of a machine that is lost are kept.
"""

from __future__ import annotations

import base64
import io
import json
import tarfile
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from time import monotonic

from bake.aws.client.session import Cloud
from bake.aws.machine import Machine
from bake.aws.tags import Run
from bake.console.console import Console
from bake.console.screen import Step
from bake.errors import BakeError, LostError, RemoteError, StageError
from bake.files import on_machine, programs_of
from bake.machine import ssh_config
from bake.machine.bench.figures import (
    Figure,
    Measured,
    failures,
    format_spread,
    format_value,
)
from bake.machine.bench.judge import Judge
from bake.machine.boot import login_user
from bake.machine.cost import find_costs
from bake.machine.watch import Watch
from bake.plan.inputs import inputs_file
from bake.ssh.runner import run_stage

THOROUGH = {
    "pace": {"warm_s": 1.0, "run_s": 0.25, "runs": 15, "most_s": 10.0},
    "gpu": {"largest": 16384, "most_mib": 1024},
    "cpu": {"largest": 4096, "most_mib": 256},
}
QUICK = {
    "pace": {"warm_s": 0.1, "run_s": 0.05, "runs": 5, "most_s": 2.0},
    "gpu": {"largest": 8192, "most_mib": 256},
    "cpu": {"largest": 1024, "most_mib": 32},
}
# The first start on a GPU for which the wheel has no machine code takes minutes to compile it.
_ONE_S = 10 * 60
_ALL_S = 90 * 60


@dataclass(frozen=True)
class BenchRun:
    """One run of the benchmark: its identity, the folder of its results, and its settings."""

    run: Run
    folder: Path
    ssh_port: int
    quick: bool = False


def measure(cloud: Cloud, machine: Machine, bench_run: BenchRun, console: Console) -> Measured:
    """Measure a machine. When it is lost or cannot be reached, the result contains the failure."""
    began = monotonic()
    judge = Judge()
    failure = None
    with console.step("Measuring") as step:
        try:
            _run(cloud, machine, bench_run, step, judge, console)
        except (LostError, RemoteError) as error:
            failure = _describe_failure(error, judge)
        failure = failure or judge.machine.failure
        step.done(judge.machine.device if judge.machine.framework else "failed")
    found = Measured(
        instance_type=machine.instance_type,
        instance_id=machine.instance_id,
        name=machine.name,
        zone=machine.zone,
        market=machine.market,
        usd_per_hour=find_costs(cloud, [machine]).of[machine.instance_id].per_hour,
        image_id=machine.image_id,
        machine=judge.machine,
        figures=tuple(judge.figures),
        seconds=monotonic() - began,
        failure=failure,
    )
    for warning in (*found.warnings, *failures(found.figures)):
        console.warn(warning)
    if failure:
        console.warn(f"{machine.name} was not measured completely: {failure}")
    return found


def _run(
    cloud: Cloud, machine: Machine, bench_run: BenchRun, step: Step, judge: Judge, console: Console
) -> None:
    def on_line(line: str) -> None:
        figure = judge.take(line)
        step.update(judge.doing or line)
        if figure is not None and figure.value is not None:
            console.note(f"  {_line(figure)}")

    host = ssh_config.find_host(cloud, machine, ssh_port=bench_run.ssh_port)
    with ssh_config.connect(host) as connection:
        Watch(cloud, machine, connection, console).run_while_alive(
            partial(
                run_stage,
                connection,
                "speed",
                script=(on_machine("bake.machine.bench") / "measure.sh").read_bytes(),
                lib=b"",
                inputs=inputs_file(
                    "speed",
                    {
                        "LOGIN_USER": login_user(machine.tags),
                        "PROGRAM": _program(),
                        "SETTINGS": json.dumps(
                            {**(QUICK if bench_run.quick else THOROUGH), "limit_s": _ONE_S}
                        ),
                    },
                ),
                log=bench_run.folder / f"{machine.instance_id}.log",
                on_line=on_line,
                timeout_s=_ALL_S,
                run_id=bench_run.run.id,
            )
        )


def _line(figure: Figure) -> str:
    words = f"{figure.name:<20} {format_value(figure.value, figure.unit):>16}"
    return f"{words}  {format_spread(figure)}" if figure.spread is not None else words


@cache
def _program() -> str:
    """Return the Python files as base64 of a compressed archive, which `measure.sh` unpacks."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for program in programs_of("bake.machine.bench"):
            if program.name.endswith(".py"):
                entry, content = tarfile.TarInfo(program.name), program.read_bytes()
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return base64.b64encode(packed.getvalue()).decode()


def _describe_failure(error: BakeError, judge: Judge) -> str:
    """Return the reason of a failure, and the figure that was being measured."""
    reason = ": ".join(filter(None, (error.message, error.reason)))
    if isinstance(error, StageError) and error.details:
        reason += f": {error.details[-1]}"
    return f"{reason} (at: {judge.doing})" if judge.doing else reason
