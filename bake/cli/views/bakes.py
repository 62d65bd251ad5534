"""Outcomes of bakes and rebuilds, and locks: tables, lines and JSON documents."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bake.aws.image import Image
from bake.cli.documents.bakes import (
    BakeDocument,
    BakeEntry,
    MatrixPart,
    RebuildDocument,
    RebuildEntry,
)
from bake.cli.documents.recipes import LockDocument, LockEntry
from bake.cli.views.images import proved
from bake.console.console import Console
from bake.console.format import duration, money_range
from bake.pipeline.bake import Outcome
from bake.pipeline.rebuild import RecipeReport
from bake.plan.lock import Lock
from bake.record import Record
from bake.record.cost import total_usd

KINDS = {"apt": "apt packages", "conda": "conda packages", "pip": "wheels", "files": "files"}


def show_outcome(console: Console, outcome: Outcome, builds: Path, launch: str) -> None:
    """Show the image of one bake; `launch` is the command that starts machines from images."""
    image, document = outcome.image, _document([outcome], builds)
    if image is None:
        console.result(document)
        return
    console.gap()
    console.result(
        document,
        f"Image    {image.image_id}  {image.name}",
        f"Proved   {_proof(outcome, image)}",
        *(_effort(outcome, outcome.record) if outcome.record else []),
        f"Launch   {launch} --ami {image.image_id}",
    )


def _proof(outcome: Outcome, image: Image) -> str:
    """Return in words what was proved, with the number of checks if it was proved now."""
    checks = outcome.record.checks if outcome.record else ()
    counts = Counter(check.outcome for check in checks if check.part == "proof")
    words = {"gpu": "on a GPU", "cpu": "on a CPU only", "no": "nothing, or not enough"}
    text = words.get(image.verified, "unknown")
    if image.payload == "stand-in":
        text += ", with stand-ins"
    if counts:
        skipped = f", {counts['skipped']} skipped" if counts["skipped"] else ""
        plural = "" if counts["passed"] == 1 else "s"
        text += f": {counts['passed']} check{plural} passed{skipped}"
    if image.verified == "cpu":
        text += ". Nothing that needs a GPU was tested"
    return text


def _effort(outcome: Outcome, record: Record) -> list[str]:
    """Return how long the bake took and, if the prices are known, what it cost."""
    usd = total_usd(record)
    cost = [] if usd is None else [f"Cost     {money_range(usd, usd)}"]
    return [f"Took     {duration(outcome.seconds)}", *cost]


def show_locks(console: Console, locks: Sequence[tuple[Path, Lock]]) -> None:
    """Show which locks were written, from which runs, and how much each one pins."""
    entries, lines = [], []
    for path, lock in locks:
        counts = {kind: sum(len(getattr(s, kind)) for s in lock.stages.values()) for kind in KINDS}
        entries.append(
            LockEntry(
                recipe=lock.recipe,
                path=path,
                run_id=lock.run,
                payload=lock.payload,
                apt_package_count=counts["apt"],
                conda_package_count=counts["conda"],
                wheel_count=counts["pip"],
                file_count=counts["files"],
            )
        )
        pinned = ", ".join(f"{count} {KINDS[kind]}" for kind, count in counts.items() if count)
        lines += [f"{path}: from run {lock.run} ({lock.payload})", f"  {pinned}"]
    console.result(LockDocument(locks=tuple(entries)), *lines)


def show_outcomes(console: Console, outcomes: Sequence[Outcome], builds: Path) -> None:
    """Show the failures in full, then a table with a row for each recipe."""
    show_failures(console, outcomes)
    console.gap()
    console.result(_document(outcomes, builds))
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
                "-" if each.usd is None else money_range(each.usd, each.usd),
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


def rebuild_document(reports: Sequence[RecipeReport], matrix: str | None = None) -> RebuildDocument:
    """Return the document of a rebuild. `matrix` is the one for GitHub Actions, as JSON."""
    return RebuildDocument(
        recipes=tuple(RebuildEntry.of_report(report) for report in reports),
        matrix=None if matrix is None else MatrixPart.model_validate_json(matrix),
    )


def show_failures(console: Console, outcomes: Sequence[Outcome]) -> None:
    """Show the failures in full; with `--json` they are in the document instead."""
    for outcome in outcomes:
        if outcome.error is not None and not console.json:
            console.named(outcome.recipe).failure(outcome.error)


def _document(outcomes: Sequence[Outcome], builds: Path) -> BakeDocument:
    return BakeDocument(bakes=tuple(BakeEntry.of_outcome(each, builds) for each in outcomes))
