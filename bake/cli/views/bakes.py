"""Outcomes of bakes and rebuilds, and locks: tables, lines and JSON documents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bake.cli.views.images import proved
from bake.console.console import Console
from bake.console.format import duration
from bake.errors import error_document
from bake.pipeline.bake import Outcome
from bake.pipeline.rebuild import RecipeReport
from bake.plan.lock import Lock

KINDS = {"apt": "apt packages", "conda": "conda packages", "pip": "wheels", "files": "files"}


def show_outcome(console: Console, outcome: Outcome, launch: str) -> None:
    """Show the image of one bake; `launch` is the command that starts machines from images."""
    image = outcome.image
    if image is None:
        console.result(outcome_document(outcome))
        return
    console.gap()
    console.result(
        outcome_document(outcome),
        f"Image    {image.image_id}  {image.name}",
        f"Proved   {proved(image)}",
        f"Launch   {launch} --ami {image.image_id}",
    )


def show_locks(console: Console, locks: Sequence[tuple[Path, Lock]]) -> None:
    """Show which locks were written, from which runs, and how much each one pins."""
    documents, lines = [], []
    for path, lock in locks:
        counts = {kind: sum(len(getattr(s, kind)) for s in lock.stages.values()) for kind in KINDS}
        documents.append({"path": str(path), "run": lock.run, "payload": lock.payload, **counts})
        pinned = ", ".join(f"{count} {KINDS[kind]}" for kind, count in counts.items() if count)
        lines += [f"{path}: from run {lock.run} ({lock.payload})", f"  {pinned}"]
    console.result(documents, *lines)


def show_outcomes(console: Console, outcomes: Sequence[Outcome]) -> None:
    """Show the failures in full, then a table with a row for each recipe."""
    show_failures(console, outcomes)
    console.gap()
    console.result([outcome_document(outcome) for outcome in outcomes])
    console.table(
        ["recipe", "what", "image", "proved", "time"],
        [
            [
                outcome.recipe,
                outcome.status,
                outcome.image.image_id if outcome.image else "-",
                proved(outcome.image) if outcome.image else "-",
                duration(outcome.seconds),
            ]
            for outcome in outcomes
        ],
        empty="No recipes.",
        fold=("recipe", "what", "proved"),
    )


def show_reports(console: Console, reports: Sequence[RecipeReport]) -> None:
    """Show the failures of a rebuild, and a table with a row for each recipe."""
    show_problems(console, reports)
    console.gap()
    console.table(
        ["recipe", "what", "image", "time", "cost"],
        [
            [
                each.recipe,
                each.status,
                each.image_id or "-",
                duration(each.seconds) if each.seconds is not None else "-",
                each.cost or "-",
            ]
            for each in reports
        ],
        empty="No recipes.",
        fold=("recipe", "what", "cost"),
    )


def show_problems(console: Console, reports: Sequence[RecipeReport]) -> None:
    """Show the failures of a rebuild, and why recipes were not tried; nothing with `--json`."""
    for each in () if console.json else reports:
        if each.error is not None:
            console.named(each.recipe).failure(each.error)
        for why in each.why if each.status == "not tried" else ():
            console.named(each.recipe).warn(why)


def report_document(report: RecipeReport) -> dict[str, Any]:
    """Return a recipe's part of the JSON document of a rebuild."""
    values = {key: value for key, value in vars(report).items() if key != "error"}
    return values | {"error": error_document(report.error)}


def show_failures(console: Console, outcomes: Sequence[Outcome]) -> None:
    """Show the failures in full; with `--json` they are in the document instead."""
    for outcome in outcomes:
        if outcome.error is not None and not console.json:
            console.named(outcome.recipe).failure(outcome.error)


def outcome_document(outcome: Outcome) -> dict[str, Any]:
    """Return one bake's JSON document. Its `record` is null if nothing had to be baked."""
    image = outcome.image
    return {
        "recipe": outcome.recipe,
        "status": outcome.status,
        "seconds": round(outcome.seconds, 1),
        "image_id": image.image_id if image else None,
        "image_name": image.name if image else None,
        "verified": image.verified if image else None,
        "digest": image.digest if image else None,
        "record": outcome.record.document() if outcome.record else None,
        "error": error_document(outcome.error),
    }
