"""The figures of all rounds: medians, their spread, and the ratios, for people and as JSON."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.scenarios import BAKE, PACKER, Measurement, Round, Scenario

_HEADINGS = (
    "scenario",
    "tool",
    "wall",
    "machine-seconds",
    "machines",
    "wall / Packer",
    "machine-s / Packer",
    "goal",
)


@dataclass(frozen=True)
class Spread:
    median: float
    least: float
    most: float

    def text(self, unit: str = "", digits: int = 1) -> str:
        shown = f"{self.median:.{digits}f}{unit}"
        if f"{self.least:.{digits}f}" == f"{self.most:.{digits}f}":
            return shown
        return f"{shown} ({self.least:.{digits}f}–{self.most:.{digits}f})"


def spread(values: Iterable[float]) -> Spread:
    sorted_values = sorted(values)
    return Spread(median(sorted_values), sorted_values[0], sorted_values[-1])


def rows(scenario: Scenario, rounds: Sequence[Round]) -> list[tuple[str, ...]]:
    """Return a row per tool.

    Ratios are taken within a round, so that a slow minute counts for both tools.
    """
    found: list[tuple[str, ...]] = []
    for tool in rounds[0]:
        measured = [each[tool] for each in rounds]
        found.append(
            (
                scenario.name if tool == BAKE else "",
                tool,
                spread(m.wall_s for m in measured).text(" s"),
                spread(m.machine_s for m in measured).text(" s"),
                spread(m.machines for m in measured).text(digits=0),
                "" if tool == PACKER else _ratio(rounds, tool, _wall).text(digits=2),
                "" if tool == PACKER else _ratio(rounds, tool, _machine).text(digits=2),
                _goal(scenario, rounds) if tool == BAKE else "",
            )
        )
    return found


def faults(scenario: Scenario, rounds: Sequence[Round]) -> list[str]:
    """Return the goals that the medians miss."""
    wall, machine = _ratio(rounds, BAKE, _wall).median, _ratio(rounds, BAKE, _machine).median
    found = []
    if round(wall, 2) > scenario.wall:
        found.append(f"wall {wall:.2f}, not {scenario.wall:g}")
    if scenario.machine_seconds and round(machine, 2) > scenario.machine_seconds:
        found.append(f"machine-seconds {machine:.2f}, not {scenario.machine_seconds:g}")
    if scenario.no_machine and any(each[BAKE].machines for each in rounds):
        found.append("a machine was started")
    return found


def show(results: Mapping[Scenario, Sequence[Round]], console: Console) -> None:
    table = Table(*_HEADINGS, box=None, pad_edge=False)
    for scenario, rounds in results.items():
        for row in rows(scenario, rounds):
            table.add_row(*row)
    console.print(table)


def markdown(results: Mapping[Scenario, Sequence[Round]]) -> str:
    lines = [_HEADINGS, ("---",) * len(_HEADINGS)]
    lines += [row for scenario, rounds in results.items() for row in rows(scenario, rounds)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def document(
    results: Mapping[Scenario, Sequence[Round]], settings: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "computer": computer(),
        "settings": dict(settings),
        "scenarios": [
            {
                "name": scenario.name,
                "about": scenario.about,
                "rounds": [
                    {tool: asdict(measured) for tool, measured in each.items()} for each in rounds
                ],
                "wall_ratio": asdict(_ratio(rounds, BAKE, _wall)),
                "machine_seconds_ratio": asdict(_ratio(rounds, BAKE, _machine)),
                "missed": faults(scenario, rounds),
            }
            for scenario, rounds in results.items()
        ],
    }


def computer() -> dict[str, str]:
    """Describe this computer and the versions of the tools."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    said = subprocess.run(["packer", "version"], capture_output=True, text=True)
    return {
        "processor": f"{model}, {os.cpu_count()} cores",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packer": said.stdout.split("\n")[0].strip(),
    }


def _goal(scenario: Scenario, rounds: Sequence[Round]) -> str:
    goals = [f"≤ {scenario.wall:g}"]
    if scenario.machine_seconds:
        goals.append(f"≤ {scenario.machine_seconds:g}")
    if scenario.no_machine:
        goals.append("no machine")
    missed = faults(scenario, rounds)
    return f"{', '.join(goals)}: {'missed' if missed else 'met'}"


def _ratio(rounds: Sequence[Round], tool: str, of: Callable[[Measurement], float]) -> Spread:
    return spread(of(each[tool]) / of(each[PACKER]) for each in rounds)


def _wall(measured: Measurement) -> float:
    return measured.wall_s


def _machine(measured: Measurement) -> float:
    return measured.machine_s
