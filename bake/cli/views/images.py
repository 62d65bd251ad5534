"""Images, machines and plans as people read them, and as documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from bake import catalog
from bake.aws.checkpoint import Checkpoint
from bake.aws.image import Image
from bake.aws.machine import Machine
from bake.console.console import Console, duration
from bake.errors import BakeError
from bake.images.retention import Removal, Verdict
from bake.machine import cost as in_usd
from bake.machine import fit, lifetime
from bake.machine.cost import Cost
from bake.plan.forecast import span

if TYPE_CHECKING:
    from pathlib import Path

    from bake.images.copies import Copied
    from bake.pipeline.bake import Outcome
    from bake.pipeline.preview import Preview
    from bake.pipeline.rebuild import Report
    from bake.plan.lock import Lock

# From here on there is room for what else a person may want to know.
_WIDE = 120
KINDS = {"apt": "apt packages", "conda": "conda packages", "pip": "wheels", "files": "files"}


def show_images(
    console: Console,
    images: Sequence[Image],
    now: datetime | None = None,
    usd_per_gb_month: float | None = None,
) -> None:
    """`now` is AWS's time: their ages are by it. `usd_per_gb_month` is a snapshot's, or None."""
    now = now or datetime.now(UTC)
    columns = ["image", "recipe", "in it", "proved", "GB", "$/month", "age"]
    rows = [
        [
            image.image_id,
            image.recipe,
            "\n".join(_inside(image)) or "-",
            (_proved(image) if image.state == "available" else image.state).replace(", ", ",\n"),
            str(image.size_gb),
            "?" if usd_per_gb_month is None else f"{image.size_gb * usd_per_gb_month:.2f}",
            in_short(now - image.created_at),
        ]
        for image in images
    ]
    if console.width >= _WIDE:
        columns.append("name")
        for row, image in zip(rows, images, strict=True):
            row.append(image.name)
    console.table(
        columns,
        folded(columns, rows, 1, console.width),
        empty="You have no images here. Make one: invoke bake --cuda 10.1",
        right=("GB", "$/month"),
    )
    if console.json:
        console.result(
            [
                image_document(image)
                | {"usd_per_month_at_most": _at_most(image.size_gb, usd_per_gb_month)}
                for image in images
            ]
        )
    elif images:
        console.note("$/month is the most that it can be: EBS bills only the blocks in use.")


def _inside(image: Image) -> list[str]:
    """CUDA and the framework, as far as its tags say."""
    inside = fit.contents(catalog.load(), image.tags, image.architecture)
    cuda = [f"CUDA {inside.cuda.version}"] if inside.cuda else []
    return cuda + ([f"{inside.build.name} {inside.build.version}"] if inside.build else [])


def _at_most(size_gb: int, usd_per_gb_month: float | None) -> float | None:
    return None if usd_per_gb_month is None else round(size_gb * usd_per_gb_month, 2)


def folded(
    columns: Sequence[str], rows: Sequence[list[str]], column: int, width: int
) -> list[list[str]]:
    """With one column in several lines where there is no room, so that the others stay whole."""
    room = max(room_for(columns, rows, column, width), 8)
    return [[*row[:column], "\n".join(wrap(row[column], room)), *row[column + 1 :]] for row in rows]


def room_for(columns: Sequence[str], rows: Sequence[Sequence[str]], column: int, width: int) -> int:
    """What the others leave of the width to a column; two blanks stand between each."""
    taken = 0
    for number, cells in enumerate(zip(columns, *rows, strict=True)):
        if number != column:
            taken += 2 + max(len(line) for cell in cells for line in cell.split("\n"))
    return width - taken


def show_copies(console: Console, outcomes: Sequence[Copied]) -> None:
    """What came of each region; before that the failures, each whole."""
    for each in outcomes:
        if each.error is not None and not console.json:
            (console.named(each.region) if len(outcomes) > 1 else console).failure(each.error)
    console.result([copy_document(each) for each in outcomes], "")
    console.table(
        ["region", "what", "image", "time"],
        [
            [
                each.region,
                each.status,
                each.image.image_id if each.image else "-",
                duration(each.seconds),
            ]
            for each in outcomes
        ],
        empty="Nothing was asked for.",
    )


def copy_document(copied: Copied) -> dict[str, Any]:
    return {
        "region": copied.region,
        "status": copied.status,
        "seconds": round(copied.seconds, 1),
        "image_id": copied.image.image_id if copied.image else None,
        "image_name": copied.image.name if copied.image else None,
        "error": error_document(copied.error),
    }


def show_verdicts(
    console: Console,
    verdicts: Sequence[Verdict],
    removals: Sequence[Removal] | None,
    usd_per_gb_month: float | None,
) -> None:
    """What may go and what is kept; before that, whole, what AWS would not remove.

    `removals` is None where nothing was to be removed yet.
    """
    removed = {removal.image.image_id: removal for removal in removals or ()}
    for removal in removals or ():
        if removal.error is not None and not console.json:
            console.failure(removal.error)
    rows, documents = [], []
    for verdict in verdicts:
        image = verdict.image
        error = removed[image.image_id].error if image.image_id in removed else None
        what = "kept" if verdict.why else "goes" if removals is None else "removed"
        what = "not removed" if error else what
        why = verdict.why or (error.message if error else "")
        usd = None if usd_per_gb_month is None else round(image.size_gb * usd_per_gb_month, 2)
        cost = "?" if usd is None else f"{usd:.2f}"
        rows.append(
            [
                image.image_id,
                "\n".join(wrap(image.recipe, 12)),
                in_short(datetime.now(UTC) - image.created_at),
                cost,
                f"{what}: {why}" if why else what,
            ]
        )
        documents.append(
            image_document(image) | {"what": what, "why": why, "usd_per_month_at_most": usd}
        )
    going = [verdict.image.size_gb for verdict in verdicts if not verdict.why]
    console.table(
        ["image", "recipe", "age", "USD/month", "what"],
        rows,
        empty="There are no finished images here.",
    )
    console.result(documents)
    if going:
        rate = usd_per_gb_month
        money = "" if rate is None else f" and ${sum(going) * rate:.2f} a month"
        which = f"{len(going)} image{'s' if len(going) > 1 else ''}"
        console.note(f"{which}: at most {sum(going)} GB{money}. EBS bills only blocks in use.")
        if removals is None:
            console.note("Nothing was removed. To remove them, add --yes.")


def show_outcome(console: Console, outcome: Outcome, launch: str) -> None:
    """What came of one bake; `launch` is the command that starts machines here."""
    image = outcome.image
    if image is None:
        return
    console.result(
        outcome_document(outcome),
        "",
        f"Image    {image.image_id}  {image.name}",
        f"Proved   {_proved(image)}",
        f"Launch   {launch} --ami {image.image_id}",
    )


def show_locks(console: Console, locks: Sequence[tuple[Path, Lock]]) -> None:
    documents, lines = [], []
    for path, lock in locks:
        counts = {kind: sum(len(getattr(s, kind)) for s in lock.stages.values()) for kind in KINDS}
        documents.append({"path": str(path), "run": lock.run, "payload": lock.payload, **counts})
        said = ", ".join(f"{count} {KINDS[kind]}" for kind, count in counts.items() if count)
        lines += [f"{path}: of run {lock.run} ({lock.payload})", f"  {said}"]
    console.result(documents, *lines)


def show_outcomes(console: Console, outcomes: Sequence[Outcome]) -> None:
    """What each recipe got; before that the failures, each whole."""
    show_failures(console, outcomes)
    console.result([outcome_document(outcome) for outcome in outcomes], "")
    console.table(
        ["recipe", "what", "image", "proved", "time"],
        [
            [
                outcome.recipe,
                outcome.status,
                outcome.image.image_id if outcome.image else "-",
                _proved(outcome.image) if outcome.image else "-",
                duration(outcome.seconds),
            ]
            for outcome in outcomes
        ],
        empty="Nothing was asked for.",
    )


def show_reports(console: Console, reports: Sequence[Report]) -> None:
    """What came of a rebuild."""
    if not console.json:
        for each in reports:
            if each.error is not None:
                console.named(each.recipe).failure(each.error)
            for why in each.why if each.status == "not tried" else ():
                console.named(each.recipe).warn(why)
    console.result([report_document(each) for each in reports], "")
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
        empty="There are no recipes.",
    )


def report_document(report: Report) -> dict[str, Any]:
    values = {key: value for key, value in vars(report).items() if key != "error"}
    return values | {"error": error_document(report.error)}


def error_document(error: BakeError | None) -> dict[str, Any] | None:
    if error is None:
        return None
    return {"type": type(error).__name__, "message": error.message, "hint": error.hint}


def show_failures(console: Console, outcomes: Sequence[Outcome]) -> None:
    for outcome in outcomes:
        if outcome.error is not None and not console.json:
            console.named(outcome.recipe).failure(outcome.error)


def outcome_document(outcome: Outcome) -> dict[str, Any]:
    """`record` is what a bake has written of itself; null where nothing had to be baked."""
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


def show_checkpoints(
    console: Console,
    checkpoints: Sequence[Checkpoint],
    usd_per_gb_month: float | None,
    now: datetime,
    recipe: str | None = None,
) -> None:
    """`usd_per_gb_month` is what a snapshot costs; None where that is not known."""
    # Folded here, at blanks and hyphens, so that the ids stay in one piece on 80 columns.
    console.table(
        ["checkpoint", "recipe", "holds", "age", "expires", "USD/month"],
        [
            [
                checkpoint.snapshot_id,
                "\n".join(wrap(checkpoint.recipe, 12)),
                "\n".join(line for part in _contents(checkpoint) for line in wrap(part, 14)),
                in_short(now - checkpoint.started_at),
                _expires(checkpoint, now),
                _cost(checkpoint, usd_per_gb_month),
            ]
            for checkpoint in checkpoints
        ],
        empty=f"You have no checkpoints {f'of {recipe} ' if recipe else ''}here. "
        "A bake makes them, and removes them in time",
    )
    if console.json:
        console.result([checkpoint_document(c, usd_per_gb_month) for c in checkpoints])
    elif checkpoints:
        console.note(
            "USD/month is the most that it can be, for a full disk: EBS bills only the blocks "
            "that an older snapshot does not hold."
        )


def checkpoint_document(
    checkpoint: Checkpoint, usd_per_gb_month: float | None = None
) -> dict[str, Any]:
    usd = None if usd_per_gb_month is None else round(checkpoint.size_gb * usd_per_gb_month, 2)
    return asdict(checkpoint) | {"usd_per_month_at_most": usd}


def image_document(image: Image) -> dict[str, Any]:
    derived = {"recipe": image.recipe, "verified": image.verified, "payload": image.payload}
    return asdict(image) | derived


def machine_document(
    machine: Machine, cost: Cost | None = None, now: datetime | None = None
) -> dict[str, Any]:
    """With what it costs, and the seconds that it has left, where these were asked for."""
    left = lifetime.left(machine, now) if now else None
    return (
        asdict(machine)
        | {"recipe": machine.recipe}
        | in_usd.document(cost)
        | ({"seconds_left": None if left is None else round(left.total_seconds())} if now else {})
    )


def _proved(image: Image) -> str:
    return image.verified + (", stand-in" if image.payload == "stand-in" else "")


def _contents(checkpoint: Checkpoint) -> tuple[str, str]:
    """The stages in the order in which they ran, as far as that is known; and what is wrong."""
    names = [name for name in checkpoint.seconds if name in checkpoint.stages]
    names += sorted(checkpoint.stages.keys() - set(names))
    wrong = "" if checkpoint.sound else "(tags changed by hand)"
    if checkpoint.state != "completed":
        progress = checkpoint.progress if checkpoint.state == "pending" else ""
        wrong = f"({checkpoint.state} {progress}".rstrip() + ")"
    return " ".join(names), wrong


def _expires(checkpoint: Checkpoint, now: datetime) -> str:
    if checkpoint.expires_at is None:
        return "never"
    return "now" if checkpoint.has_expired(now) else in_short(checkpoint.expires_at - now)


def _cost(checkpoint: Checkpoint, usd_per_gb_month: float | None) -> str:
    if usd_per_gb_month is None:
        return "?"
    return f"{checkpoint.size_gb * usd_per_gb_month:.2f}"


def in_short(time: timedelta) -> str:
    """`3 min`, `5 h`, `12 d`: one number is enough for what lives for weeks."""
    minutes = max(0, round(time.total_seconds() / 60))
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 48 * 60 else f"{minutes // (24 * 60)} d"


def _age(moment: datetime, now: datetime | None) -> str:
    return duration(((now or datetime.now(UTC)) - moment).total_seconds())


def show_plans(console: Console, previews: Sequence[Preview]) -> None:
    """What bakes would do, why, and what they take. One document, or a list of several."""
    if console.json:
        documents = [plan_document(preview) for preview in previews]
        console.result(documents[0] if len(documents) == 1 else documents)
        return
    for preview in previews:
        _show_plan(console, preview)


def _show_plan(console: Console, preview: Preview) -> None:
    plan, ground, forecast = preview.plan, preview.job.ground, preview.forecast
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
    plan, ground, forecast = preview.plan, preview.job.ground, preview.forecast
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
