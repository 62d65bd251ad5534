from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bake.plan.forecast import BUILDER, IMAGE, PROOF, REBOOT, Forecast, Past, forecast
from bake.plan.plan import Plan
from tests.support.plans import BASE, Parts, plan_of

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
    assert (found.seconds_low, found.seconds_high, found.usd_low, found.usd_high) == (0, 0, 0, 0)
    assert str(found) == "no time, nothing ($0)"


def test_stages_that_do_not_need_each_other_run_at_the_same_time() -> None:
    whole = expected()
    steps = (0.7 * 430, 1.5 * 430)
    longest = TIMES["base"] + TIMES["drivers"] + TIMES["cuda"] + TIMES["seal"]
    assert whole.seconds_low == pytest.approx(steps[0] + 0.85 * longest)
    assert whole.seconds_high == pytest.approx(steps[1] + 1.2 * longest)
    assert whole.stages["cuda"] == pytest.approx((255, 360))
    assert whole.based_on == "earlier bakes"


@pytest.mark.parametrize(
    ("reboots", "longest"),
    [
        # As soon as nothing runs, before conda: what needs it can then run beside that.
        ("drivers", 60 + 100 + 300 + 10),
        # conda runs until 110, drivers until 160, and cuda waits for mxnet, which runs until 360.
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
    found = expected(plan=replace(PLAN, stages=tuple(stages)))
    assert found.seconds_low == pytest.approx(0.7 * 430 + 0.85 * longest)


def test_a_stage_that_does_not_run_takes_no_time() -> None:
    only = expected(["mxnet", "seal"])
    assert set(only.stages) == {"mxnet", "seal"}
    assert only.seconds_low == pytest.approx(0.7 * 430 + 0.85 * 210)


def test_a_machine_that_only_seals_is_not_rebooted() -> None:
    assert expected(["seal"]).seconds_low == pytest.approx(0.7 * 390 + 0.85 * 10)


def test_the_same_work_counts_more_than_the_same_name() -> None:
    exact = Past("another", DIGESTS, {"cuda": 100.0})
    alike = Past(PLAN.recipe.name, {"cuda": "0" * 64}, {"cuda": 1000.0})
    assert expected(["cuda"], [alike, exact]).stages["cuda"] == pytest.approx((85, 120))
    assert expected(["cuda"], [alike]).stages["cuda"] == pytest.approx((700, 1500))


def test_the_images_of_the_same_recipe_count_more_than_others() -> None:
    ours = Past(PLAN.recipe.name, {}, {"cuda": 100.0})
    others = Past("another", {}, {"cuda": 1000.0})
    assert expected(["cuda"], [others, ours]).stages["cuda"] == pytest.approx((70, 150))
    assert expected(["cuda"], [others]).stages["cuda"] == pytest.approx((700, 1500))


def test_only_the_latest_times_count() -> None:
    times = [Past(PLAN.recipe.name, DIGESTS, {"cuda": 100.0 + n}) for n in range(5)]
    old = Past(PLAN.recipe.name, DIGESTS, {"cuda": 9000.0})
    assert expected(["cuda"], [*times, old]).stages["cuda"] == pytest.approx((85, 1.2 * 104))


def test_a_guess_is_marked_as_a_guess() -> None:
    assert expected(earlier=[]).based_on.startswith("a guess, because no earlier bake")
    known = Past(PLAN.recipe.name, DIGESTS, {n: s for n, s in TIMES.items() if n != "cuda"})
    some = expected(earlier=[known])
    said = (
        "earlier bakes, and a guess for cuda, the machine's start, the reboot, the proof, the image"
    )
    assert some.based_on == said
    assert some.stages["cuda"][1] > 10 * some.stages["cuda"][0]


def test_the_cost_is_the_sum_of_the_hours_of_the_machine_and_of_its_disk() -> None:
    found = expected(prices=[0.2, None, 0.6], usd_per_gb_month=0.0)
    assert found.usd_low == pytest.approx(found.seconds_low / 3600 * 0.2)
    assert found.usd_high == pytest.approx(found.seconds_high / 3600 * 0.6)
    disk = expected(prices=[0.0], usd_per_gb_month=0.08)
    assert disk.usd_low == pytest.approx(disk.seconds_low / 3600 * 64 * 0.08 / 730)
    assert expected(usd_per_gb_month=None).usd_high == expected().usd_high


def test_a_machine_that_is_stopped_for_its_image_costs_nothing_meanwhile() -> None:
    found = expected(prices=[1.0], stopped_for_image=True)
    assert found.usd_low == pytest.approx((found.seconds_low - 0.7 * 300) / 3600)
    disk = expected(prices=[0.0], usd_per_gb_month=0.08, stopped_for_image=True)
    assert disk.usd_high == pytest.approx(disk.seconds_high / 3600 * 64 * 0.08 / 730)


@pytest.mark.parametrize("prices", [[], [None, None]])
def test_without_a_price_no_cost_is_shown(prices: list[None]) -> None:
    found = expected(prices=prices)
    assert (found.usd_low, found.usd_high) == (None, None)
    assert found.cost == "price unknown"
    assert found.time == "about 12 to 20 min"


def test_a_price_of_zero_is_shown_as_nothing() -> None:
    assert expected(prices=[0.0]).cost == "nothing ($0)"


def test_a_forecast_is_written_in_one_line() -> None:
    assert str(expected(prices=[0.526, 0.752])) == "about 12 to 20 min, $0.10 to $0.25"


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
        assert 0 <= found.seconds_low <= found.seconds_high
        assert (found.usd_low is None) == (found.usd_high is None)
        if found.usd_low is not None and found.usd_high is not None:
            assert 0 <= found.usd_low <= found.usd_high
        assert found.based_on
        assert str(found)
    assert some.seconds_low <= whole.seconds_low
    assert some.seconds_high <= whole.seconds_high
    ends = sum(each[1] for each in whole.stages.values())
    assert whole.seconds_high <= ends + 1380


def test_a_plan_of_one_stage_takes_the_time_of_the_stage() -> None:
    parts: Parts = {"only": (b"", (), {})}
    found = expected(["only"], [], plan=plan_of(parts))
    assert found.seconds_low > 0
