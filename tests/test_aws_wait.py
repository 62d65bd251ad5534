"""Waiting by the clock."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from bake.aws.wait import HOUR, MINUTE, Clock, duration, poll, wait_until
from bake.errors import CloudError, ImageError


@dataclass
class Time:
    passed: float = 0
    pauses: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.passed += seconds

    @property
    def clock(self) -> Clock:
        return Clock(now=lambda: self.passed, sleep=self.sleep)


@pytest.fixture
def time() -> Time:
    return Time()


def test_what_is_there_already_is_not_waited_for(time: Time) -> None:
    assert poll(lambda: "here", timeout_s=HOUR, clock=time.clock) == "here"
    assert time.pauses == []


def test_the_pauses_begin_short_and_stay_a_small_part_of_the_whole(time: Time) -> None:
    assert poll(lambda: None, timeout_s=6 * HOUR, clock=time.clock) is None
    assert time.passed == 6 * HOUR
    assert time.pauses[0] == 0.2
    assert max(time.pauses) < 0.06 * 6 * HOUR
    assert len(time.pauses) < 250


def test_a_limit_of_nothing_asks_once(time: Time) -> None:
    assert poll(lambda: None, timeout_s=0, clock=time.clock) is None
    assert time.pauses == []


def test_what_must_come_and_does_not_is_an_error_of_its_kind(time: Time) -> None:
    with pytest.raises(ImageError, match=r"it is pending, and that has not ended after 15 min"):
        wait_until(
            lambda: None,
            what="it is pending",
            timeout_s=15 * MINUTE,
            clock=time.clock,
            failure=ImageError,
        )


def test_an_outage_is_sat_out_for_minutes_and_no_longer(time: Time) -> None:
    def probe() -> str | None:
        if time.passed < 4 * MINUTE:
            raise CloudError("unreachable", code="EndpointConnectionError")
        return "here"

    assert poll(probe, timeout_s=HOUR, clock=time.clock) == "here"

    def never() -> None:
        raise CloudError("unreachable", code="EndpointConnectionError")

    before = time.passed
    with pytest.raises(CloudError, match="unreachable"):
        poll(never, timeout_s=HOUR, clock=time.clock)
    assert 5 * MINUTE <= time.passed - before < 6 * MINUTE


def test_a_refusal_is_not_waited_for(time: Time) -> None:
    def probe() -> None:
        raise CloudError("no", code="UnauthorizedOperation")

    with pytest.raises(CloudError, match="no"):
        poll(probe, timeout_s=HOUR, clock=time.clock)
    assert time.pauses == []


def test_durations_are_said_as_people_say_them() -> None:
    said = [duration(seconds) for seconds in (5, 90, 15 * MINUTE, 90 * MINUTE, 6 * HOUR)]
    assert said == ["5 s", "90 s", "15 min", "90 min", "6 h"]
