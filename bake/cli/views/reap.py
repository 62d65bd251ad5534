"""TODO docstring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from textwrap import wrap
from typing import Any

from bake.console.console import Console
from bake.console.format import in_short
from bake.errors import error_document
from bake.pipeline.reaping import Reaped


def show_reaped(console: Console, reaped: Sequence[Reaped], command: str) -> None:
    """What there is in each region and what came of it; `command` is what removes it."""
    console.result([document(each) for each in reaped])
    if console.json:
        return
    several = len(reaped) > 1
    for each in reaped:
        if several and each.remains:
            console.print("", each.region)
        if each.remains:
            console.table(
                ["what", "recipe", "why", "age", "USD/month"], _rows(each), empty="Nothing."
            )
        if each.error:
            (console.named(each.region) if several else console).failure(each.error)
    if not any(each.remains or each.error for each in reaped):
        console.note("Runs have left nothing behind here.")
    elif any(each.remains and each.removals is None for each in reaped):
        console.print("", f"Nothing was removed. Remove it: {command}")


def _rows(reaped: Reaped) -> list[list[str]]:
    rows = []
    for each in reaped.remains:
        usd = reaped.usd[each]
        rows.append(
            [
                "\n".join([each.kind, *wrap(each.id, 22)]),
                "\n".join(wrap(each.recipe, 12)),
                "\n".join(wrap(each.why, 22)),
                in_short(reaped.at - each.made_at) if each.made_at else "?",
                "?" if usd is None else f"{usd:.2f}" if usd else "-",
            ]
        )
    return rows


def document(reaped: Reaped) -> dict[str, Any]:
    """For `reap --json`; `state` is found, removed or left."""
    left = {r.orphan: r.leftover for r in reaped.removals or ()}
    return {
        "region": reaped.region,
        "error": error_document(reaped.error),
        "remains": [
            asdict(each)
            | {
                "usd_per_month_at_most": reaped.usd[each],
                "state": "found" if each not in left else "left" if left[each] else "removed",
                "command": each.command,
            }
            for each in reaped.remains
        ],
    }
