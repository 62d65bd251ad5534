"""Orphaned resources and their removal: tables and JSON documents."""

from __future__ import annotations

from collections.abc import Sequence

from bake.cli.documents.reap import ReapDocument, ReapedRegionEntry
from bake.console.console import Console
from bake.console.format import money_if_known, rounded_duration
from bake.pipeline.reaping import Reaped


def show_reaped(console: Console, reaped: Sequence[Reaped], command: str) -> None:
    """Show the orphaned resources of each region, and any failure; `command` removes them."""
    entries = (ReapedRegionEntry.of_reaped(each) for each in reaped)
    console.result(ReapDocument(regions=tuple(entries)))
    if console.json:
        return
    several = len(reaped) > 1
    for each in reaped:
        if several and each.remains:
            console.gap()
            console.print(each.region)
        if each.remains:
            console.table(
                ["id", "what", "recipe", "why", "age", "$/month"],
                _rows(each),
                empty="Nothing.",
                fold=("what", "recipe", "why"),
            )
        if each.error:
            (console.named(each.region) if several else console).failure(each.error)
    if not any(each.remains or each.error for each in reaped):
        console.note("No orphaned resources found.")
    elif any(each.remains and each.removals is None for each in reaped):
        console.note(f"Nothing was removed. To remove them: {command}")


def _rows(reaped: Reaped) -> list[list[str]]:
    rows = []
    for each in reaped.remains:
        usd = reaped.usd[each]
        rows.append(
            [
                each.id,
                each.kind,
                each.recipe,
                each.why,
                rounded_duration(reaped.at - each.made_at) if each.made_at else "?",
                "-" if usd == 0 else money_if_known(usd),
            ]
        )
    return rows
