from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bake import catalog
from bake.plan import forecast as forecasts
from bake.plan.duration import Span, expected_time
from bake.plan.forecast import BUILDER, IMAGE, PROOF, REBOOT, Forecast, Past, course, forecast
from bake.plan.plan import Plan
from bake.recipe.recipe import Recipe
from tests.support.plans import BASE, RECIPES, Parts, checkpoints_after, plan_of, real_plan

PLAN = plan_of(BASE)
DIGESTS = {stage.name: stage.digest for stage in PLAN.stages}
# drivers → cuda beside conda → mxnet, on base.
TIMES = {"base": 60.0, "drivers": 100.0, "cuda": 300.0, "conda": 50.0, "mxnet": 200.0, "seal": 10.0}
STEPS = {BUILDER: 60.0, REBOOT: 40.0, PROOF: 30.0, IMAGE: 300.0}
ALL = tuple(TIMES)


def expected(
    to_run: Iterable[str] = ALL,
    earlier: Iterable[Past] = (Past(PLAN.recipe.name, DIGESTS, TIMES | STEPS),),
    prices: Iterable[float | None] = (0.5,),
    *,
    plan: Plan = PLAN,
    usd_per_gb_month: float | None = 0.0,
    **more: Any,
) -> Forecast:
    return forecast(plan, to_run, list(earlier), prices, usd_per_gb_month=usd_per_gb_month, **more)


def test_nothing_to_run_takes_and_costs_nothing() -> None:
    found = expected(())
    assert (found.span, found.usd_low, found.usd_high) == (Span(0, 0, 0), 0, 0)
    assert str(found) == "no time, nothing ($0)"


def test_stages_that_do_not_need_each_other_run_at_the_same_time() -> None:
    whole = expected()
    longest = TIMES["base"] + TIMES["drivers"] + TIMES["cuda"] + TIMES["seal"]
    assert whole.span.likely == pytest.approx(430 + longest)
    assert whole.stages["cuda"] == Span(pytest.approx(255), 300, pytest.approx(360))
    assert whole.based_on == "earlier bakes"


def test_the_range_is_narrower_than_the_sum_of_the_extremes() -> None:
    """It is a right-angled sum: not every step is slow in the same bake."""
    found = expected(["mxnet", "seal"])
    likely = 430 + 210
    squares = [200**2, 10**2], [60**2, 40**2, 30**2, 300**2]
    less = math.sqrt(0.15**2 * sum(squares[0]) + 0.3**2 * sum(squares[1]))
    more = math.sqrt(0.2**2 * sum(squares[0]) + 0.5**2 * sum(squares[1]))
    assert found.span.low == pytest.approx(likely - less)
    assert found.span.high == pytest.approx(likely + more)


def test_no_stage_starts_before_a_checkpoint_that_is_due() -> None:
    """conda ends long before drivers, but mxnet starts after the checkpoint of both."""
    times = TIMES | {"mxnet": 350.0}
    past = [Past(PLAN.recipe.name, DIGESTS, times | STEPS)]
    waves = 60 + 100 + 350 + 10
    assert expected(earlier=past).span.likely == pytest.approx(430 + waves)
    unsaved = expected(earlier=past, plan=checkpoints_after(PLAN))
    assert unsaved.span.likely == pytest.approx(430 + 60 + 100 + 300 + 10)
    after_base = expected(earlier=past, plan=checkpoints_after(PLAN, "base"))
    assert after_base.span.likely == unsaved.span.likely


@pytest.mark.parametrize(
    ("reboots", "longest"),
    [
        # As soon as nothing runs, before conda: what needs it can then run beside that.
        ("drivers", 60 + 100 + 300 + 10),
        # conda runs until 110, drivers until 160, and cuda waits for mxnet, which runs until 310.
        ("cuda", 60 + 50 + 200 + 300 + 10),
    ],
)
def test_a_stage_that_may_reboot_runs_alone(reboots: str, longest: float) -> None:
    stages = [
        replace(
            stage,
            script=replace(
                stage.script, reboots="when-required" if stage.name == reboots else "no"
            ),
        )
        for stage in PLAN.stages
    ]
    found = expected(plan=replace(checkpoints_after(PLAN), stages=tuple(stages)))
    assert found.span.likely == pytest.approx(430 + longest)


def test_stages_that_run_first_take_their_time_alone() -> None:
    first = frozenset({"drivers", "cuda"})
    found = expected([name for name in ALL if name != "base"], first=first)
    assert found.span.likely == pytest.approx(430 + 100 + 300 + 50 + 200 + 10)


def test_a_stage_that_does_not_run_takes_no_time() -> None:
    only = expected(["mxnet", "seal"])
    assert set(only.stages) == {"mxnet", "seal"}
    assert only.span.likely == pytest.approx(430 + 210)


def test_a_machine_that_only_seals_is_not_rebooted() -> None:
    assert expected(["seal"]).span.likely == pytest.approx(390 + 10)


def test_the_same_work_counts_more_than_the_same_name() -> None:
    exact = Past("another", DIGESTS, {"cuda": 100.0})
    alike = Past(PLAN.recipe.name, {"cuda": "0" * 64}, {"cuda": 1000.0})
    assert expected(["cuda"], [alike, exact]).stages["cuda"] == Span(85, 100, 120)
    assert expected(["cuda"], [alike]).stages["cuda"] == Span(700, 1000, 1500)


def test_the_images_of_the_same_recipe_count_more_than_others() -> None:
    ours = Past(PLAN.recipe.name, {}, {"cuda": 100.0})
    others = Past("another", {}, {"cuda": 1000.0})
    assert expected(["cuda"], [others, ours]).stages["cuda"] == Span(70, 100, 150)
    assert expected(["cuda"], [others]).stages["cuda"] == Span(700, 1000, 1500)


def test_only_the_latest_times_count() -> None:
    times = [Past(PLAN.recipe.name, DIGESTS, {"cuda": 100.0 + n}) for n in range(5)]
    old = Past(PLAN.recipe.name, DIGESTS, {"cuda": 9000.0})
    latest = expected(["cuda"], [*times, old]).stages["cuda"]
    assert latest == Span(85, 102, pytest.approx(1.2 * 104))


def test_stand_ins_say_nothing_about_the_original_servers() -> None:
    rehearsed = Past(PLAN.recipe.name, {}, {"cuda": 1.0}, payload="stand-in")
    assert expected(["cuda"], [rehearsed]).stages == expected(["cuda"], []).stages
    unknown = Past(PLAN.recipe.name, {}, {"cuda": 100.0}, payload="")
    assert expected(["cuda"], [unknown]).stages["cuda"].likely == 100


def test_before_the_first_bake_the_times_are_typical_ones() -> None:
    found = expected(earlier=[])
    assert found.based_on == "typical times"
    typical = catalog.load().durations["upstream"]["cuda"]
    assert found.stages["cuda"] == Span(typical.low_s, typical.likely_s, typical.high_s)
    assert found.span.high < 3 * found.span.low  # so that it is of use


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("payload", ["upstream", "stand-in"])
def test_each_step_of_each_recipe_has_a_typical_time(recipe: Recipe, payload: str) -> None:
    plan = real_plan(recipe)
    typical = catalog.load().durations[payload]
    for name in (*(stage.name for stage in plan.stages), *forecasts.STEPS):
        fact = typical[name]
        assert 0 < fact.low_s <= fact.likely_s <= fact.high_s, name


def test_each_source_of_a_forecast_is_named() -> None:
    parts = BASE | {"own": (b"", ("base",), {})}
    plan = plan_of(parts)
    known = Past(PLAN.recipe.name, DIGESTS, TIMES | {BUILDER: 60.0, PROOF: 9.0})
    found = expected([*TIMES, "own"], [known], plan=plan)
    said = "earlier bakes; a guess for own; typical times for the reboot, the image"
    assert found.based_on == said
    assert found.stages["own"].high > 10 * found.stages["own"].low


def test_the_cost_is_the_sum_of_the_hours_of_the_machine_and_of_its_disk() -> None:
    found = expected(prices=[0.2, None, 0.6], usd_per_gb_month=0.0)
    assert found.usd_low == pytest.approx(found.span.low / 3600 * 0.2)
    assert found.usd_high == pytest.approx(found.span.high / 3600 * 0.6)
    disk = expected(prices=[0.0], usd_per_gb_month=0.08)
    assert disk.usd_low == pytest.approx(disk.span.low / 3600 * 64 * 0.08 / 730)
    assert expected(usd_per_gb_month=None).usd_high == expected().usd_high


def test_a_machine_that_is_stopped_for_its_image_costs_nothing_meanwhile() -> None:
    exact = {IMAGE: 0.001}  # seconds, so that the image takes no part in the range
    past = [Past(PLAN.recipe.name, DIGESTS, TIMES | STEPS | exact)]
    without = expected(earlier=past)
    found = expected(prices=[1.0], stopped_for_image=True)
    assert found.usd_low == pytest.approx(without.span.low / 3600, rel=1e-3)
    disk = expected(prices=[0.0], usd_per_gb_month=0.08, stopped_for_image=True)
    assert disk.usd_high == pytest.approx(disk.span.high / 3600 * 64 * 0.08 / 730)


@pytest.mark.parametrize("prices", [[], [None, None]])
def test_without_a_price_no_cost_is_shown(prices: list[None]) -> None:
    found = expected(prices=prices)
    assert (found.usd_low, found.usd_high) == (None, None)
    assert found.cost == "price unknown"
    assert found.time == "about 15 min (13 to 18 min)"


def test_a_price_of_zero_is_shown_as_nothing() -> None:
    assert expected(prices=[0.0]).cost == "nothing ($0)"


def test_a_range_that_says_no_more_than_the_likely_time_is_left_out() -> None:
    assert expected_time(Span(95, 120, 140)) == "about 2 min"
    assert expected_time(Span(95, 120, 200)) == "about 2 min (2 to 3 min)"


def test_a_forecast_is_written_in_one_line() -> None:
    assert str(expected(prices=[0.526, 0.752])) == "about 15 min (13 to 18 min), $0.12 to $0.22"


def test_what_is_done_is_not_left_and_what_runs_is_left_in_part() -> None:
    whole = course(PLAN, [Past(PLAN.recipe.name, DIGESTS, TIMES | STEPS)])
    done = {BUILDER, "base", "drivers"}
    after = {PROOF: 30, REBOOT: 40, IMAGE: 300, "seal": 10}
    assert whole.left_s(done, {"cuda": 100.0, "conda": 0.0}) == sum(after.values()) + 200 + 200
    # A step that takes longer than it ever did may end at any moment.
    assert whole.left_s(done, {"cuda": 999.0, "conda": 0.0}) == sum(after.values()) + 250


times = st.dictionaries(st.sampled_from(ALL), st.floats(0, 1e5), max_size=6)
pasts = st.lists(
    st.builds(
        Past,
        st.sampled_from([PLAN.recipe.name, "another"]),
        st.sampled_from([DIGESTS, {}]),
        times,
    ),
    max_size=8,
)
prices = st.lists(st.none() | st.floats(0, 50), max_size=5)


@settings(deadline=None)
@given(st.sets(st.sampled_from(ALL)), pasts, prices, st.none() | st.floats(0, 1), st.booleans())
def test_a_range_is_in_order_and_more_work_never_takes_less_time(
    to_run: set[str],
    earlier: list[Past],
    usd: list[float | None],
    volume: float | None,
    stopped: bool,
) -> None:
    some, whole = (
        expected(names, earlier, usd, usd_per_gb_month=volume, stopped_for_image=stopped)
        for names in (to_run, ALL)
    )
    for found in (some, whole):
        assert 0 <= found.span.low <= found.span.likely <= found.span.high
        assert (found.usd_low is None) == (found.usd_high is None)
        if found.usd_low is not None and found.usd_high is not None:
            assert 0 <= found.usd_low <= found.usd_high
        assert found.based_on
        assert str(found)
    assert some.span.likely <= whole.span.likely


def test_a_plan_of_one_stage_takes_the_time_of_the_stage() -> None:
    parts: Parts = {"only": (b"", (), {})}
    found = expected(["only"], [], plan=plan_of(parts))
    assert found.span.low > 0
