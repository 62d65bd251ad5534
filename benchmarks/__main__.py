"""`make bench`: `bake` beside Packer, doing the same work on the same local cloud.

    make bench BENCH="[SCENARIO…] [--rounds N] [--seconds S] [--json]"

Each tool is started as its user starts it, one after the other, round by round. Two figures are
measured: the time of the whole command, and how long its machines existed according to EC2. The
exit status is 1 if the medians miss a goal.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from bake.threads import one_interrupt
from benchmarks import report
from benchmarks.cloud import a_local_cloud, scrub
from benchmarks.scenarios import SCENARIOS, Bench, Round, Scenario
from benchmarks.tools import Broken
from benchmarks.work import REPOSITORY


def main() -> int:
    options = _parser().parse_args()
    people = Console(stderr=True)
    if not shutil.which("packer"):
        people.print("Packer not found: `make bench` installs it from Debian")
        return 2
    scrub()
    compileall.compile_dir(REPOSITORY / "bake", quiet=1)  # else the first command does it
    chosen = [each for each in SCENARIOS if each.name in (options.scenarios or _names())]
    if options.like_ec2:  # both tools wait for EC2 most of the time: the goal is not to be slower
        chosen = [
            replace(each, wall=1.0, machine_seconds=each.machine_seconds and 1.0) for each in chosen
        ]
    results: dict[Scenario, list[Round]] = {scenario: [] for scenario in chosen}
    with tempfile.TemporaryDirectory(prefix="bake-bench-") as name:
        folder = Path(name)
        os.environ["HOME"] = name
        with one_interrupt(), a_local_cloud(folder / "state", options.like_ec2) as cloud:
            bench = Bench(
                cloud,
                folder / "project",
                seconds=options.seconds,
                megabytes=options.megabytes,
                jobs=options.jobs,
                recipes=options.recipes,
            )
            try:
                for number in range(options.rounds):
                    for scenario in chosen:
                        edition = f"{time.time_ns()}"
                        measured = scenario.run(bench, edition)
                        results[scenario].append(measured)
                        said = ", ".join(f"{who} {m.wall_s:.1f} s" for who, m in measured.items())
                        people.print(f"round {number + 1}, {scenario.name}: {said}")
            except KeyboardInterrupt:
                return 130
            except Broken as error:
                people.print(str(error), markup=False)
                return 1
    people.print()
    report.show(results, people)
    if options.markdown:
        print(report.markdown(results))
    if options.json:
        print(json.dumps(report.document(results, vars(options)), indent=2))
    return 1 if any(report.faults(each, rounds) for each, rounds in results.items()) else 0


def _names() -> list[str]:
    return [scenario.name for scenario in SCENARIOS]


def _parser() -> argparse.ArgumentParser:
    about = "; ".join(f"{scenario.name}: {scenario.about}" for scenario in SCENARIOS)
    parser = argparse.ArgumentParser(prog="python -m benchmarks", epilog=about)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(_names()))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5, help="length of a stage")
    parser.add_argument(
        "--megabytes", type=float, default=20, help="size of the data that a stage writes"
    )
    parser.add_argument(
        "--recipes", type=int, default=12, help="number of recipes in the scenario many"
    )
    parser.add_argument("--jobs", type=int, default=4, help="machines at a time, on both sides")
    parser.add_argument(
        "--like-ec2",
        type=float,
        metavar="SCALE",
        help="use EC2's delays (bake/local/profiles/ec2.toml), multiplied by SCALE",
    )
    parser.add_argument("--json", action="store_true", help="all figures, on standard output")
    parser.add_argument("--markdown", action="store_true", help="the table, on standard output")
    return parser


if __name__ == "__main__":
    sys.exit(main())
