"""Plans of bakes: lines and tables, and JSON documents."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from bake.cli.documents.document import FailedRecipe
from bake.cli.documents.plans import PlanDocument, PlanEntry
from bake.console.console import Console
from bake.console.format import rate
from bake.pipeline.bake import Outcome
from bake.pipeline.preview import Preview
from bake.plan.forecast import reboots_before_proof
from bake.plan.plan import Plan

_TYPICAL = "         (typical times are estimates; your own bakes replace them)"


def show_plans(
    console: Console, previews: Sequence[Preview], failures: Sequence[Outcome] = ()
) -> None:
    """Show what bakes would do, why, and what they take."""
    plans = tuple(PlanEntry.of_preview(preview) for preview in previews)
    failed = tuple(FailedRecipe.of_recipe(each.recipe, each.error) for each in failures)
    console.result(PlanDocument(plans=plans, failed=failed))
    for preview in previews:
        _show_plan(console, preview)


def _show_plan(console: Console, preview: Preview) -> None:
    plan, forecast = preview.plan, preview.forecast
    base_image = preview.job.preflight.base_image
    console.gap()
    console.print(
        f"Recipe   {plan.recipe.name}",
        *([f"         {plan.recipe.description}"] if plan.recipe.description else []),
        f"Base     {base_image.image_id}",
        f"         {base_image.name}",
        *([f"Locked   to the versions of run {plan.lock.run}"] if plan.lock else []),
        f"Digest   {plan.digest}",
        *([f"Checks   {', '.join(check.name for check in plan.checks)}"] if plan.checks else []),
        *(f"Image    {change}" for change in preview.changes),
        *(f"Replaces the built-in stage {name}" for name in _replaced(plan)),
        "",
    )
    rows = []
    for stage in plan.stages:
        reason, takes = preview.reasons[stage.name], forecast.stages.get(stage.name)
        why = "\n".join(reason.why) or "-"
        rows.append([stage.name, reason.state, why, str(takes) if takes else "-"])
    columns = ["stage", "state", "why", "takes"]
    console.table(columns, rows, empty="No stages.", fold=("why", "takes"))
    if image := preview.job.image:
        state = "Done" if image.state == "available" else image.state.capitalize()
        console.print("", f"{state:<8} {image.image_id}  {image.name}")
    else:
        console.print("", *_expected(preview))


def _replaced(plan: Plan) -> list[str]:
    """Return the built-in stages whose place the project's own ones take."""
    return [stage.name for stage in plan.stages if stage.script.replaces_built_in]


def _expected(preview: Preview) -> list[str]:
    """Return lines on where and how the bake would run, and what it would take."""
    plan, forecast = preview.plan, preview.forecast
    reboots = _reboots(plan, forecast.stages)
    first, *others = preview.job.preflight.placements
    disk = f"{plan.recipe.builder.disk_gb} GB"
    more = f"         or, if that is not possible, {len(others)} more in order of preference"
    return [
        f"Starts   from {preview.start or 'the base image'}",
        *(["Reboots  " + ", ".join(reboots)] if reboots else []),
        f"Machine  {first}, {disk}, {_price(preview.usd_per_hour.get(first))}",
        *([more] if others else []),
        f"Takes    {forecast.time}",
        f"Costs    {forecast.cost}",
        f"         from {forecast.based_on}",
        *([_TYPICAL] if "typical times" in forecast.based_on else []),
    ]


def _reboots(plan: Plan, to_run: Collection[str]) -> list[str]:
    """Return the points at which the machine is rebooted, or may be."""
    points = {"yes": "after {}", "when-required": "after {} if required"}
    return [
        *(
            points[stage.script.reboots].format(stage.name)
            for stage in plan.stages
            if stage.may_reboot and stage.name in to_run
        ),
        *(["before the proof"] if reboots_before_proof(plan, to_run) else []),
    ]


def _price(usd_per_hour: float | None) -> str:
    if usd_per_hour is None:
        return "price unknown"
    return f"${rate(usd_per_hour)} an hour" if usd_per_hour else "free"
