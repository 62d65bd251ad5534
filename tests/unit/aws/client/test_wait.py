"""Waiting: pauses, timeouts and outages."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import partial

import pytest

from bake.aws.client.wait import HOUR, MINUTE, Clock, poll, wait_until
from bake.errors import CloudError, ImageError
from bake.threads import together


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


def test_a_result_at_once_takes_no_pause(time: Time) -> None:
    assert poll(lambda: "here", timeout_s=HOUR, clock=time.clock) == "here"
    assert time.pauses == []


def test_pauses_start_short_and_stay_a_small_part_of_the_wait(time: Time) -> None:
    assert poll(lambda: None, timeout_s=6 * HOUR, clock=time.clock) is None
    assert time.passed == 6 * HOUR
    assert time.pauses[0] == 0.2
    assert max(time.pauses) < 0.06 * 6 * HOUR
    assert len(time.pauses) < 300


def test_fifty_threads_that_wait_stay_below_ec2s_request_limit() -> None:
    times, asked = [Time() for _ in range(50)], [0] * 50
    in_step = threading.Barrier(50)

    def wait(number: int) -> None:
        def probe() -> None:
            in_step.wait(20)
            asked[number] += 1

        def sleep(seconds: float) -> None:
            times[number].sleep(seconds)

        poll(probe, timeout_s=10, clock=Clock(lambda: times[number].passed, sleep))

    together(*(partial(wait, number) for number in range(50)))
    # Non-mutating calls: 100 at once, 20 more each second (Developer Guide, "Request throttling").
    assert 50 < sum(asked) <= 100 + 20 * 10
    assert poll(lambda: None, timeout_s=1, clock=times[0].clock) is None
    assert times[0].pauses[-1] < 0.3, "alone again"


def test_a_timeout_of_zero_probes_once(time: Time) -> None:
    assert poll(lambda: None, timeout_s=0, clock=time.clock) is None
    assert time.pauses == []


def test_a_timeout_raises_the_given_error(time: Time) -> None:
    with pytest.raises(ImageError, match=r"it is still pending after 15 min"):
        wait_until(
            lambda: None,
            what="it is still pending",
            timeout_s=15 * MINUTE,
            clock=time.clock,
            failure=ImageError,
        )


def test_an_outage_is_tolerated_for_five_minutes(time: Time) -> None:
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


def test_another_error_is_raised_at_once(time: Time) -> None:
    def probe() -> None:
        raise CloudError("no", code="UnauthorizedOperation")

    with pytest.raises(CloudError, match="no"):
        poll(probe, timeout_s=HOUR, clock=time.clock)
    assert time.pauses == []


def test_an_outage_at_the_timeout_is_raised(time: Time) -> None:
    def probe() -> None:
        raise CloudError("unreachable", code="EndpointConnectionError")

    for timeout_s in (0, MINUTE):
        with pytest.raises(CloudError, match="unreachable"):
            poll(probe, timeout_s=timeout_s, clock=time.clock)
