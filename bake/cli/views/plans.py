"""TODO docstring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from textwrap import wrap
from typing import Any

from bake.cli.views.images import image_document
from bake.console.console import Console
from bake.console.format import span
from bake.pipeline.preview import Preview


def show_plans(console: Console, previews: Sequence[Preview]) -> None:
    """What bakes would do, why, and what they take. One document, or a list of several."""
    if console.json:
        documents = [plan_document(preview) for preview in previews]
        console.result(documents[0] if len(documents) == 1 else documents)
        return
    for preview in previews:
        _show_plan(console, preview)


def _show_plan(console: Console, preview: Preview) -> None:
    plan, ground, forecast = preview.plan, preview.job.preflight, preview.forecast
    console.print(
        "",
        f"Recipe   {plan.recipe.name}",
        *(f"         {line}" for line in wrap(plan.recipe.description, 70)),
        f"Base     {ground.base_image.image_id}",
        f"         {ground.base_image.name}",
        *([f"Locked   to what run {plan.lock.run} has installed"] if plan.lock else []),
        f"Digest   {plan.digest}",
        *(f"Image    {change}" for change in preview.changes),
        "",
    )
    console.table(
        ["stage", "state", "why", "takes"],
        [
            [
                stage.name,
                preview.reasons[stage.name].state,
                "\n".join(preview.reasons[stage.name].why) or "-",
                span(*forecast.stages[stage.name]) if stage.name in forecast.stages else "-",
            ]
            for stage in plan.stages
        ],
        empty="No stages.",
    )
    if image := preview.job.image:
        state = "Done" if image.state == "available" else image.state.capitalize()
        console.print("", f"{state:<8} {image.image_id}  {image.name}")
        return
    first, *others = ground.placements
    more = f"         or, in that order, at other places: {len(others)}"
    disk = f"{plan.recipe.builder.disk_gb} GB"
    reboots = [
        stage.name for stage in plan.stages if stage.reboots and stage.name in forecast.stages
    ]
    console.print(
        "",
        f"Starts   from {preview.start or 'the base image'}",
        *([f"Reboots  after {', '.join(reboots)}"] if reboots else []),
        f"Machine  {first}, {disk}, {_price(preview.usd_per_hour.get(first))}",
        *([more] if others else []),
        f"Takes    {forecast.time}",
        f"Costs    {forecast.cost}",
        f"         from {forecast.based_on}",
    )


def plan_document(preview: Preview) -> dict[str, Any]:
    """For `plan --json`."""
    plan, ground, forecast = preview.plan, preview.job.preflight, preview.forecast
    image = preview.job.image
    return {
        "recipe": plan.recipe.model_dump(mode="json"),
        "payload": plan.payload.name,
        "digest": plan.digest,
        "locked": plan.lock.run if plan.lock else None,
        "base_image": asdict(ground.base_image),
        "image": image_document(image) if image else None,
        "start": preview.start or ground.base_image.image_id,
        "changes": list(preview.changes),
        "warnings": [str(warning) for warning in ground.warnings],
        "stages": [
            {
                "name": stage.name,
                "needs": list(stage.needs),
                "reboots": stage.reboots,
                "digest": stage.digest,
                **asdict(preview.reasons[stage.name]),
                "seconds": forecast.stages.get(stage.name),
            }
            for stage in plan.stages
        ],
        "placements": [
            asdict(place) | {"usd_per_hour": preview.usd_per_hour.get(place)}
            for place in ground.placements
        ],
        "forecast": {
            "seconds": [forecast.seconds_low, forecast.seconds_high],
            "usd": None if forecast.usd_low is None else [forecast.usd_low, forecast.usd_high],
            "based_on": forecast.based_on,
        },
    }


def _price(usd_per_hour: float | None) -> str:
    """To a hundredth of a cent, which is what spot prices differ by."""
    if usd_per_hour is None:
        return "price unknown"
    if usd_per_hour == 0:
        return "for nothing"
    digits = 2 if round(usd_per_hour, 2) == round(usd_per_hour, 4) else 4
    return f"${usd_per_hour:.{digits}f} an hour"
