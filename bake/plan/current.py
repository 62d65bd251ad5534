"""Comparison of an image with what its recipe makes now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from bake.plan.description import Description, Hash, description, is_same, read
from bake.plan.lock import Lock
from bake.plan.plan import Plan, make_plan
from bake.plan.variables import OF_PAYLOAD
from bake.recipe.payload import UPSTREAM
from bake.recipe.project import Project
from bake.recipe.resolved import Resolved


def is_current(
    tags: Mapping[str, str],
    digest: str,
    resolved: Resolved,
    *,
    stand_in: bool,
    project: Project,
    lock: Lock | None = None,
) -> bool:
    """Tell whether the recipe would make an image with these tags, on the same base image.

    The stand-ins' addresses change each time they are started, so an image of them (`stand_in`) is
    compared without the inputs that a payload decides. False if the tags do not describe a plan.
    RequestError if the recipe cannot be planned.
    """
    then = read(tags)
    if then is None:
        return False
    payload = replace(UPSTREAM, name="stand-in") if stand_in else UPSTREAM
    plan = make_plan(
        resolved,
        payload=payload,
        base_image_id=then.base_image_id,
        project=project,
        lock=lock if lock and lock.payload == payload.name else None,
    )
    return _is_alike(then, plan) if stand_in else plan.digest == digest


def _is_alike(then: Description, plan: Plan) -> bool:
    """Tell whether a description is the plan's, except for the inputs of its payload."""
    now = description(plan)
    return (
        (then.lib, then.disk_gb, then.stages.keys(), then.checks.keys())
        == (now.lib, now.disk_gb, now.stages.keys(), now.checks.keys())
        and all(
            (before.script, before.needs, before.files)
            == (now.stages[name].script, now.stages[name].needs, now.stages[name].files)
            for name, before in then.stages.items()
        )
        and all(before.script == now.checks[name].script for name, before in then.checks.items())
        and all(
            _has_inputs(then.stages[stage.name].inputs, now.stages[stage.name].inputs, stage.inputs)
            for stage in plan.stages
        )
        and all(
            _has_inputs(then.checks[check.name].inputs, now.checks[check.name].inputs, check.inputs)
            for check in plan.checks
        )
    )


def _has_inputs(
    before: Mapping[str, str | Hash], now: Mapping[str, str | Hash], values: Mapping[str, str]
) -> bool:
    """Tell whether described inputs have these values, except for those of the payload."""
    return before.keys() == values.keys() and all(
        is_same(value, values[key]) or value == now[key]
        for key, value in before.items()
        if key not in OF_PAYLOAD
    )
