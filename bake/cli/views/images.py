"""Images, machines and plans as people read them, and as documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from textwrap import wrap
from typing import Any

from bake import catalog
from bake.aws.image import Image
from bake.console.console import Console, folded
from bake.console.format import duration, in_short
from bake.errors import error_document
from bake.images.copies import Copied
from bake.images.retention import ImageRemoval, Verdict
from bake.machine import fit

# From here on there is room for what else a person may want to know.
_WIDE = 120


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
    removals: Sequence[ImageRemoval] | None,
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


def image_document(image: Image) -> dict[str, Any]:
    derived = {"recipe": image.recipe, "verified": image.verified, "payload": image.payload}
    return asdict(image) | derived


def _proved(image: Image) -> str:
    return image.verified + (", stand-in" if image.payload == "stand-in" else "")


def _age(moment: datetime, now: datetime | None) -> str:
    return duration(((now or datetime.now(UTC)) - moment).total_seconds())
