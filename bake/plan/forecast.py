"""What a bake will take: time and money, from how long its stages took before. Pure.

All of it as ranges. A stage with the same digest did the same work; one of the same name in the
recipe's last images, or in another recipe's, did something like it. Where nothing of the kind is
known, a wide range is taken, and `based_on` says that it is a guess.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from bake.console.format import duration_range, money_range
from bake.plan.plan import Plan, Stage

Range = tuple[float, float]

# What a bake does besides its stages, as its steps are called; no stage's name has a capital.
BUILDER, PROOF, IMAGE = "Builder", "Proof", "Image"

# In seconds. Start and SSH; checks with a tensor test on a cold GPU; EBS copies 64 GB in this time.
_GUESSES: dict[str, Range] = {BUILDER: (45, 180), PROOF: (20, 120), IMAGE: (120, 900)}
_GUESS: Range = (30, 900)
_SPOKEN = {BUILDER: "the machine's start", PROOF: "the proof", IMAGE: "the image"}

# How far the next time may be from the shortest and the longest that are known.
_EXACT: Range = (0.85, 1.2)
_ALIKE: Range = (0.7, 1.5)
_LATEST = 5

# "One gigabyte-month: a 1 GB volume that was active for 744 hours", of a month of 31 days (AWS
# re:Post, "How am I charged for my Amazon EBS volumes?"). This is the average month.
_HOURS_A_MONTH = 730
_HOUR_S = 3600


class Earlier(Protocol):
    """An image or a checkpoint: what it holds, and how long each part of it took."""

    @property
    def recipe(self) -> str: ...
    @property
    def stages(self) -> Mapping[str, str]: ...
    @property
    def seconds(self) -> Mapping[str, float]: ...


@dataclass(frozen=True)
class Past:
    """An image's tags, read; a checkpoint is an `Earlier` as it is."""

    recipe: str
    stages: Mapping[str, str]
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Forecast:
    """`stages` has the seconds of each one that is to run; USD are None where no price is known."""

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
    """For these stages on one machine; nothing to run takes and costs nothing.

    `earlier`: the newest first. `usd_per_hour`: of every machine that it may become, None where
    AWS did not say; the range goes from the cheapest to the dearest that is known. A machine that
    is `stopped_for_image` (an on-demand one) costs nothing meanwhile; its volume does. Where the
    volume's price, `usd_per_gb_month`, is not known, it is left out: it is a few hundredths.
    """
    wanted = set(to_run)
    if not wanted:
        return Forecast(0, 0, 0, 0, "what is there already", {})
    running = [stage for stage in plan.stages if stage.name in wanted]
    known = {stage.name: _of_stage(stage, plan.recipe.name, earlier) for stage in running}
    known |= {step: _of_name(step, plan.recipe.name, earlier) for step in _GUESSES}
    guessed = [_SPOKEN.get(name, name) for name, seconds in known.items() if seconds is None]
    seconds = {name: known[name] or _GUESSES.get(name, _GUESS) for name in known}
    expected = {stage.name: seconds[stage.name] for stage in running}
    steps = {step: seconds[step] for step in _GUESSES}
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


def _of_stage(stage: Stage, recipe: str, earlier: Sequence[Earlier]) -> Range | None:
    exact = [
        one.seconds[stage.name]
        for one in earlier
        if one.stages.get(stage.name) == stage.digest and stage.name in one.seconds
    ]
    if exact:
        return _around(exact, _EXACT)
    return _of_name(stage.name, recipe, earlier)


def _of_name(name: str, recipe: str, earlier: Sequence[Earlier]) -> Range | None:
    """From this recipe's times; where it has none, from those of the others."""
    timed = [one for one in earlier if name in one.seconds]
    ours = [one for one in timed if one.recipe == recipe] or timed
    return _around([one.seconds[name] for one in ours], _ALIKE) if ours else None


def _around(times: Sequence[float], factors: Range) -> Range:
    latest = times[:_LATEST]
    return min(latest) * factors[0], max(latest) * factors[1]


def _longest_path(stages: Iterable[Stage], seconds: Mapping[str, Range], end: int) -> float:
    """Stages that do not need each other run at the same time; one that reboots runs alone."""
    waiting, ends, now = list(stages), dict[str, float](), 0.0
    names = {stage.name for stage in waiting}
    while waiting:
        running = [ended for ended in ends.values() if ended > now]
        done = {name for name, ended in ends.items() if ended <= now}
        ready = [stage for stage in waiting if done >= names.intersection(stage.needs)]
        alone = [stage for stage in ready if stage.reboots and not running][:1]
        begun = alone or [stage for stage in ready if not stage.reboots]
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
        return "a guess, since nothing of it has been done here before"
    return f"earlier bakes, and a guess for {', '.join(guessed)}"
