"""Recorded failures of a recipe, as the next run reads them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from bake.aws import parameter
from bake.aws.recipe_failures import RecipeFailures, clear_failures, read_failures, record_failure
from bake.aws.tags import new_run
from bake.errors import CloudError
from tests.support.aws_in_process import Aws, aws_in_process

NAME = "/bake/failures/mxnet-cu101"


@pytest.fixture
def aws() -> Iterator[Aws]:
    with aws_in_process() as aws:
        yield aws


def test_no_failure_is_recorded_at_first_and_after_a_success(aws: Aws) -> None:
    assert read_failures(aws.cloud, "mxnet-cu101") == RecipeFailures()
    clear_failures(aws.cloud, "mxnet-cu101")
    record_failure(aws.cloud, aws.run, "a", "no room")
    clear_failures(aws.cloud, "mxnet-cu101")
    assert read_failures(aws.cloud, "mxnet-cu101") == RecipeFailures()


def test_consecutive_failures_are_counted(aws: Aws) -> None:
    begun = datetime.now(UTC) - timedelta(seconds=1)
    first = record_failure(aws.cloud, aws.run, "a", "no room")
    later = new_run("mxnet-cu101")
    record_failure(aws.cloud, later, "a", "stage cuda: é {{x}}")
    noted = read_failures(aws.cloud, "mxnet-cu101")
    assert noted == RecipeFailures(2, "a", first.since, "stage cuda: é {{x}}", later.id)
    assert noted.since
    assert begun <= noted.since <= datetime.now(UTC)
    assert read_failures(aws.cloud, "pytorch-cu126") == RecipeFailures()
    created, refused, overwritten = aws.params("PutParameter")
    assert {"Key": "bake:recipe", "Value": "mxnet-cu101"} in created["Tags"]
    assert "Overwrite" not in refused
    assert overwritten["Overwrite"] is True
    assert "Tags" not in overwritten
    assert "{{" not in overwritten["Value"]  # SSM reserves and refuses this


def test_a_changed_recipe_starts_counting_again(aws: Aws) -> None:
    for _ in range(3):
        record_failure(aws.cloud, aws.run, "a", "no room")
    assert record_failure(aws.cloud, aws.run, "b", "other").count == 1
    assert read_failures(aws.cloud, "mxnet-cu101").reason == "other"


@pytest.mark.parametrize("letter", ["x", "é", "😀", '"', "\n", "{"])
def test_a_long_reason_is_shortened_to_the_limit_of_a_parameter(aws: Aws, letter: str) -> None:
    record_failure(aws.cloud, aws.run, "a", letter * 9000)
    assert 3000 < len(parameter.read(aws.cloud, NAME).value) <= 4096
    noted = read_failures(aws.cloud, "mxnet-cu101")
    assert noted.count == 1
    assert noted.reason.startswith(letter * 300)
    assert noted.reason.endswith(" …")


@pytest.mark.parametrize(
    "value",
    [
        "3",
        "[]",
        "I have looked at it",
        '{"count": "many"}',
        '{"count": 0, "since": "2026-11-21T06:30:00Z"}',
        '{"count": 3, "since": "yesterday"}',
    ],
)
def test_an_invalid_record_counts_as_no_failures(aws: Aws, value: str) -> None:
    parameter.create(aws.cloud, NAME, value, {})
    assert read_failures(aws.cloud, "mxnet-cu101") == RecipeFailures()
    assert record_failure(aws.cloud, aws.run, "a", "no room").count == 1
    assert read_failures(aws.cloud, "mxnet-cu101").count == 1


def test_a_refused_read_is_an_error(aws: Aws) -> None:
    aws.refuse("GetParameter", "AccessDeniedException", "not authorized")
    with pytest.raises(CloudError) as caught:
        read_failures(aws.cloud, "mxnet-cu101")
    assert "ssm:GetParameter" in caught.value.hint
