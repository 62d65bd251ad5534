"""Tags: their contents, and EC2's limits."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from bake.aws.tags import Run, new_run, parse_time, read, rfc3339, specifications
from bake.errors import RecipeError

START = datetime(2026, 11, 21, 6, 30, tzinfo=UTC)


def run(**tags: str) -> Run:
    return new_run("mxnet-cu101", lifetime=timedelta(hours=4), tags=tags, now=START)


def test_a_temporary_resource_has_run_recipe_and_expiry_tags() -> None:
    one = run(team="vision")
    assert one.temporary() == {
        "Name": f"bake-{one.id}",
        "bake:run": one.id,
        "bake:recipe": "mxnet-cu101",
        "bake:expires": "2026-11-21T10:30:00Z",
        "team": "vision",
    }


def test_an_image_has_tags_for_its_stages_and_never_expires() -> None:
    one = run()
    tags = one.finished(
        name="bake/mxnet-cu101/x",
        digest="d1",
        stages={"base": "s1", "cuda": "s2"},
        verified="gpu",
        payload="upstream",
    )
    assert tags == {
        "Name": "bake/mxnet-cu101/x",
        "bake:run": one.id,
        "bake:recipe": "mxnet-cu101",
        "bake:digest": "d1",
        "bake:stage:base": "s1",
        "bake:stage:cuda": "s2",
        "bake:verified": "gpu",
        "bake:payload": "upstream",
    }


def test_a_machine_that_stays_has_its_own_name_and_no_expiry() -> None:
    tags = new_run("mxnet-cu101").lasting("notebook")
    assert tags["Name"] == "notebook"
    assert "bake:expires" not in tags


def test_a_temporary_resource_needs_an_expiry_time() -> None:
    with pytest.raises(ValueError, match="no expiry time"):
        new_run("mxnet-cu101").temporary()


def test_ids_sort_by_time_and_two_runs_of_one_second_differ() -> None:
    first, second = run(), run()
    assert first.id != second.id
    assert first.id.startswith("20261121-063000-")


def test_a_recipes_tags_do_not_replace_those_of_bake() -> None:
    assert run(Name="x").lasting("notebook")["Name"] == "notebook"


def test_all_invalid_tags_are_reported_at_once() -> None:
    tags = {"aws:mine": "1", "BAKE:run": "2", "k" * 129: "3", "long": "v" * 257}
    with pytest.raises(RecipeError) as caught:
        run(**tags).temporary()
    places = [finding.place for finding in caught.value.findings]
    assert places == ["tags.aws:mine", "tags.BAKE:run", f"tags.{'k' * 129}", "tags.long"]


def test_more_than_fifty_tags_are_refused() -> None:
    ours = len(run().temporary())
    assert len(run(**{f"t{n}": "" for n in range(50 - ours)}).temporary()) == 50
    with pytest.raises(RecipeError) as caught:
        run(**{f"t{n}": "" for n in range(51 - ours)}).temporary()
    assert "Remove at least 1" in caught.value.findings[0].hint


def test_each_resource_of_a_creating_call_gets_the_same_tags() -> None:
    assert specifications({"a": "1"}, "instance", "volume") == [
        {"ResourceType": "instance", "Tags": [{"Key": "a", "Value": "1"}]},
        {"ResourceType": "volume", "Tags": [{"Key": "a", "Value": "1"}]},
    ]
    assert read([{"Key": "a", "Value": "1"}]) == {"a": "1"}
    assert read(None) == {}


def test_times_are_in_utc_whatever_the_clock_of_this_computer() -> None:
    tokyo = START.astimezone(timezone(timedelta(hours=9)))
    assert rfc3339(tokyo) == "2026-11-21T06:30:00Z"
    assert parse_time("2026-11-21T06:30:00Z") == START
    assert parse_time("2026-11-21T06:30:00.000Z") == START


def test_an_invalid_time_is_none() -> None:
    assert parse_time("never") is None
    assert parse_time("") is None
