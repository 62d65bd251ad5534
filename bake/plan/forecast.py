"""A forecast of the time and cost of a bake, from earlier bakes and from typical durations. Pure.

All figures are ranges. A stage with the same digest did the same work; a stage with the same name,
in this recipe or in another one, did similar work. Without either, the catalog's typical duration
is used. For a stage that it does not know, the range is a guess.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal, Protocol

from bake import catalog
from bake.console.format import money_range
from bake.plan.duration import Span, Work, expected_time
from bake.plan.plan import Plan, Stage

# The steps of a bake besides its stages. No stage's name has a capital.
BUILDER, REBOOT, PROOF, IMAGE = "Builder", "Reboot", "Proof", "Image"
STEPS: Mapping[str, str] = {
    BUILDER: "the machine's start",
    REBOOT: "the reboot",
    PROOF: "the proof",
    IMAGE: "the image",
}

Source = Literal["earlier bakes", "typical times", "a guess"]

_GUESS = Span(20, 90, 600)

# Factors from the shortest and the longest known time to the range of the next one.
_EXACT = (0.85, 1.2)
_ALIKE = (0.7, 1.5)
_LATEST = 5

# "One gigabyte-month: a 1 GB volume that was active for 744 hours", in a month of 31 days (AWS
# re:Post, "How am I charged for my Amazon EBS volumes?"). An average month has 730 hours.
_HOURS_A_MONTH = 730
_HOUR_S = 3600


class Earlier(Protocol):
    """An image or a checkpoint: its stages, and how many seconds each step took."""

    @property
    def recipe(self) -> str: ...
    @property
    def payload(self) -> str: ...
    @property
    def stages(self) -> Mapping[str, str]: ...
    @property
    def seconds(self) -> Mapping[str, float]: ...


@dataclass(frozen=True)
class Past:
    """An earlier image, read from its tags. A checkpoint is an `Earlier` itself."""

    recipe: str
    stages: Mapping[str, str]
    seconds: Mapping[str, float]
    payload: str = "upstream"


@dataclass(frozen=True)
class Course:
    """The expected duration of each stage and each other step of a bake, and its source.

    `first` are stages that run before all others.
    """

    plan: Plan
    spans: Mapping[str, Span]
    sources: Mapping[str, Source]
    first: frozenset[str] = frozenset()

    def left(self, done: Collection[str]) -> Span:
        """Return the time of the stages and steps that are not done."""
        left = {name: span for name, span in self.spans.items() if name not in done}
        return self._work(left).span(left)

    def left_s(self, done: Collection[str], running: Mapping[str, float]) -> float:
        """Return the likely seconds until the bake ends.

        `running` maps the stages and steps that run now to the seconds since they began.
        """
        left = {
            name: max(span.likely - running.get(name, 0.0), 0.0)
            for name, span in self.spans.items()
            if name not in done
        }
        return self._work(left, running).seconds(left)

    def _work(self, left: Collection[str], running: Collection[str] = ()) -> Work:
        names = {stage.name for stage in self.plan.stages}
        return Work(
            tuple(stage for stage in self.plan.stages if stage.name in left),
            tuple(name for name in left if name not in names),
            frozenset(running),
            self.plan.recipe.checkpoints.after,
            self.first,
        )

    def based_on(self, done: Collection[str]) -> str:
        """Return the sources of the times of all steps that are not done."""
        by_source: dict[Source, list[str]] = {}
        for name, source in self.sources.items():
            if name not in done:
                by_source.setdefault(source, []).append(STEPS.get(name, name))
        if len(by_source) < 2:
            return next(iter(by_source), "what exists already")
        most = max(by_source, key=lambda source: len(by_source[source]))
        others = (
            f"{source} for {', '.join(names)}"
            for source, names in by_source.items()
            if source != most
        )
        return f"{most}; {'; '.join(others)}"


@dataclass(frozen=True)
class Forecast:
    """The expected time and cost of a bake. USD are None if no price is known.

    `stages` maps each stage that will run to its duration.
    """

    span: Span
    usd_low: float | None
    usd_high: float | None
    based_on: str
    stages: Mapping[str, Span]

    @property
    def time(self) -> str:
        if self.span.high == 0:
            return "no time"
        return expected_time(self.span)

    @property
    def cost(self) -> str:
        if self.usd_low is None or self.usd_high is None:
            return "price unknown"
        return money_range(self.usd_low, self.usd_high)

    def __str__(self) -> str:
        return f"{self.time}, {self.cost}"


def course(plan: Plan, earlier: Sequence[Earlier], first: frozenset[str] = frozenset()) -> Course:
    """Return the expected durations of all steps. `earlier` begins with the newest."""
    spans: dict[str, Span] = {}
    sources: dict[str, Source] = {}
    typical = catalog.load().durations.get(plan.payload.name, {})
    # Sorted as the steps are done: the stages are between the machine's start and the reboot.
    stages: Mapping[str, Stage] = {stage.name: stage for stage in plan.stages}
    for name in (BUILDER, *stages, REBOOT, PROOF, IMAGE):
        if known := _earlier_times(name, stages.get(name), plan, earlier):
            spans[name], sources[name] = known, "earlier bakes"
        elif fact := typical.get(name):
            spans[name] = Span(fact.low_s, fact.likely_s, fact.high_s)
            sources[name] = "typical times"
        else:
            spans[name], sources[name] = _GUESS, "a guess"
    return Course(plan, spans, sources, first)


def forecast(
    plan: Plan,
    to_run: Iterable[str],
    earlier: Sequence[Earlier],
    usd_per_hour: Iterable[float | None],
    *,
    usd_per_gb_month: float | None,
    stopped_for_image: bool = False,
    first: frozenset[str] = frozenset(),
) -> Forecast:
    """Forecast a bake that runs these stages on one machine. Without stages, time and cost are 0.

    `earlier` begins with the newest. `usd_per_hour` are the prices of all machines that may be
    used, None if unknown; the range is from the cheapest to the dearest. A machine that is
    `stopped_for_image` (on-demand) costs nothing while the image is made, but its volume does. An
    unknown volume price, `usd_per_gb_month`, is left out: it is a few hundredths of a dollar.
    `first` are stages that run before all others.
    """
    wanted = set(to_run)
    if not wanted:
        return Forecast(Span(0, 0, 0), 0, 0, "what exists already", {})
    expected = course(plan, earlier, first)
    done = steps_not_needed(plan, wanted)
    whole = expected.left(done)
    machine = expected.left({*done, IMAGE}) if stopped_for_image else whole
    prices = [price for price in usd_per_hour if price is not None]
    usd_low = usd_high = None
    if prices:
        volume = plan.recipe.builder.disk_gb * (usd_per_gb_month or 0.0) / _HOURS_A_MONTH
        usd_low = (machine.low * min(prices) + whole.low * volume) / _HOUR_S
        usd_high = (machine.high * max(prices) + whole.high * volume) / _HOUR_S
    stages = {stage.name: expected.spans[stage.name] for stage in plan.stages}
    return Forecast(
        whole,
        usd_low,
        usd_high,
        expected.based_on(done),
        {name: span for name, span in stages.items() if name in wanted},
    )


def steps_not_needed(plan: Plan, to_run: Collection[str]) -> frozenset[str]:
    """Return the stages and other steps of which a bake that runs these stages has no need."""
    others = {stage.name for stage in plan.stages if stage.name not in to_run}
    return frozenset(others if reboots_before_proof(plan, to_run) else {*others, REBOOT})


def reboots_before_proof(plan: Plan, to_run: Collection[str]) -> bool:
    """Return True if a stage besides the last one, which seals, will run on the machine."""
    return any(stage.name in to_run for stage in plan.stages[:-1])


def _earlier_times(
    name: str, stage: Stage | None, plan: Plan, earlier: Sequence[Earlier]
) -> Span | None:
    """Return the range of a step from its times in earlier bakes, None without any.

    Times of the same work come before those of the same step in this recipe, and these before
    those in other recipes. Stand-ins say nothing about the original servers, and vice versa; a
    checkpoint of an older version does not tell what it contains.
    """
    timed = [one for one in earlier if name in one.seconds]
    same = [one for one in timed if stage and one.stages.get(name) == stage.digest]
    if same:
        return _widened([one.seconds[name] for one in same], _EXACT)
    alike = [one for one in timed if one.payload in ("", plan.payload.name)]
    of_recipe = [one for one in alike if one.recipe == plan.recipe.name] or alike
    return _widened([one.seconds[name] for one in of_recipe], _ALIKE) if of_recipe else None


def _widened(times: Sequence[float], factors: tuple[float, float]) -> Span:
    latest = times[:_LATEST]
    return Span(min(latest) * factors[0], median(latest), max(latest) * factors[1])
