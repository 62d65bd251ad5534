"""A forecast of the time and cost of a bake, from the durations of earlier bakes. Pure.

All figures are ranges. A stage with the same digest did the same work; a stage with the same name,
in this recipe or in another one, did similar work. For all others, a wide range is used, and
`based_on` reports that it is a guess.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from bake.console.format import duration_range, money_range
from bake.plan.plan import Plan, Stage

Range = tuple[float, float]

# The steps of a bake besides its stages. No stage's name has a capital.
BUILDER, REBOOT, PROOF, IMAGE = "Builder", "Reboot", "Proof", "Image"

# Ranges in seconds for: the start until SSH answers; the reboot before the proof; the checks, with
# a tensor test on a cold GPU; the copy of 64 GB by EBS.
_GUESSES: dict[str, Range] = {
    BUILDER: (45, 180),
    REBOOT: (20, 180),
    PROOF: (20, 120),
    IMAGE: (120, 900),
}
_GUESS: Range = (30, 900)
_STEP_NAMES = {
    BUILDER: "the machine's start",
    REBOOT: "the reboot",
    PROOF: "the proof",
    IMAGE: "the image",
}

# Factors from the shortest and the longest known time to the range of the next one.
_EXACT: Range = (0.85, 1.2)
_ALIKE: Range = (0.7, 1.5)
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
    def stages(self) -> Mapping[str, str]: ...
    @property
    def seconds(self) -> Mapping[str, float]: ...


@dataclass(frozen=True)
class Past:
    """An earlier image, read from its tags. A checkpoint is an `Earlier` itself."""

    recipe: str
    stages: Mapping[str, str]
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Forecast:
    """The expected time and cost of a bake. USD are None if no price is known.

    `stages` maps each stage that will run to its range of seconds.
    """

    seconds_low: float
    seconds_high: float
    usd_low: float | None
    usd_high: float | None
    based_on: str
    stages: Mapping[str, Range]

    @property
    def time(self) -> str:
        if self.seconds_high == 0:
            return "no time"
        return f"about {duration_range(self.seconds_low, self.seconds_high)}"

    @property
    def cost(self) -> str:
        if self.usd_low is None or self.usd_high is None:
            return "price unknown"
        return money_range(self.usd_low, self.usd_high)

    def __str__(self) -> str:
        return f"{self.time}, {self.cost}"


def forecast(
    plan: Plan,
    to_run: Iterable[str],
    earlier: Sequence[Earlier],
    usd_per_hour: Iterable[float | None],
    *,
    usd_per_gb_month: float | None,
    stopped_for_image: bool = False,
) -> Forecast:
    """Forecast a bake that runs these stages on one machine. Without stages, time and cost are 0.

    `earlier` begins with the newest. `usd_per_hour` are the prices of all machines that may be
    used, None if unknown; the range is from the cheapest to the dearest. A machine that is
    `stopped_for_image` (on-demand) costs nothing while the image is made, but its volume does. An
    unknown volume price, `usd_per_gb_month`, is left out: it is a few hundredths of a dollar.
    """
    wanted = set(to_run)
    if not wanted:
        return Forecast(0, 0, 0, 0, "what exists already", {})
    running = [stage for stage in plan.stages if stage.name in wanted]
    known = {stage.name: _stage_range(stage, plan.recipe.name, earlier) for stage in running}
    steps_to_do = [
        step for step in _GUESSES if step != REBOOT or reboots_before_proof(plan, wanted)
    ]
    known |= {step: _range_by_name(step, plan.recipe.name, earlier) for step in steps_to_do}
    guessed = [_STEP_NAMES.get(name, name) for name, seconds in known.items() if seconds is None]
    seconds = {name: known[name] or _GUESSES.get(name, _GUESS) for name in known}
    expected = {stage.name: seconds[stage.name] for stage in running}
    steps = {step: seconds[step] for step in steps_to_do}
    low, high = (
        _longest_path(running, expected, end) + sum(step[end] for step in steps.values())
        for end in (0, 1)
    )
    image = steps[IMAGE] if stopped_for_image else (0.0, 0.0)
    prices = [price for price in usd_per_hour if price is not None]
    usd_low = usd_high = None
    if prices:
        volume = plan.recipe.builder.disk_gb * (usd_per_gb_month or 0.0) / _HOURS_A_MONTH
        usd_low = (low - image[0]) / _HOUR_S * min(prices) + low / _HOUR_S * volume
        usd_high = (high - image[1]) / _HOUR_S * max(prices) + high / _HOUR_S * volume
    return Forecast(low, high, usd_low, usd_high, _based_on(len(known), guessed), expected)


def reboots_before_proof(plan: Plan, to_run: Collection[str]) -> bool:
    """Return True if a stage besides the last one, which seals, will run on the machine."""
    return any(stage.name in to_run for stage in plan.stages[:-1])


def _stage_range(stage: Stage, recipe: str, earlier: Sequence[Earlier]) -> Range | None:
    exact = [
        one.seconds[stage.name]
        for one in earlier
        if one.stages.get(stage.name) == stage.digest and stage.name in one.seconds
    ]
    if exact:
        return _widened(exact, _EXACT)
    return _range_by_name(stage.name, recipe, earlier)


def _range_by_name(name: str, recipe: str, earlier: Sequence[Earlier]) -> Range | None:
    """Return the range of a step from its times in this recipe, or else in other recipes."""
    timed = [one for one in earlier if name in one.seconds]
    of_recipe = [one for one in timed if one.recipe == recipe] or timed
    return _widened([one.seconds[name] for one in of_recipe], _ALIKE) if of_recipe else None


def _widened(times: Sequence[float], factors: Range) -> Range:
    latest = times[:_LATEST]
    return min(latest) * factors[0], max(latest) * factors[1]


def _longest_path(stages: Iterable[Stage], seconds: Mapping[str, Range], end: int) -> float:
    """Return the seconds until the last stage ends.

    Independent stages run at the same time; a stage that may reboot runs alone.
    """
    waiting, ends, now = list(stages), dict[str, float](), 0.0
    names = {stage.name for stage in waiting}
    while waiting:
        running = [ended for ended in ends.values() if ended > now]
        done = {name for name, ended in ends.items() if ended <= now}
        ready = [stage for stage in waiting if done >= names.intersection(stage.needs)]
        alone = [stage for stage in ready if stage.may_reboot and not running][:1]
        begun = alone or [stage for stage in ready if not stage.may_reboot]
        for stage in begun:
            ends[stage.name] = now + seconds[stage.name][end]
            waiting.remove(stage)
        if alone:
            now = ends[alone[0].name]
        elif not begun:
            now = min(running)
    return max(ends.values())


def _based_on(count: int, guessed: list[str]) -> str:
    if not guessed:
        return "earlier bakes"
    if len(guessed) == count:
        return "a guess, because no earlier bake has done any of it"
    return f"earlier bakes, and a guess for {', '.join(guessed)}"
