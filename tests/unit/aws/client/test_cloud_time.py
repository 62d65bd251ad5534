"""AWS's time counts, whatever the clock of this computer shows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace

import pytest

from bake.aws.client.cloud_time import CloudTime
from bake.errors import CloudError
from tests.support.aws_in_process import Aws, aws_in_process
from tests.support.cloud_clock import put_wrong

HOURS = timedelta(hours=2)
SECOND = timedelta(seconds=1)


@pytest.fixture
def aws() -> Iterator[Aws]:
    with aws_in_process() as aws:
        yield aws


def answer(moment: datetime | str) -> SimpleNamespace:
    said = moment if isinstance(moment, str) else format_datetime(moment, usegmt=True)
    return SimpleNamespace(headers={"Date": said})


def told(moment: datetime) -> CloudTime:
    clock = CloudTime()
    clock.observe(answer(moment))
    return clock


def test_before_the_first_response_it_is_the_local_time() -> None:
    assert abs(CloudTime().now() - datetime.now(UTC)) < SECOND


@pytest.mark.parametrize("wrong", [HOURS, -HOURS])
def test_after_a_response_it_is_awss_time_and_advances(wrong: timedelta) -> None:
    said = (datetime.now(UTC) + wrong).replace(microsecond=0)
    clock = told(said)
    first = clock.now()
    assert timedelta() <= first - said < SECOND
    time.sleep(0.05)
    assert clock.now() - first >= timedelta(seconds=0.05)


def test_a_slow_response_does_not_set_the_time_back() -> None:
    said = datetime.now(UTC) + HOURS
    clock = told(said)
    clock.observe(answer(said - timedelta(minutes=1)))
    assert clock.now() >= said.replace(microsecond=0)
    clock.observe(
        answer(said + timedelta(minutes=1))
    )  # the computer slept, and its clock stood still
    assert clock.now() >= (said + timedelta(minutes=1)).replace(microsecond=0)


@pytest.mark.parametrize("said", ["", "yesterday", "0", "Sat, 99 Nov 2026 06:30:00 GMT"])
def test_an_invalid_date_is_ignored(said: str) -> None:
    clock = told(datetime.now(UTC) + HOURS)
    clock.observe(answer(said))
    clock.observe(SimpleNamespace(headers={}))
    assert timedelta() <= clock.now() - (datetime.now(UTC) + HOURS - SECOND) < 2 * SECOND


def test_every_response_and_error_sets_the_time_for_all_clients(aws: Aws) -> None:
    put_wrong(aws.cloud.session)(HOURS)
    apart, elsewhere = aws.cloud.separate(), aws.cloud.in_region("eu-west-1")
    with pytest.raises(CloudError):
        elsewhere.ec2("DescribeImages", ImageIds=["ami-0123456789abcdef0"])
    for cloud in (aws.cloud, apart, elsewhere):
        assert abs(cloud.now() - datetime.now(UTC) - HOURS) < 2 * SECOND


def test_another_region_uses_the_same_credentials(aws: Aws) -> None:
    there = aws.cloud.in_region("eu-west-1")
    zones = {
        cloud.region: cloud.ec2("DescribeSubnets")["Subnets"][0]["AvailabilityZone"]
        for cloud in (aws.cloud, there)
    }
    assert zones["eu-west-1"].startswith("eu-west-1")
    assert zones["us-east-1"].startswith("us-east-1")
