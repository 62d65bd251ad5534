"""The choice of the checkpoint from which a bake starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bake.aws.checkpoint import (
    Checkpoint,
)
from bake.pipeline.checkpoints import best, usable
from bake.plan.plan import Plan, Stage
from bake.plan.script import Script
from bake.recipe import recipes
from bake.recipe.payload import UPSTREAM
from bake.recipe.project import built_in
from bake.recipe.resolved import resolve
from tests.support.environment import REPOSITORY

MANIFESTS = REPOSITORY / "manifests"
RECIPE = recipes.find("mxnet-cu101", built_in())
NOW = datetime(2026, 11, 21, 6, 30, tzinfo=UTC)
STAGES = {"base": "b" * 64, "conda": "c" * 64}


def a_plan(digests: Mapping[str, str], needs: Mapping[str, Sequence[str]] | None = None) -> Plan:
    """Return a plan of these stages, and `seal`, which needs all of them."""
    wanted = {name: tuple((needs or {}).get(name, ())) for name in digests}
    wanted["seal"] = tuple(digests)
    stages = tuple(
        Stage(Script(name, "", below, (), b""), {}, below, digests.get(name, "5" * 64))
        for name, below in wanted.items()
    )
    return Plan(resolve(RECIPE), UPSTREAM, "ami-1", stages, b"", "d" * 64)


def a_checkpoint(stages: Mapping[str, str] = STAGES, **more: Any) -> Checkpoint:
    fields: dict[str, Any] = {
        "snapshot_id": "snap-1",
        "state": "completed",
        "progress": "100%",
        "size_gb": 64,
        "started_at": NOW - timedelta(days=1),
        "expires_at": NOW + timedelta(days=29),
        "recipe": "mxnet-cu101",
        "run_id": "r",
        "stages": stages,
        "seconds": {},
        "sound": True,
        **more,
    }
    return Checkpoint(**fields)


PLAN = a_plan({**STAGES, "mxnet": "e" * 64}, {"conda": ["base"], "mxnet": ["conda"]})


@pytest.mark.parametrize(
    ("checkpoint", "says"),
    [
        (a_checkpoint(), True),
        (a_checkpoint(state="pending"), True),
        (a_checkpoint({**STAGES, "mxnet": "e" * 64}), True),
        (a_checkpoint(recipe="another"), True),
        (a_checkpoint(expires_at=None), True),
        (a_checkpoint({}), False),
        (a_checkpoint(sound=False), False),
        (a_checkpoint(state="error"), False),
        (a_checkpoint(state="recoverable"), False),
        (a_checkpoint(expires_at=NOW), False),
        (a_checkpoint({**STAGES, "conda": "0" * 64}), False),
        (a_checkpoint({**STAGES, "cuda": "f" * 64}), False),
        (a_checkpoint({"conda": "c" * 64}), False),
        (a_checkpoint({**STAGES, "mxnet": "e" * 64, "seal": "5" * 64}), False),
    ],
)
def test_a_checkpoint_is_usable_if_the_plan_has_all_its_stages(
    checkpoint: Checkpoint, says: bool
) -> None:
    assert usable(checkpoint, PLAN, now=NOW) is says


def test_a_checkpoint_larger_than_the_recipes_disk_is_not_usable() -> None:
    assert best([a_checkpoint(size_gb=65)], PLAN, 64, now=NOW) is None
    assert best([a_checkpoint(size_gb=64)], PLAN, 64, now=NOW)


def test_the_best_checkpoint_saves_the_most_time() -> None:
    digests = {"base": "b" * 64, "cuda": "d" * 64, "conda": "c" * 64, "mxnet": "e" * 64}
    plan = a_plan(digests, {"cuda": ["base"], "conda": ["base"], "mxnet": ["conda"]})
    few = a_checkpoint({n: digests[n] for n in ("base", "cuda")}, snapshot_id="few")
    many = a_checkpoint({n: digests[n] for n in ("base", "conda", "mxnet")}, snapshot_id="many")
    assert best([few, many], plan, 64, now=NOW) == many
    few = replace(few, seconds={"base": 10, "cuda": 600})
    assert best([few, many], plan, 64, now=NOW) == many, "not all times are known"
    many = replace(many, seconds={"conda": 60, "mxnet": 90})
    assert best([few, many], plan, 64, now=NOW) == few


def test_of_equal_checkpoints_a_completed_and_then_a_new_one_is_best() -> None:
    pending = a_checkpoint(state="pending", started_at=NOW)
    old, new = a_checkpoint(), a_checkpoint(started_at=NOW - timedelta(hours=1))
    assert best([pending, old], PLAN, 64, now=NOW) == old
    assert best([old, new], PLAN, 64, now=NOW) == new


NAMES = ("a", "b", "c", "d", "e")


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    names = NAMES[: draw(st.integers(1, len(NAMES)))]
    needs = {n: draw(st.sets(st.sampled_from(names[:i]))) if i else () for i, n in enumerate(names)}
    return a_plan({name: f"digest-{name}" for name in names}, {n: sorted(needs[n]) for n in names})


POSSIBLE = st.builds(
    a_checkpoint,
    st.dictionaries(
        st.sampled_from((*NAMES, "seal", "x")),
        st.booleans(),
        max_size=6,
    ).map(lambda found: {n: f"digest-{n}" if good else "other" for n, good in found.items()}),
    seconds=st.dictionaries(st.sampled_from(NAMES), st.floats(0, 1e6)),
    state=st.sampled_from(["pending", "completed", "completed", "error"]),
    size_gb=st.sampled_from([8, 64, 65]),
    sound=st.sampled_from([True, True, False]),
    started_at=st.integers(0, 50).map(lambda days: NOW - timedelta(days=days)),
    expires_at=st.sampled_from([None, NOW - timedelta(1), NOW + timedelta(1)]),
)


@given(plans(), st.lists(POSSIBLE, max_size=8))
def test_the_best_checkpoint_is_usable_and_no_other_contains_more(
    plan: Plan, found: list[Checkpoint]
) -> None:
    found = [replace(c, snapshot_id=f"snap-{number}") for number, c in enumerate(found)]
    able = [c for c in found if usable(c, plan, now=NOW) and c.size_gb <= 64]
    chosen = best(found, plan, 64, now=NOW)
    assert (chosen is None) == (not able)
    if chosen is None:
        return
    stages = {stage.name: stage for stage in plan.stages}
    assert chosen in able
    assert chosen.sound
    assert chosen.expires_at is None or chosen.expires_at > NOW
    assert all(stages[name].digest == digest for name, digest in chosen.stages.items())
    assert all(need in chosen.stages for name in chosen.stages for need in stages[name].needs)
    for other in able:
        assert not other.stages.keys() > chosen.stages.keys()
        if other.stages == chosen.stages:
            assert (other.state == "completed") <= (chosen.state == "completed")
            if other.state == chosen.state:
                assert other.started_at <= chosen.started_at
    if not any(c.seconds for c in able):
        assert len(chosen.stages) == max(len(c.stages) for c in able)
    # One that turned out bad is left out, until there is none.
    rest = [c for c in found if c.snapshot_id != chosen.snapshot_id]
    again = best(rest, plan, 64, now=NOW)
    assert again != chosen
    assert (again is None) == (len(able) == 1)
