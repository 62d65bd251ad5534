"""How durations and amounts of money are written."""

from __future__ import annotations

from datetime import timedelta

import pytest

from bake.console.format import (
    duration,
    duration_range,
    money,
    money_if_known,
    money_range,
    rate,
    rounded_duration,
)

MINUTE, HOUR, DAY = 60, 3600, 86400


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (42.4, "42 s"),
        (59.7, "1 min 00 s"),
        (185, "3 min 05 s"),
        (7440, "2 h 04 min"),
    ],
)
def test_a_duration_has_one_or_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0 s"),
        (5, "5 s"),
        (90, "90 s"),
        (15 * MINUTE, "15 min"),
        (90 * MINUTE, "90 min"),
        (6 * HOUR, "6 h"),
        (47.9 * HOUR, "47 h"),
        (3 * DAY, "3 d"),
    ],
)
def test_a_rounded_duration_is_one_number(seconds: float, text: str) -> None:
    assert rounded_duration(seconds) == rounded_duration(timedelta(seconds=seconds)) == text


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (6, 12.4, "6 to 12 s"),
        (8.2, 8.4, "8 s"),
        (40, 99, "40 to 99 s"),
        (40, 150, "1 to 2 min"),
        (1500, 2400, "25 to 40 min"),
        (1500, 1510, "25 min"),
        (5400, 9000, "1.5 to 2.5 h"),
    ],
)
def test_a_range_of_durations_is_in_one_unit(low: float, high: float, text: str) -> None:
    assert duration_range(low, high) == text


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (0.22, 0.349, "$0.22 to $0.35"),
        (0.221, 0.223, "$0.22"),
        (0.001, 0.004, "less than $0.01"),
        (0.001, 0.02, "up to $0.02"),
        (0, 0, "nothing ($0)"),
        (32.77, 1234.5, "$32.77 to $1234.50"),
    ],
)
def test_a_range_of_money_is_in_dollars_and_cents(low: float, high: float, text: str) -> None:
    assert money_range(low, high) == text


@pytest.mark.parametrize(
    ("usd", "text"),
    [(0.526, "0.526"), (0.15784, "0.1578"), (1.0, "1.00"), (113.9328, "113.93"), (0, "0.00")],
)
def test_a_rate_has_the_decimals_by_which_spot_prices_differ(usd: float, text: str) -> None:
    assert rate(usd) == text


@pytest.mark.parametrize(("usd", "text"), [(0, "0.00"), (0.004, "<0.01"), (1.575, "1.57")])
def test_an_amount_is_in_dollars_and_cents(usd: float, text: str) -> None:
    assert money(usd) == money_if_known(usd) == text


def test_an_unknown_amount_is_a_question_mark() -> None:
    assert money_if_known(None) == "?"
