"""The scenarios that are compared, and the goals of each.

Running a scenario once measures each tool once. The rounds of all scenarios follow each other, so
that a computer that slows down meanwhile slows down all tools.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import tools
from benchmarks.cloud import LocalCloud
from benchmarks.work import Recipe, Stage, write

BAKE, PACKER, LOOP = "bake", "packer", "ssh loop"
_TOOLS = {BAKE: tools.bake, PACKER: tools.packer, LOOP: tools.loop}


@dataclass(frozen=True)
class Measurement:
    """The wall time of a command, and the summed lifetime of its machines, in seconds."""

    wall_s: float
    machine_s: float
    machines: int


Round = dict[str, Measurement]


@dataclass(frozen=True)
class Bench:
    """The local cloud, the project folder, and the size of the work."""

    cloud: LocalCloud
    folder: Path
    seconds: float
    megabytes: float
    jobs: int
    recipes: int

    def stage(self, name: str, *needs: str, edition: str) -> Stage:
        return Stage(name, needs, self.seconds, self.megabytes, edition)

    def measure(self, tool: str, recipes: Sequence[Recipe]) -> Measurement:
        write(self.folder, recipes)
        with self.cloud.books() as books:
            wall_s = _TOOLS[tool](self.cloud, self.folder, recipes, jobs=self.jobs)
        return Measurement(wall_s, books.machine_seconds, books.machines)


@dataclass(frozen=True)
class Scenario:
    """A comparison of the tools.

    `wall` and `machine_seconds` are the largest allowed ratios of bake's figure to Packer's. `run`
    gets an edition, a text that differs from round to round.
    """

    name: str
    about: str
    wall: float
    run: Callable[[Bench, str], Round]
    machine_seconds: float | None = None
    no_machine: bool = False


def _cold(bench: Bench, tools: Sequence[str], recipes: Sequence[Recipe]) -> Round:
    found: Round = {}
    for tool in tools:
        bench.cloud.sweep()
        found[tool] = bench.measure(tool, recipes)
    bench.cloud.sweep()
    return found


def _line_of(bench: Bench, edition: str) -> Recipe:
    stage, names = bench.stage, ("first", "second", "third", "fourth")
    stages = [stage(name, *names[:n][-1:], edition=edition) for n, name in enumerate(names)]
    return Recipe("line", tuple(stages))


def _changed(recipe: Recipe, edition: str) -> Recipe:
    *before, last = recipe.stages
    return replace(recipe, stages=(*before, replace(last, edition=edition)))


def _line(bench: Bench, edition: str) -> Round:
    return _cold(bench, (BAKE, PACKER, LOOP), [_line_of(bench, edition)])


def _graph(bench: Bench, edition: str) -> Round:
    stage = bench.stage
    brief = replace(bench, seconds=bench.seconds / 5, megabytes=bench.megabytes / 5).stage
    recipe = Recipe(
        "graph",
        (
            brief("system", edition=edition),
            stage("driver-like", "system", edition=edition),
            stage("toolkit", "driver-like", edition=edition),
            stage("python", "system", edition=edition),
            stage("library", "python", edition=edition),
            brief("book", "toolkit", "library", edition=edition),
        ),
    )
    return _cold(bench, (BAKE, PACKER), [recipe])


def _last(bench: Bench, edition: str) -> Round:
    before = _line_of(bench, edition)
    after = _changed(before, f"{edition} again")
    bench.cloud.sweep()
    bench.measure(BAKE, [before])
    ours = bench.measure(BAKE, [after])
    return {BAKE: ours, **_cold(bench, (PACKER,), [after])}


def _nothing(bench: Bench, edition: str) -> Round:
    recipe = _line_of(bench, edition)
    bench.cloud.sweep()
    bench.measure(BAKE, [recipe])
    ours = bench.measure(BAKE, [recipe])
    return {BAKE: ours, **_cold(bench, (PACKER,), [recipe])}


def _many(bench: Bench, edition: str) -> Round:
    stage = bench.stage
    shared = (stage("ground", edition=edition), stage("common", "ground", edition=edition))
    recipes = [
        Recipe(
            f"r{n:02}",
            (
                *shared,
                stage(f"own-{n:02}", "common", edition=edition),
                stage(f"last-{n:02}", f"own-{n:02}", edition=edition),
            ),
        )
        for n in range(1, bench.recipes + 1)
    ]
    return _cold(bench, (BAKE, PACKER), recipes)


SCENARIOS = (
    Scenario("line", "four stages one after the other, cold", 1.05, _line),
    Scenario("graph", "two chains of two stages between two short ones, cold", 0.6, _graph),
    Scenario("last", "only the last of the four stages has changed", 0.35, _last),
    Scenario("nothing", "nothing has changed", 0.1, _nothing, no_machine=True),
    Scenario(
        "many", "recipes that share two of their four stages, cold", 0.8, _many, machine_seconds=0.6
    ),
)
